"""Keys and values of the tokens that a network has read: one row a sequence, one slot a position.

A slot's index is its token's position, so a rejected token needs no surgery: it lies beyond its row's length,
where no query looks, and the next round writes over it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import pad


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
    """The cache of network.LlamaNetwork: keys and values [layers, rows, kv_heads, room, head_dim].

    The room grows with the longest row, `unit` slots at a time, up to the capacity: products over the part in use
    then read one piece of memory. bytes: at full capacity.
    """

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
        unit: int = 64,
    ) -> None:
        self.keys = torch.zeros((layers, rows, kv_heads, 0, head_dim), dtype=dtype, device=device)
        self.values = torch.zeros_like(self.keys)
        self.capacity, self.rows, self._heads, self._unit = capacity, rows, kv_heads, unit
        self.lengths: list[int] = []
        self.remembered: tuple[int, ...] = ()
        """Tokens whose keys and values are kept beside the rows, for texts that begin alike."""
        self._kept: tuple[Tensor, Tensor] | None = None
        self.bytes = 2 * layers * rows * kv_heads * capacity * head_dim * self.keys.element_size()

    @property
    def room(self) -> int:
        """Slots a row has at the moment."""
        return self.keys.shape[3]

    @torch.inference_mode()
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

    @torch.inference_mode()
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

    def remember(self, tokens: Sequence[int]) -> None:
        """Keep the tokens that the last row has read, instead of those kept before."""
        row, length = len(self.lengths) - 1, len(tokens)
        self.remembered = tuple(tokens)
        self._kept = self.keys[:, row, :, :length].clone(), self.values[:, row, :, :length].clone()

    @torch.inference_mode()
    def recall(self, length: int) -> None:
        """Give the last row, which is empty, the first so many tokens of those that are kept."""
        row = len(self.lengths) - 1
        if self._kept is None or not length:
            return
        self.require_room(row, 1, length)
        for part, kept in zip((self.keys, self.values), self._kept, strict=True):
            part[:, row, :, :length] = kept[:, :, :length]
        self.lengths[row] = length

    def truncate(self, lengths: list[int]) -> None:
        """Take back what was read beyond these lengths, one a row."""
        self.lengths = [min(n, kept) for n, kept in zip(self.lengths, lengths, strict=True)]

    def append(self, first: int, rows: int, width: int) -> None:
        """Count the tokens that a forward pass has read."""
        for row in range(first, first + rows):
            self.lengths[row] += width

    def require_room(self, first: int, rows: int, width: int) -> None:
        """Make room for a forward pass. Raises ValueError if it would write past the capacity."""
        longest = max(self.lengths[first : first + rows])
        if longest + width > self.capacity:
            raise ValueError(f"{longest} + {width} tokens do not fit a cache of {self.capacity}")
        if longest + width > self.room:
            more = min(-(-(longest + width) // self._unit) * self._unit, self.capacity) - self.room
            self.keys, self.values = (pad(part, (0, 0, 0, more)) for part in (self.keys, self.values))

    def slots(self, positions: Tensor, first: int) -> Tensor:
        """Flat indices into one layer's [rows * kv_heads * room] slots for positions [B, W] of rows first.. -> [B*W*kv_heads]."""
        batch = positions.shape[0]
        rows = torch.arange(first, first + batch, device=positions.device)[:, None, None]
        heads = torch.arange(self._heads, device=positions.device)[None, None]
        return ((rows * self._heads + heads) * self.room + positions[:, :, None]).reshape(-1)

    def write(self, layer: int, slots: Tensor, keys: Tensor, values: Tensor) -> None:
        """Keys and values [B*W*kv_heads, head_dim] into the slots of a layer."""
        for part, new in ((self.keys, keys), (self.values, values)):
            part[layer].view(-1, new.shape[-1]).index_copy_(0, slots, new)

    def read(self, layer: int, first: int, rows: int, length: int) -> tuple[Tensor, Tensor]:
        """Views of the first `length` slots of some rows: keys, values [rows, kv_heads, length, head_dim]."""
        part = slice(first, first + rows)
        return self.keys[layer, part, :, :length], self.values[layer, part, :, :length]
