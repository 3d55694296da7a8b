"""Keys and values of the tokens that a network has read: one row a sequence, one slot a position.

A slot's index is its token's position, so a rejected token needs no surgery: it lies beyond its row's length,
where no query looks, and the next round writes over it.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor


class Cache(Protocol):
    """What the decoding loop knows of a cache, whatever network it belongs to."""

    lengths: list[int]
    """Tokens read and not taken back, one number a row."""
    bytes: int
    """Memory that it takes."""

    def add_row(self) -> int:
        """A new empty row, the last -> its index."""

    def drop_row(self, row: int) -> None:
        """Free a row; the last row takes its place."""

    def truncate(self, lengths: list[int]) -> None:
        """Take back what was read beyond these lengths, one a row."""


class SlotCache:
    """The cache of network.Network: keys and values [layers, rows, kv_heads, capacity, head_dim]."""

    def __init__(
        self,
        layers: int,
        rows: int,
        kv_heads: int,
        capacity: int,
        head_dim: int,
        *,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        shape = (layers, rows, kv_heads, capacity, head_dim)
        self.keys = torch.zeros(shape, dtype=dtype, device=device)
        self.values = torch.zeros(shape, dtype=dtype, device=device)
        self.capacity, self.rows, self._heads = capacity, rows, kv_heads
        self.lengths: list[int] = []
        self.bytes = 2 * self.keys.numel() * self.keys.element_size()

    def add_row(self) -> int:
        """A new empty row, the last -> its index."""
        if len(self.lengths) == self.rows:
            raise ValueError(f"all {self.rows} rows of the cache are taken")
        row = len(self.lengths)
        # Slots beyond a row's length weigh nothing, but nothing times a NaN left there would be NaN.
        self.keys[:, row] = 0
        self.values[:, row] = 0
        self.lengths.append(0)
        return row

    def drop_row(self, row: int) -> None:
        """Free a row; the last row takes its place."""
        last = len(self.lengths) - 1
        if row != last:
            used = self.lengths[last]
            for part in (self.keys, self.values):
                part[:, row, :, :used] = part[:, last, :, :used]
                part[:, row, :, used:] = 0  # the freed row may hold a NaN, see add_row
            self.lengths[row] = self.lengths[last]
        self.lengths.pop()

    def truncate(self, lengths: list[int]) -> None:
        """Take back what was read beyond these lengths, one a row."""
        self.lengths = [min(n, kept) for n, kept in zip(self.lengths, lengths, strict=True)]

    def append(self, first: int, rows: int, width: int) -> None:
        """Count the tokens that a forward pass has read."""
        for row in range(first, first + rows):
            self.lengths[row] += width

    def require_room(self, first: int, rows: int, width: int) -> None:
        """Raise ValueError if a forward pass would write past the capacity."""
        longest = max(self.lengths[first : first + rows])
        if longest + width > self.capacity:
            raise ValueError(f"{longest} + {width} tokens do not fit a cache of {self.capacity}")

    def slots(self, positions: Tensor, first: int) -> Tensor:
        """Flat indices into one layer's [rows * kv_heads * capacity] slots for positions [B, W] of rows first.. -> [B*W*kv_heads]."""
        batch = positions.shape[0]
        rows = torch.arange(first, first + batch, device=positions.device)[:, None, None]
        heads = torch.arange(self._heads, device=positions.device)[None, None]
        return ((rows * self._heads + heads) * self.capacity + positions[:, :, None]).reshape(-1)

    def write(self, layer: int, slots: Tensor, keys: Tensor, values: Tensor) -> None:
        """Keys and values [B*W*kv_heads, head_dim] into the slots of a layer."""
        for part, new in ((self.keys, keys), (self.values, values)):
            part[layer].view(-1, new.shape[-1]).index_copy_(0, slots, new)

    def read(self, layer: int, first: int, rows: int, length: int) -> tuple[Tensor, Tensor]:
        """Views of the first `length` slots of some rows: keys, values [rows, kv_heads, length, head_dim]."""
        part = slice(first, first + rows)
        return self.keys[layer, part, :, :length], self.values[layer, part, :, :length]
