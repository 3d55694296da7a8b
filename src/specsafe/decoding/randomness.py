"""Random numbers that are a pure function of (stream, position, purpose).

There is no generator and no state: whoever asks for the number of a position gets the same one, whatever the
batch, the neighbours, the number of drafted tokens or the device. The mixing function is the finaliser of
SplitMix64 (Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators").
"""

from __future__ import annotations

import hashlib
from enum import IntEnum

import torch
from torch import Tensor

_WORD = 1 << 64
_PURPOSE_BITS = 4
_SLOT_BITS = 20


class Purpose(IntEnum):
    """What a number is drawn for; numbers of different purposes are independent."""

    ACCEPT = 0
    TOKEN = 1
    DRAFT = 2
    LEAK = 3


def stream_key(seed: int, item: str, replicate: int) -> int:
    """Key of the stream of one answer: the first 64 bits of a sha256, as a signed integer (fits int64)."""
    text = f"specsafe stream {seed} {replicate} {item}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big", signed=True)


def slot_positions(start: Tensor, width: int, *, fresh: bool) -> Tensor:
    """Counters [B, width] of the slots of a round whose first slot has answer position `start` [B].

    fresh False: the absolute answer position, so that a position has one number for ever. That is right for
    every rule that reads no number past the slot at which it stops. A rule with `looks_ahead` reads them all:
    reused in the next round they would be known to have failed, and the answers would be biased. With fresh
    True the counter belongs to (start, slot); `start` grows every round, so no number is ever seen twice.
    """
    slots = torch.arange(width, dtype=torch.int64, device=start.device)
    first = (start + 1) << _SLOT_BITS if fresh else start
    return first.unsqueeze(1) + slots


def uniforms(keys: Tensor, positions: Tensor, purpose: Purpose) -> Tensor:
    """Numbers in [0, 1), multiples of 2**-53, one for each position.

    keys: int64 [B]; positions: int64 [B, ...], 0 <= position < 2**59. Returns float64 of the shape of positions.
    """
    seeds = _mix(keys).reshape(-1, *[1] * (positions.dim() - 1))
    counter = (positions << _PURPOSE_BITS) + int(purpose) + 1
    bits = _mix(seeds + counter * _signed(0x9E3779B97F4A7C15))
    return _shift_right(bits, 11).double() * 2.0**-53


def sample(probabilities: Tensor, uniform: Tensor) -> Tensor:
    """Draw by the inverse CDF: the first index whose cumulative weight exceeds uniform * total.

    probabilities: [..., V], not negative, sum positive, need not be normalised; uniform: [...] in [0, 1].
    Returns int64 [...]. Sums are float64, one row after the other from index 0, so a row's draw does not depend
    on the other rows. An index of weight 0 is never returned, at uniform = 1 neither.
    """
    cumulative = probabilities.cumsum(-1, dtype=torch.float64)
    total = cumulative[..., -1]
    below_total = torch.nextafter(total, torch.zeros_like(total))
    aim = torch.minimum(uniform * total, below_total).unsqueeze(-1)
    index = torch.searchsorted(cumulative, aim, right=True).squeeze(-1)
    # NaN rows find no index; the caller refuses them by their logits, an index error here would end the batch.
    return index.clamp(max=probabilities.shape[-1] - 1)


def _mix(x: Tensor) -> Tensor:
    x = (x ^ _shift_right(x, 30)) * _signed(0xBF58476D1CE4E5B9)
    x = (x ^ _shift_right(x, 27)) * _signed(0x94D049BB133111EB)
    return x ^ _shift_right(x, 31)


def _shift_right(x: Tensor, by: int) -> Tensor:
    """Logical shift: int64 >> copies the sign bit, the mask takes those copies away."""
    return (x >> by) & ((1 << (64 - by)) - 1)


def _signed(word: int) -> int:
    """The two's complement reading of a 64-bit word."""
    return word - _WORD if word >= _WORD >> 1 else word
