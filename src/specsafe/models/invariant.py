"""Invariant arithmetic: the bits of a row do not depend on batch, neighbours, width or slot. Proved, or not claimed.

Floating-point sums depend on their order. In compiled loops (kernels.py) each sum has one; a library chooses it by the
shape of the product, and padded to whole tiles of rows the shapes met in decoding leave the order alone on the machines
where this proof holds. It runs the very weights that will decode, over widths, batches and prefill, and compares every
bit. What decides the sums is processor, builds, threads, dtype and shapes: for these, a proof is run once and kept.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from specsafe.errors import UserError
from specsafe.fetch import cache_folder
from specsafe.models.network import LlamaNetwork

WIDTHS = (1, 2, 3, 4, 5, 6, 8, 9, 11, 13, 15, 17)
BATCHES = (2, 7, 32)
_PROMPT, _STEPS = 21, 3
_CAPACITY = 1024
# Modules that decide in which order sums are taken, and variables by which libraries choose other products.
_CODE = ("cache", "compiled", "invariant", "kernels", "network")
_SETTINGS = ("ONEDNN_", "DNNL_", "MKL_", "ATEN_CPU_", "NUMBA_")
_LONG = (200, 300, 700)  # contexts of one and of several blocks of the cache


class Proof(NamedTuple):
    """How many rows were compared, all of them equal bit for bit, in tiles of how many, and how long that took."""

    rows: int
    tile: int
    seconds: float


def make_invariant(network: LlamaNetwork, capacity: int) -> tuple[LlamaNetwork, Proof]:
    """The network under invariant arithmetic, with its proof; capacity: tokens that its caches will hold.

    Raises UserError if the proof fails.
    """
    kept = cache_folder() / "proofs" / f"{_conditions(network, capacity)}.json"
    if (known := _read_proof(kept)) is not None:
        return network.in_tiles(known.tile), known
    started = time.perf_counter()
    for tile in network.tiles:
        invariant = network.in_tiles(tile)
        rows, failed = prove(invariant, capacity)
        if not failed:
            break
    else:
        raise UserError(
            f"invariant arithmetic does not hold on this machine in {network.dtype}: {', '.join(failed)}",
            "use arithmetic=fast, which claims nothing, or another dtype",
        )
    proof = Proof(rows, tile, round(time.perf_counter() - started, 3))
    kept.parent.mkdir(parents=True, exist_ok=True)
    temporary = kept.with_suffix(f".{os.getpid()}.part")
    temporary.write_text(json.dumps(proof._asdict()))
    temporary.replace(kept)
    return invariant, proof


def _read_proof(path: Path) -> Proof | None:
    """A proof that was kept; None if there is none, or none that can be read: then it is proved again."""
    try:
        return Proof(**json.loads(path.read_text()))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def _conditions(network: LlamaNetwork, capacity: int) -> str:
    """Hash of all that decides in which order sums are taken, and of this proof's own text."""
    cpu = Path("/proc/cpuinfo")
    lines = cpu.read_text().splitlines() if cpu.exists() else [platform.processor()]
    processor = next((x for x in lines if x.startswith("flags")), lines[0] if lines else "")
    seen = [
        *(file.read_text() for file in sorted(Path(__file__).parent.glob("*.py")) if file.stem in _CODE),
        *(f"{k}={v}" for k, v in sorted(os.environ.items()) if k.startswith(_SETTINGS)),
        *(torch.__config__.show(), torch.__version__, torch.get_num_threads(), processor, platform.machine()),
        *(next((x for x in lines if x.startswith("model name")), ""), str(network.device)),
        *(network.architecture, network.layers, network.dtype, network.library, capacity),
    ]
    return hashlib.sha256("\n".join(map(str, seen)).encode()).hexdigest()[:32]


@torch.inference_mode()
def prove(network: LlamaNetwork, capacity: int) -> tuple[int, tuple[str, ...]]:
    """Read the same tokens in many ways -> (rows compared, names of the ways whose bits differ from one prefill).

    Hidden states are compared, and the output head apart: equal states then have equal logits.
    """
    capacity = min(
        capacity, _CAPACITY
    )  # blocks have one size: a longer cache has more of them, no other ones
    room = min(capacity, network.context)
    length = min(_PROMPT + _STEPS * max(WIDTHS), room)
    tokens = _tokens(network, max(BATCHES), length)
    whole = [_read(network, tokens[row], capacity, [length]) for row in range(max(BATCHES))]
    rows, failed = _head_rows(network, torch.cat(whole))
    for width in WIDTHS:
        prompt = min(_PROMPT, length - 1)
        cuts = [prompt, *[width] * ((length - prompt) // width)][: 1 + _STEPS]
        seen = _read(network, tokens[0], capacity, cuts)
        rows += len(seen)
        if not torch.equal(seen, whole[0][: len(seen)]):
            failed.append(f"{width} rows at a time")
    for batch in BATCHES:
        for width in (1, min(5, length - 1)):
            compared, equal = _same_in_batch(network, tokens[:batch], whole, capacity, width)
            rows += compared
            if not equal:
                failed.append(f"batches of {batch}, {width} rows a sequence")
    for length in (n for n in _LONG if n + 8 < room):
        compared, equal = _same_far_on(network, capacity, length)
        rows += compared
        if not equal:
            failed.append(f"a context of {length} tokens")
    return rows, tuple(failed)


def _tokens(network: LlamaNetwork, rows: int, length: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, network.vocabulary, (rows, length), generator=generator).to(network.device)


def _read(network: LlamaNetwork, tokens: Tensor, capacity: int, widths: Sequence[int]) -> Tensor:
    """Hidden states of a sequence read in passes of these widths: [sum of widths, H]."""
    cache = network.new_cache(1, capacity)
    cache.add_row()
    parts = torch.split(tokens[: sum(widths)], list(widths))
    return torch.cat([network.forward(part[None], cache)[0] for part in parts])


def _head_rows(network: LlamaNetwork, hidden: Tensor) -> tuple[int, list[str]]:
    """Logits of rows alone and beside others -> (rows compared, what differs)."""
    counts = [n for n in (1, 2, 7, 8, 33, 160) if n <= len(hidden)]
    together = network.logits(hidden[: max(counts)])
    failed = [
        f"the output head over {n} rows"
        for n in counts
        if not torch.equal(network.logits(hidden[:n]), together[:n])
    ]
    return sum(counts), failed


def _same_in_batch(
    network: LlamaNetwork, tokens: Tensor, whole: Sequence[Tensor], capacity: int, width: int
) -> tuple[int, bool]:
    """Ragged prompts in one pass, then a pass over all rows -> (rows compared, were all bits equal)."""
    batch = tokens.shape[0]
    cache = network.new_cache(batch, capacity)
    prompts = [min(1 + (7 * row) % _PROMPT, tokens.shape[1] - width) for row in range(batch)]
    for _ in prompts:
        cache.add_row()
    network.forward(tokens[:, : max(prompts)], cache)  # padded on the right, as the loop reads prompts
    cache.truncate(prompts)
    part = torch.stack([tokens[row, n : n + width] for row, n in enumerate(prompts)])
    hidden = network.forward(part, cache)
    equal = [torch.equal(hidden[row], whole[row][n : n + width]) for row, n in enumerate(prompts)]
    return batch * width, all(equal)


def _same_far_on(network: LlamaNetwork, capacity: int, length: int) -> tuple[int, bool]:
    """A long prompt in one pass, or its last tokens one by one and beside a short neighbour -> (rows, equal?)."""
    long, short = _tokens(network, 2, length + 3)
    whole = _read(network, long, capacity, [length + 3])
    single = _read(network, long, capacity, [length - 100, 100, 1, 1, 1])
    cache = network.new_cache(2, capacity)
    for row, prompt in enumerate((short[:30], long[:length])):
        cache.add_row()
        network.forward(prompt[None], cache, row)
    part = torch.stack([short[30:33], long[length:]])
    beside = network.forward(part, cache)[1]
    equal = torch.equal(single, whole) and torch.equal(beside, whole[length:])
    return length + 6, equal
