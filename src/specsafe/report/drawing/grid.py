"""A figure of cells: rows by columns, each with a number and as dark as its share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from specsafe.report.drawing.canvas import NARROW, WIDE, Box, Canvas, short, text_width

_ROW, _TALL_ROW, _HEAD = 26, 42, 26
_NAMES = 250.0  # pixels of a row's name at most
_DARKEST = 0.55  # of the class' colour: the number stays readable on it


class Cell(NamedTuple):
    """What is written, and how dark it is (None: nothing is known)."""

    text: str
    share: float | None


def grid(
    names: Sequence[str], heads: Sequence[str], cells: Sequence[Sequence[Cell]]
) -> tuple[Canvas, Canvas]:
    """For a desk, names at the left; and for a phone, names above."""
    return _wide(names, heads, cells), _narrow(names, heads, cells)


def _wide(names: Sequence[str], heads: Sequence[str], cells: Sequence[Sequence[Cell]]) -> Canvas:
    left = max(text_width(short(n, _NAMES)) for n in names) + 18
    room = (WIDE - left - 8) / len(heads)
    canvas = Canvas(WIDE, _HEAD + _ROW * len(names) + 6)
    for k, head in enumerate(heads):
        canvas.words(left + room * (k + 0.5), 16, short(head, room - 4), "tick", "middle")
    for n, (name, row) in enumerate(zip(names, cells, strict=True)):
        top = _HEAD + _ROW * n
        canvas.words(8, top + 17, short(name, _NAMES))
        _row(canvas, row, left, room, top)
    return canvas


def _narrow(names: Sequence[str], heads: Sequence[str], cells: Sequence[Sequence[Cell]]) -> Canvas:
    room = (NARROW - 16) / len(heads)
    canvas = Canvas(NARROW, _HEAD + _TALL_ROW * len(names) + 6)
    for k, head in enumerate(heads):
        canvas.words(8 + room * (k + 0.5), 16, short(head, room - 4), "tick", "middle")
    for n, (name, row) in enumerate(zip(names, cells, strict=True)):
        top = _HEAD + _TALL_ROW * n
        canvas.words(8, top + 12, short(name, NARROW - 16))
        _row(canvas, row, 8, room, top + 16)
    return canvas


def _row(canvas: Canvas, row: Sequence[Cell], left: float, room: float, top: float) -> None:
    for k, cell in enumerate(row):
        box = Box(left + room * k + 1, top + 1, left + room * (k + 1) - 1, top + 24)
        if cell.share is not None:
            canvas.rect(box, "heat", _DARKEST * cell.share)
        canvas.rect(box, "frame", 0.0)
        canvas.words((box.left + box.right) / 2, box.top + 16, cell.text, "words halo", "middle")
