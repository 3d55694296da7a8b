"""A figure of curves: points with intervals over a few places, each curve with a sign and a key."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from specsafe.report.drawing.axes import Place, interval_up, ticks_up
from specsafe.report.drawing.canvas import LINE, NARROW, WIDE, Box, Canvas, short
from specsafe.report.figures import Scale, linear, number

_SIGNS = ("circle", "square", "diamond", "right")
_HIGH, _INSET, _APART = 300, 18, 5.0


class Point(NamedTuple):
    """A place along x, the estimate and its interval in the unit of y, and the same in words."""

    x: float
    y: float
    low: float | None
    high: float | None
    text: str


class Curve(NamedTuple):
    """One series; points in the order of x."""

    name: str
    points: tuple[Point, ...]


def plot(
    curves: Sequence[Curve], x: str, y: str, *, limit: float | None = None, whole: bool = False
) -> tuple[Canvas, Canvas]:
    """For a desk and for a phone, the key below. limit: a dashed line along y. whole: y goes from 0 to 100."""
    scale = linear(0, 100, most=6) if whole else _reach(curves, limit)
    places = sorted({p.x for c in curves for p in c.points})
    return _draw(curves, WIDE, scale, places, x, y, limit), _draw(curves, NARROW, scale, places, x, y, limit)


def _reach(curves: Sequence[Curve], limit: float | None) -> Scale:
    ends = [v for c in curves for p in c.points for v in (p.y, p.low, p.high) if v is not None]
    bound = limit or 0.0
    return linear(min([-bound, *ends]), max([1.2 * bound, *ends]), most=8)


def _draw(
    curves: Sequence[Curve],
    width: float,
    scale: Scale,
    places: Sequence[float],
    x: str,
    y: str,
    limit: float | None,
) -> Canvas:
    inner = Box(46, 28, width - 10, _HIGH - 40)
    canvas = Canvas(width, _HIGH + LINE * len(curves) + 8)
    up = Place(scale, inner.bottom, inner.top)
    step = (inner.right - inner.left - 2 * _INSET) / max(1, len(places) - 1)
    across = {v: inner.left + _INSET + step * n for n, v in enumerate(places)}
    canvas.words(8, 14, y, "name")
    ticks_up(canvas, up, inner.left, inner.right)
    for v, at in across.items():
        canvas.words(at, inner.bottom + 16, number(v), "tick", "middle")
    canvas.words(inner.right, inner.bottom + 32, x, "name", "end")
    canvas.line((inner.left, inner.bottom), (inner.right, inner.bottom), "axis")
    if limit is not None:
        canvas.line((inner.left, up.at(limit)), (inner.right, up.at(limit)), "limit")
    for n, curve in enumerate(curves):
        _curve(canvas, curve, n, (n - (len(curves) - 1) / 2) * _APART, across, up)
        _key(canvas, curve, n, _HIGH + LINE * n + 6, width)
    return canvas


def _curve(canvas: Canvas, curve: Curve, n: int, shift: float, across: dict[float, float], up: Place) -> None:
    """Curves stand a little beside each other, so that equal ones are all seen."""
    places = [(across[p.x] + shift, up.at(p.y)) for p in curve.points]
    canvas.path(places, "curve")
    for p, (at, _) in zip(curve.points, places, strict=True):
        interval_up(canvas, up, p.low, p.high, at, "cross")
    for place in places:
        canvas.mark(*place, _SIGNS[n % len(_SIGNS)], _kind(n))


def _key(canvas: Canvas, curve: Curve, n: int, y: float, width: float) -> None:
    canvas.mark(16, y - 4, _SIGNS[n % len(_SIGNS)], _kind(n))
    canvas.words(28, y, short(curve.name, width - 36), "words")


def _kind(n: int) -> str:
    """Signs come again after four, then hollow."""
    return "mark" if (n // len(_SIGNS)) % 2 == 0 else "mark hollow"
