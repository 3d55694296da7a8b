"""Keys and values of the tokens that a network has read: one row a sequence, one slot a position.

A slot's index is its token's position, so a rejected token needs no surgery: it lies beyond its row's length,
where no query looks, and the next round writes over it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar, Protocol

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
    """The cache of network.LlamaNetwork: keys and values [layers, rows, kv_heads, room, head_dim].

    shape: (layers, rows, kv_heads, head_dim). The room grows with the longest row, `unit` slots at a time, up to the
    capacity: products over the part in use then read one piece of memory. bytes: at full capacity.
    """

    per_index: ClassVar[tuple[int, int]] = (1, 1)
    """Slots that one index of the fourth dimension stands for, in keys and in values."""

    def __init__(
        self,
        shape: tuple[int, int, int, int],
        capacity: int,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        unit: int = 64,
    ) -> None:
        self.shape, self.capacity, self.rows, self._unit = shape, capacity, shape[1], unit
        self._like = torch.empty(0, dtype=dtype, device=device)
        self.keys, self.values = self.blank(0, self._like)
        self.lengths: list[int] = []
        self.remembered: tuple[int, ...] = ()
        """Tokens whose keys and values are kept beside the rows, for texts that begin alike."""
        self._kept: tuple[Tensor, Tensor] | None = None
        least = max(self.per_index)
        counted = self.blank(least, self._like.to("meta"))
        self.bytes = sum(part.nbytes for part in counted) * capacity // least

    def blank(self, room: int, like: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of so many slots a row, all zero, of the dtype and on the device of `like`."""
        *rows, size = self.shape
        keys = like.new_zeros((*rows, room, size))
        return keys, torch.zeros_like(keys)

    @property
    def room(self) -> int:
        """Slots a row has at the moment."""
        return self.values.shape[3]

    def _used(self, count: int) -> Iterator[tuple[Tensor, int]]:
        """Keys, then values, each with the indices that so many slots take."""
        for part, per in zip((self.keys, self.values), self.per_index, strict=True):
            yield part, -(-count // per)

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
            for part, used in self._used(self.lengths[last]):
                part[:, row, :, :used] = part[:, last, :, :used]
                part[:, row, :, used:] = 0  # the freed row may hold a NaN, see add_row
            self.lengths[row] = self.lengths[last]
        self.lengths.pop()

    def remember(self, tokens: Sequence[int]) -> None:
        """Keep the tokens that the last row has read, instead of those kept before."""
        row = len(self.lengths) - 1
        self.remembered = tuple(tokens)
        keys, values = (part[:, row, :, :used].clone() for part, used in self._used(len(tokens)))
        self._kept = keys, values

    @torch.inference_mode()
    def recall(self, length: int) -> None:
        """Give the last row, which is empty, the first so many tokens of those that are kept."""
        row = len(self.lengths) - 1
        if self._kept is None or not length:
            return
        self.require_room(row, 1, length)
        for (part, used), kept in zip(self._used(length), self._kept, strict=True):
            part[:, row, :, :used] = kept[:, :, :used]
        self.lengths[row] = length

    def truncate(self, lengths: list[int]) -> None:
        """Take back what was read beyond these lengths, one a row."""
        self.lengths = [min(n, kept) for n, kept in zip(self.lengths, lengths, strict=True)]

    def append(self, first: int, rows: int, width: int) -> None:
        """Count the tokens that a forward pass has read."""
        for row in range(first, first + rows):
            self.lengths[row] += width

    def require_room(self, first: int, rows: int, width: int) -> None:
        """Make room for a forward pass. Raises ValueError if it would write past the capacity, or to rows that are not there."""
        if first + rows > len(self.lengths):
            raise ValueError(f"rows {first} to {first + rows - 1} of a cache that has {len(self.lengths)}")
        longest = max(self.lengths[first : first + rows])
        if longest + width > self.capacity:
            raise ValueError(f"{longest} + {width} tokens do not fit a cache of {self.capacity}")
        if longest + width > self.room:
            more = min(-(-(longest + width) // self._unit) * self._unit, self.capacity) - self.room
            added = self.blank(more, self._like)
            self.keys, self.values = (
                torch.cat([self.keys, added[0]], 3),
                torch.cat([self.values, added[1]], 3),
            )
