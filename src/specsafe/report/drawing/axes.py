"""What figures share: where a scale lies, ticks with their lines and labels, and the lines of intervals."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

from specsafe.report.drawing.canvas import Canvas, text_width
from specsafe.report.figures import Scale, number


class Span(NamedTuple):
    """An estimate with its interval, in the units of its scale, and how it is written. None: nothing to show."""

    estimate: float | None
    low: float | None
    high: float | None
    text: str
    brief: str


class Place(NamedTuple):
    """Where a scale lies on the canvas: along x, or along y from the bottom (left) to the top (right)."""

    scale: Scale
    left: float
    right: float

    def at(self, value: float) -> float:
        """Pixels along the axis; what lies outside sits at the edge."""
        share = (value - self.scale.low) / (self.scale.high - self.scale.low)
        return self.left + (self.right - self.left) * min(1.0, max(0.0, share))


def spaced(place: Place, width: Callable[[float], float]) -> tuple[float, ...]:
    """The ticks of a scale, every second one where their labels would touch."""
    ticks = place.scale.ticks
    while len(ticks) > 2 and any(
        place.at(b) - place.at(a) < (width(a) + width(b)) / 2 + 6 for a, b in pairwise(ticks)
    ):
        ticks = ticks[::2]
    return ticks


def ticks_across(canvas: Canvas, across: Place, top: float, bottom: float) -> None:
    """Upright lines at the ticks of a scale along x, their labels below."""
    for tick in spaced(across, lambda t: text_width(number(t))):
        canvas.line((across.at(tick), top), (across.at(tick), bottom), "grid")
        canvas.words(across.at(tick), bottom + 15, number(tick), "tick", "middle")


def ticks_up(canvas: Canvas, up: Place, left: float, right: float) -> None:
    """Level lines at the ticks of a scale along y, their labels at the left."""
    for tick in up.scale.ticks:
        canvas.line((left, up.at(tick)), (right, up.at(tick)), "grid")
        canvas.words(left - 6, up.at(tick) + 4, number(tick), "tick", "end")


def interval_across(
    canvas: Canvas, across: Place, low: float | None, high: float | None, y: float, kind: str
) -> None:
    """A level line from low to high, where both are known."""
    if low is not None and high is not None:
        canvas.line((across.at(low), y), (across.at(high), y), kind)


def interval_up(
    canvas: Canvas, up: Place, low: float | None, high: float | None, x: float, kind: str
) -> None:
    """An upright line from low to high, where both are known."""
    if low is not None and high is not None:
        canvas.line((x, up.at(low)), (x, up.at(high)), kind)
