"""The networks of the Llama family on a processor: weights in panels, passes through the compiled loops of kernels.py.

A process that has run a pass must not fork and run another in the child: GNU OpenMP ends it there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from threading import Lock
from typing import Any, NamedTuple

import llvmlite
import numba
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad

from specsafe.models import kernels
from specsafe.models.cache import SlotCache
from specsafe.models.checkpoint import Checkpoint
from specsafe.models.kernels import PANEL, Floats
from specsafe.models.network import LlamaNetwork, Push, rotary_tables

_HALF = PANEL // 2


class Weights(NamedTuple):
    """Of all layers, L first; matrices in panels [L, P, inputs, PANEL], float32 or bfloat16 (as uint16, see array_of).

    What a network lacks has no numbers: norms of queries and keys [L, 0]; biases are zeros.
    """

    norm: Floats
    qkv: NDArray[Any]
    qkv_bias: Floats
    q_norm: Floats
    k_norm: Floats
    o: NDArray[Any]
    o_bias: Floats
    mlp_norm: Floats
    gate_up: NDArray[Any]
    gate_up_bias: Floats
    down: NDArray[Any]
    down_bias: Floats
    cos: Floats  # [positions, D]
    sin: Floats
    eps: np.float32


class Place(NamedTuple):
    """Where the rows of a pass stand: `width` of each sequence, from its length on; sequences are cache rows first.."""

    first: int
    width: int
    lengths: NDArray[np.int64]


class PanelCache(SlotCache):
    """Keys of PANEL slots side by side: [layers, rows, kv_heads, room / PANEL, D, PANEL]; values padded to whole panels."""

    per_index = (PANEL, 1)

    def blank(self, room: int, like: Tensor) -> tuple[Tensor, Tensor]:
        """See SlotCache.blank."""
        *rows, size = self.shape
        keys = like.new_zeros((*rows, room // PANEL, size, PANEL))
        return keys, like.new_zeros((*rows, room, -(-size // PANEL) * PANEL))


class CompiledNetwork(LlamaNetwork):
    """Weights of the family in main memory; see Network. All that is made of them is float32, and no bit depends on neighbours."""

    tiles = (1,)
    library = f"numba {numba.__version__} (llvmlite {llvmlite.__version__})"

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.architecture = a = checkpoint.architecture
        tensors, self.device, self.computes = checkpoint.tensors, torch.device("cpu"), torch.float32
        self.invariant, self.tile = False, 1
        self.vocabulary, self.context, self.layers = a.vocab_size, a.max_positions, a.layers
        self._keep = np.arange(a.layers)
        embed = tensors["embed_tokens.weight"]
        self._dtype = embed.dtype
        if other := {t.dtype for t in tensors.values()} - {torch.float32, torch.bfloat16}:
            raise ValueError(f"weights in float32 or bfloat16 are read here, not in {other.pop()}")
        self._table = panels(embed)
        self._top = self._table if a.tied else panels(tensors["lm_head.weight"])
        self._final = _floats(tensors["norm.weight"])
        self._no_bias = np.zeros(a.vocab_size, np.float32)
        self._weights = _weights(checkpoint)
        arrays = [self._final, *(w for w in self._weights if isinstance(w, np.ndarray))]
        tables = {t.data_ptr(): t for t in (self._table, self._top)}.values()
        self.bytes = sum(w.nbytes for w in arrays) + sum(t.nbytes for t in tables)

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights."""
        return self._dtype

    def with_layers(self, keep: Sequence[int]) -> CompiledNetwork:
        """See LlamaNetwork.with_layers."""
        other = object.__new__(CompiledNetwork)
        other.__dict__.update(self.__dict__)
        other._keep = self._keep[list(keep)]
        other.layers, other.bytes = len(keep), 0
        return other

    def new_cache(self, rows: int, capacity: int) -> PanelCache:
        """An empty cache; capacity is rounded up to whole panels."""
        a = self.architecture
        shape = (self.layers, rows, a.kv_heads, a.head_dim)
        return PanelCache(shape, -(-capacity // PANEL) * PANEL, unit=2 * PANEL)

    @torch.inference_mode()
    def forward(self, tokens: Tensor, cache: SlotCache, first: int = 0, push: Push | None = None) -> Tensor:
        """See Network.forward."""
        batch, width = tokens.shape
        self._require(tokens, cache, push)
        cache.require_room(first, batch, width)
        x = rows_of(self._table, tokens.reshape(-1))
        lengths = np.array(cache.lengths[first : first + batch], np.int64)
        pushed = torch.zeros(0, x.shape[1]) if push is None else push.rows.float().contiguous()
        with _loops():
            kernels.layers(
                self._weights,
                self._keep,
                x.numpy(),
                Place(first, width, lengths),
                cache.keys.numpy(),
                cache.values.numpy(),
                pushed.numpy(),
                self.layers if push is None else push.first,
            )
        cache.append(first, batch, width)
        return x.view(batch, width, -1)

    def _require(self, tokens: Tensor, cache: SlotCache, push: Push | None) -> None:
        """Loops look at no bounds, so what is not the network's own is refused: IndexError or ValueError, as PyTorch would."""
        a, batch = self.architecture, len(tokens)
        if not 0 <= int(tokens.min()) <= int(tokens.max()) < self.vocabulary:
            raise IndexError(
                f"tokens {int(tokens.min())} to {int(tokens.max())}, and {self.vocabulary} rows of vocabulary"
            )
        shape = (self.layers, cache.rows, a.kv_heads, a.head_dim)
        if cache.shape != shape or not isinstance(cache, PanelCache):
            raise ValueError(f"a {type(cache).__name__} {cache.shape} is not one of this network, {shape}")
        if push is not None and push.rows.shape != (batch, a.hidden_size):
            raise ValueError(
                f"a push {tuple(push.rows.shape)} for {batch} sequences of {a.hidden_size} numbers"
            )

    @torch.inference_mode()
    def logits(self, hidden: Tensor) -> Tensor:
        """See Network.logits."""
        normed, out = self.final(hidden), torch.empty(len(hidden), self.vocabulary)
        with _loops():
            kernels.product(array_of(self._top), self._no_bias, normed.numpy(), out.numpy(), False)
        return out

    @torch.inference_mode()
    def final(self, hidden: Tensor) -> Tensor:
        """See LlamaNetwork.final."""
        x = hidden.float().contiguous()
        if x.shape[1] != self.architecture.hidden_size:
            raise ValueError(
                f"hidden states of {x.shape[1]} numbers, and {self.architecture.hidden_size} in this network"
            )
        out = torch.empty_like(x)
        with _loops():
            kernels.normed(x.numpy(), self._final, self._weights.eps, out.numpy())
        return out


_ONE_AT_A_TIME = Lock()  # numba's own threads end the process if two threads ask for loops at once


@contextmanager
def _loops() -> Iterator[None]:
    """For the loops: as many threads as PyTorch has, up to the processor's, and small numbers are no zeros in any of them."""
    threads: int = min(torch.get_num_threads(), numba.config.NUMBA_NUM_THREADS)  # type: ignore[attr-defined]
    with _ONE_AT_A_TIME:
        # a library may have told this thread otherwise, and the pool's threads have flags of their own
        torch.set_flush_denormal(False)
        numba.set_num_threads(threads)
        yield


def _start_threads() -> None:
    """Numba's pool, whose start sets the number of threads of every library that shares its OpenMP; put back for PyTorch."""
    before = torch.get_num_threads()
    torch.set_flush_denormal(False)  # threads are born with the flags of who starts them
    numba.set_num_threads(1)
    torch.set_num_threads(before)


_start_threads()


def panels(matrix: Tensor) -> Tensor:
    """A matrix [out, in] as [panels, in, PANEL], the last one padded with zeros.

    Pair i of a bfloat16 panel holds outputs i and i + PANEL / 2: one load of whole words gives both, see kernels._half.
    """
    outputs, inputs = matrix.shape
    count = -(-outputs // PANEL)
    parts = pad(matrix.detach(), (0, 0, 0, count * PANEL - outputs)).view(count, 2, _HALF, inputs)
    order = (0, 3, 2, 1) if matrix.dtype == torch.bfloat16 else (0, 3, 1, 2)
    return parts.permute(order).contiguous().view(count, inputs, PANEL)


def rows_of(table: Tensor, which: Tensor) -> Tensor:
    """Some outputs of a matrix in panels -> [rows, in] as float32: an embedding that is also the head is held once."""
    panel, at = which // PANEL, which % PANEL
    place = at % _HALF * 2 + at // _HALF if table.dtype == torch.bfloat16 else at
    return table[panel, :, place].float().contiguous()


def array_of(packed: Tensor) -> NDArray[np.generic]:
    """As the loops read it: bfloat16 is an unknown word to numpy, and sixteen bits are not."""
    array: NDArray[np.generic] = (
        packed.view(torch.uint16) if packed.dtype == torch.bfloat16 else packed
    ).numpy()
    return array


def _floats(tensor: Tensor) -> Floats:
    array: Floats = tensor.detach().to(torch.float32, copy=True).contiguous().numpy()
    return array


def _weights(checkpoint: Checkpoint) -> Weights:
    """The tensors of all layers, with q, k, v and gate, up side by side."""
    a, tensors = checkpoint.architecture, checkpoint.tensors
    names = [f"layers.{i}." for i in range(a.layers)]

    def vectors(name: str, otherwise: int = 0) -> Floats:
        """Of all layers; where there are none, so many zeros."""
        if f"{names[0]}{name}" not in tensors:
            return np.zeros((a.layers, otherwise), np.float32)
        return _floats(torch.stack([tensors[f"{n}{name}"] for n in names]))

    def matrices(*parts: str) -> tuple[NDArray[np.generic], Floats]:
        """The weights and biases of maps side by side."""
        each = [[tensors[f"{n}{part}.weight"] for part in parts] for n in names]
        biases = [vectors(f"{part}.bias", len(w)) for part, w in zip(parts, each[0], strict=True)]
        one = panels(torch.cat(each[0]))
        packed = one.new_empty((a.layers, *one.shape))
        for layer, weights in zip(packed, each, strict=True):  # one layer at a time: never two copies of all
            layer.copy_(panels(torch.cat(weights)))
        return array_of(packed), np.concatenate(biases, 1)

    qkv, qkv_bias = matrices("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
    o, o_bias = matrices("self_attn.o_proj")
    gate_up, gate_up_bias = matrices("mlp.gate_proj", "mlp.up_proj")
    down, down_bias = matrices("mlp.down_proj")
    cos, sin = rotary_tables(a, torch.float32, torch.device("cpu"))
    return Weights(
        norm=vectors("input_layernorm.weight"),
        qkv=qkv,
        qkv_bias=qkv_bias,
        q_norm=vectors("self_attn.q_norm.weight"),
        k_norm=vectors("self_attn.k_norm.weight"),
        o=o,
        o_bias=o_bias,
        mlp_norm=vectors("post_attention_layernorm.weight"),
        gate_up=gate_up,
        gate_up_bias=gate_up_bias,
        down=down,
        down_bias=down_bias,
        cos=_floats(cos),
        sin=_floats(sin),
        eps=np.float32(a.norm_eps),
    )
