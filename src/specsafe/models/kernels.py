"""A forward pass of the Llama family as compiled loops in which every sum has one order.

All is float32; matrices may lie in memory as bfloat16 and are widened as they are read. A product adds the inputs of an
output one after another, whatever stands beside it, and a query adds its own slots of the cache one after another. So no
bit depends on how many rows or sequences a pass has: the loops run side by side over rows and outputs, never along a sum.
Multiply-adds are fused where they are asked for by name, and nothing may be reordered.

All of it is one file because numba compiles again only what stands in a file that has changed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from llvmlite import binding, ir
from numba import njit, prange, types
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray

if TYPE_CHECKING:
    from specsafe.models.compiled import Place, Weights

Floats = NDArray[np.float32]

PANEL = 32
"""Numbers that a product makes side by side: outputs of a matrix, slots of the cache, numbers of a head."""
_LANES = 16
_ROWS = 6  # rows that a product reads side by side
# The sums of six rows fill the registers of AVX2 with half a panel, those of AVX-512 with a whole one.
_HALVES = ((0, 1),) if binding.get_host_cpu_features().get("avx512f") else ((0,), (1,))

# Divisions as processors do them: a check for zero before each would keep loops from being vectors.
_loop = njit(cache=True, error_model="numpy")
_side_by_side = njit(cache=True, error_model="numpy", parallel=True)

_F32, _I32 = ir.FloatType(), ir.IntType(32)
_FLOATS, _INTS = ir.VectorType(_F32, _LANES), ir.VectorType(_I32, _LANES)


def _plain(array: Any) -> bool:
    """Whether numbers of an array lie as they are read here: float32, one after the other."""
    return bool(array.dtype == types.float32 and array.layout == "C")


def _constant(kind: Any, value: float) -> Any:
    return ir.Constant(kind, [value] * _LANES)


def _load(build: Any, pointer: Any, kind: Any) -> Any:
    value = build.load(build.bitcast(pointer, kind.as_pointer()))
    value.align = 4
    return value


def _store(build: Any, vector: Any, pointer: Any) -> None:
    build.store(vector, build.bitcast(pointer, vector.type.as_pointer())).align = 4


def _spread(build: Any, value: Any) -> Any:
    """One float in all lanes."""
    undefined = ir.Constant(_FLOATS, ir.Undefined)
    one = build.insert_element(undefined, value, ir.Constant(_I32, 0))
    return build.shuffle_vector(one, undefined, _constant(_INTS, 0))


def _fma(build: Any, a: Any, b: Any, c: Any) -> Any:
    """Of a, b, c: a * b + c, rounded once."""
    kind = ir.FunctionType(_FLOATS, [_FLOATS] * 3)
    return build.call(cgutils.get_or_insert_function(build.module, kind, "llvm.fma.v16f32"), [a, b, c])


def _half(build: Any, pointer: Any, half: int, narrow: bool) -> Any:
    """Half of the PANEL weights at a pointer. Of bfloat16 pair i holds outputs i and i + 16: upper halves of float32."""
    if not narrow:
        return _load(build, build.gep(pointer, [ir.Constant(_I32, half * _LANES)]), _FLOATS)
    pairs = _load(build, pointer, _INTS)
    bits = build.and_(pairs, _constant(_INTS, 0xFFFF0000)) if half else build.shl(pairs, _constant(_INTS, 16))
    return build.bitcast(bits, _FLOATS)


@intrinsic
def _sums(_context: Any, w: Any, stride: Any, x: Any, first: Any, rows: Any, inputs: Any, out: Any) -> Any:
    """out[r, c] = sum over i < inputs of x[first + r, i] * w[i * stride + c], for r < rows and c < PANEL; at most _ROWS rows."""
    narrow = w.dtype == types.uint16
    if not (narrow or w.dtype == types.float32) or not _plain(x) or not _plain(out):
        return None  # numba then says that there is no such function

    def generate(context: Any, build: Any, sig: Any, args: Any) -> Any:
        weights, values, sums = (context.make_array(sig.args[i])(context, build, args[i]) for i in (0, 2, 6))
        step, begin, count, length = args[1], args[3], args[4], args[5]
        row = cgutils.unpack_tuple(build, values.shape)[1]

        def columns(height: int, halves: tuple[int, ...]) -> None:
            offsets = [build.mul(build.add(begin, ir.Constant(row.type, r)), row) for r in range(height)]
            starts = [build.gep(values.data, [offset]) for offset in offsets]
            held = {
                (r, h): cgutils.alloca_once_value(build, _constant(_FLOATS, 0.0))
                for r in range(height)
                for h in halves
            }
            with cgutils.for_range(build, length) as loop:
                pointer = build.gep(weights.data, [build.mul(loop.index, step)])
                read = {h: _half(build, pointer, h, narrow) for h in halves}
                for r, start in enumerate(starts):
                    value = _spread(build, build.load(build.gep(start, [loop.index])))
                    for h in halves:
                        build.store(_fma(build, read[h], value, build.load(held[r, h])), held[r, h])
            for (r, h), total in held.items():
                _store(
                    build,
                    build.load(total),
                    build.gep(sums.data, [ir.Constant(_I32, r * PANEL + h * _LANES)]),
                )

        for height in range(1, _ROWS + 1):
            with build.if_then(build.icmp_signed("==", count, ir.Constant(count.type, height))):
                for halves in ((0, 1),) if height * 2 <= _ROWS else _HALVES:
                    columns(height, halves)
        return context.get_dummy_value()

    return types.void(w, types.int64, x, types.int64, types.int64, types.int64, out), generate


def _folded(start: float, one: Any, two: Any) -> Any:
    """A sum or the like over a vector, in an order that its length alone decides: lanes side by side, then those, then the rest.

    one(build, total, x): a number taken in; two(build, a, b): two totals made one. Both of vectors or of single numbers.
    """

    @intrinsic
    def folded(_context: Any, x: Any) -> Any:
        if not _plain(x):
            return None

        def generate(context: Any, build: Any, sig: Any, args: Any) -> Any:
            array = context.make_array(sig.args[0])(context, build, args[0])
            (count,) = cgutils.unpack_tuple(build, array.shape)
            lanes = ir.Constant(count.type, _LANES)
            total = cgutils.alloca_once_value(build, _constant(_FLOATS, start))
            steps = build.sdiv(count, lanes)
            with cgutils.for_range(build, steps) as loop:
                part = _load(build, build.gep(array.data, [build.mul(loop.index, lanes)]), _FLOATS)
                build.store(one(build, build.load(total), part), total)
            vector, width = build.load(total), _LANES
            while width > 1:
                width //= 2
                order = ir.Constant(_INTS, [(lane + width) % _LANES for lane in range(_LANES)])
                moved = build.shuffle_vector(vector, ir.Constant(_FLOATS, ir.Undefined), order)
                vector = two(build, vector, moved)
            end = cgutils.alloca_once_value(build, build.extract_element(vector, ir.Constant(_I32, 0)))
            rest = build.mul(steps, lanes), count, ir.Constant(count.type, 1)
            with cgutils.for_range_slice(build, *rest) as (at, _):
                build.store(one(build, build.load(end), build.load(build.gep(array.data, [at]))), end)
            return build.load(end)

        return types.float32(x), generate

    return folded


def _larger(build: Any, a: Any, b: Any) -> Any:
    return build.select(build.fcmp_ordered(">", b, a), b, a)


_sum = _folded(0.0, lambda build, total, x: build.fadd(total, x), lambda build, a, b: build.fadd(a, b))
_squares = _folded(
    0.0, lambda build, total, x: build.fadd(total, build.fmul(x, x)), lambda build, a, b: build.fadd(a, b)
)
_largest = _folded(-np.inf, _larger, _larger)


@intrinsic
def _multiply_add(_context: Any, a: Any, b: Any, c: Any) -> Any:
    """Of a, b, c: a * b + c, rounded once."""

    def generate(_context: Any, build: Any, _sig: Any, args: Any) -> Any:
        kind = ir.FunctionType(_F32, [_F32] * 3)
        return build.call(cgutils.get_or_insert_function(build.module, kind, "llvm.fma.f32"), args)

    return types.float32(types.float32, types.float32, types.float32), generate


@intrinsic
def _power_of_two(_context: Any, n: Any) -> Any:
    """2^n for -126 <= n <= 127, from its bits."""

    def generate(_context: Any, build: Any, _sig: Any, args: Any) -> Any:
        bits = build.shl(build.add(args[0], ir.Constant(_I32, 127)), ir.Constant(_I32, 23))
        return build.bitcast(bits, _F32)

    return types.float32(types.int32), generate


_LOWEST, _HIGHEST, _ENDLESS = np.float32(-87), np.float32(88), np.float32(np.inf)
_LOG2_E, _LN_2, _LN_2_REST = (
    np.float32(1.4426950408889634),
    np.float32(0.693359375),
    np.float32(-2.12194440e-4),
)
_SERIES = tuple(np.float32(1 / n) for n in (720, 120, 24, 6, 2, 1, 1))


@_loop
def _exp(x: np.float32) -> np.float32:
    """e^x: 2^n e^r, |r| <= ln(2)/2, by its series; 0 below -87 and infinity above 88.

    A library's would be called number by number; this one compiles into the loops.
    """
    inside = _LOWEST if x < _LOWEST else x
    inside = _HIGHEST if inside > _HIGHEST else inside
    n = np.floor(_multiply_add(inside, _LOG2_E, np.float32(0.5)))
    r = _multiply_add(-n, _LN_2_REST, _multiply_add(-n, _LN_2, inside))
    y = np.float32(1 / 5040)
    for factor in _SERIES:
        y = _multiply_add(y, r, factor)
    y = y * _power_of_two(np.int32(n))
    y = np.float32(0) if x < _LOWEST else y
    y = _ENDLESS if x > _HIGHEST else y
    return x if np.isnan(x) else y


@_side_by_side
def product(weight: NDArray[Any], bias: Floats, x: Floats, out: Floats, add: bool) -> None:
    """Rows x [R, inputs] @ weight + bias [outputs] -> out [R, outputs], or added to what is there."""
    count, outputs = out.shape
    inputs = x.shape[1]
    for p in prange(weight.shape[0]):
        sums = np.empty((_ROWS, PANEL), np.float32)
        begin = p * PANEL
        wide = min(PANEL, outputs - begin)
        for first in range(0, count, _ROWS):
            rows = min(_ROWS, count - first)
            _sums(weight[p], PANEL, x, first, rows, inputs, sums)
            for r in range(rows):
                for c in range(wide):
                    total = sums[r, c] + bias[begin + c]
                    out[first + r, begin + c] = out[first + r, begin + c] + total if add else total


@_loop
def _scale(x: Floats, weight: Floats, eps: np.float32, out: Floats) -> None:
    """Root mean square norm of one vector: x / sqrt(mean(x^2) + eps) * weight."""
    scale = np.float32(1) / np.sqrt(_squares(x) / np.float32(x.shape[0]) + eps)
    for i in range(x.shape[0]):
        out[i] = x[i] * scale * weight[i]


@_side_by_side
def normed(x: Floats, weight: Floats, eps: np.float32, out: Floats) -> None:
    """The norm of every row [R, H] -> out."""
    for r in prange(x.shape[0]):
        _scale(x[r], weight, eps, out[r])


@_loop
def _turn(head: Floats, norm: Floats, eps: np.float32, cos: Floats, sin: Floats, spare: Floats) -> None:
    """A query or key [D], normed where there are numbers for that, turned to its position, in place."""
    size = head.shape[0]
    half = size // 2
    if norm.shape[0]:
        _scale(head, norm, eps, head)
    for i in range(size):
        spare[i] = head[i]
    for i in range(half):  # the sign of the swapped half lies in sin
        head[i] = spare[i] * cos[i] + spare[i + half] * sin[i]
        head[i + half] = spare[i + half] * cos[i + half] + spare[i] * sin[i + half]


@_side_by_side
def _turn_and_keep(w: Weights, layer: int, qkv: Floats, place: Place, keys: Floats, values: Floats) -> None:
    """Turn the queries and keys of rows qkv [R, (heads + 2 kv_heads) D], and put keys and values into the cache."""
    kv_heads, size = keys.shape[1], keys.shape[3]
    heads = qkv.shape[1] // size - 2 * kv_heads
    for r in prange(qkv.shape[0]):
        spare = np.empty(size, np.float32)
        sequence = r // place.width
        at = place.lengths[sequence] + r % place.width
        turn = min(at, w.cos.shape[0] - 1)  # drafts may reach beyond the last position
        row = place.first + sequence
        for h in range(heads):
            _turn(qkv[r, h * size : (h + 1) * size], w.q_norm[layer], w.eps, w.cos[turn], w.sin[turn], spare)
        for g in range(kv_heads):
            key = qkv[r, (heads + g) * size : (heads + g + 1) * size]
            _turn(key, w.k_norm[layer], w.eps, w.cos[turn], w.sin[turn], spare)
            value = qkv[r, (heads + kv_heads + g) * size : (heads + kv_heads + g + 1) * size]
            for i in range(size):
                keys[row, g, at // PANEL, i, at % PANEL] = key[i]
                values[row, g, at, i] = value[i]


@_loop
def _softmax(scores: Floats) -> np.float32:
    """exp(scores - max), in place -> their sum."""
    top = _largest(scores)
    for j in range(scores.shape[0]):
        scores[j] = _exp(scores[j] - top)
    return _sum(scores)


@_side_by_side
def _attend(qkv: Floats, place: Place, keys: Floats, values: Floats, out: Floats) -> None:
    """softmax(q k' / sqrt(D)) v of every query over the slots of its sequence up to its own -> out [R, heads * D]."""
    kv_heads, size = keys.shape[1], keys.shape[3]
    group = out.shape[1] // size // kv_heads
    scale = np.float32(1 / np.sqrt(size))
    tasks = qkv.shape[0] * kv_heads
    for task in prange(tasks):
        # rows at the end of a text see more than those at its beginning: one of either to each thread, by turns
        turn = task // 2 if task % 2 == 0 else tasks - 1 - task // 2
        r, g = turn // kv_heads, turn % kv_heads
        row = place.first + r // place.width
        seen = place.lengths[r // place.width] + r % place.width + 1
        queries = qkv[r, g * group * size : (g + 1) * group * size].reshape(group, size)
        sums, scores = np.empty((_ROWS, PANEL), np.float32), np.empty((group, seen), np.float32)
        total = np.empty(group, np.float32)
        for first in range(0, group, _ROWS):
            rows = min(_ROWS, group - first)
            for begin in range(0, seen, PANEL):
                _sums(keys[row, g, begin // PANEL], PANEL, queries, first, rows, size, sums)
                for h in range(rows):
                    for c in range(min(PANEL, seen - begin)):
                        scores[first + h, begin + c] = sums[h, c] * scale
            for h in range(first, first + rows):
                total[h] = _softmax(scores[h])
            for begin in range(0, size, PANEL):
                _sums(values[row, g, :, begin:], values.shape[3], scores, first, rows, seen, sums)
                for h in range(rows):
                    begins = (g * group + first + h) * size + begin
                    for c in range(min(PANEL, size - begin)):
                        out[r, begins + c] = sums[h, c] / total[first + h]


@_side_by_side
def _gated(both: Floats, out: Floats) -> None:
    """silu(gate) * up for rows [R, 2 I], gates first -> out [R, I]."""
    size = out.shape[1]
    for r in prange(both.shape[0]):
        for i in range(size):
            gate = both[r, i]
            out[r, i] = gate / (np.float32(1) + _exp(-gate)) * both[r, size + i]


@_loop
def layers(
    w: Weights,
    keep: NDArray[np.int64],
    x: Floats,
    place: Place,
    keys: Floats,
    values: Floats,
    push: Floats,
    pushed_from: int,
) -> None:
    """Rows x [R, H] through some layers, in place; they become the next tokens of their sequences in the cache.

    keys [L, rows, kv_heads, slots / PANEL, D, PANEL]; values [L, rows, kv_heads, slots, D, to whole panels]: of `keep`
    in its order. push [sequences, H] is added after the layers from pushed_from on.
    """
    count, hidden = x.shape
    h = np.empty_like(x)
    qkv = np.empty((count, w.qkv_bias.shape[1]), np.float32)
    attended = np.empty((count, qkv.shape[1] - 2 * keys.shape[2] * keys.shape[4]), np.float32)
    both = np.empty((count, w.gate_up_bias.shape[1]), np.float32)
    up = np.empty((count, both.shape[1] // 2), np.float32)
    for index in range(keep.shape[0]):
        n = keep[index]
        normed(x, w.norm[n], w.eps, h)
        product(w.qkv[n], w.qkv_bias[n], h, qkv, False)
        _turn_and_keep(w, n, qkv, place, keys[index], values[index])
        _attend(qkv, place, keys[index], values[index], attended)
        product(w.o[n], w.o_bias[n], attended, x, True)
        normed(x, w.mlp_norm[n], w.eps, h)
        product(w.gate_up[n], w.gate_up_bias[n], h, both, False)
        _gated(both, up)
        product(w.down[n], w.down_bias[n], up, x, True)
        if index >= pushed_from:
            for r in range(count):
                for i in range(hidden):
                    x[r, i] += push[r // place.width, i]
