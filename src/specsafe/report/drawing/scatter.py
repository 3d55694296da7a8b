"""A figure of points: two estimates of each method against each other, intervals as light crosses.

Names stand at their points while all of them find room there; in a crowd numbers take their place, with a key.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from specsafe.report.drawing.axes import (
    Place,
    Span,
    interval_across,
    interval_up,
    spaced,
    ticks_across,
    ticks_up,
)
from specsafe.report.drawing.canvas import LINE, NARROW, WIDE, Box, Canvas, short, text_width
from specsafe.report.drawing.labels import Place as Spot
from specsafe.report.drawing.labels import middle, place_labels
from specsafe.report.figures import Scale

_SAME = 1.5  # pixels: points nearer than that are one for the eye
_NEAR = (7.0, 12.0, 20.0)  # pixels within which points share a line where there is no room for one each
_INSET = 28  # pixels between the frame and a point at the end of a scale
_FEW = 12  # points that have their names beside them
_FAR = 25.0  # pixels: if a name must stand farther from its point, numbers take the place of all names
_NAME = 190.0  # pixels of a name at most
_ABREAST = 5  # numbers of points at one place that stand on one line
_HIGH = 440  # pixels of a figure without its key


class Dot(NamedTuple):
    """A point. number: its place among all methods; marked ones are squares with a bold name."""

    number: int
    label: str
    marked: bool
    x: Span
    y: Span


class Axis(NamedTuple):
    """A direction. better: what its lower or higher end means. above: a value whose multiples stand at the top."""

    name: str
    scale: Scale
    better: str
    above: float | None = None


class _Group(NamedTuple):
    """Dots that are named together, the places of their marks (one for dots that lie on each other), and the text."""

    dots: list[Dot]
    places: list[tuple[float, float]]
    lines: list[str]

    @property
    def marked(self) -> bool:
        return any(d.marked for d in self.dots)

    @property
    def size(self) -> tuple[float, float]:
        return max(map(text_width, self.lines)), LINE * len(self.lines)


class _Plot(NamedTuple):
    """A frame with its two scales, and the axes that they belong to."""

    inner: Box
    across: Place
    up: Place
    axes: tuple[Axis, Axis]

    def at(self, dot: Dot) -> tuple[float, float]:
        """Where a dot lies, in pixels."""
        return self.across.at(dot.x.estimate or 0), self.up.at(dot.y.estimate or 0)


def wide_scatter(x: Axis, y: Axis, dots: Sequence[Dot]) -> tuple[Canvas, list[str]]:
    """For a desk -> the figure, and the names that found no room. A key stands on the right."""
    drawn = _drawn(dots)
    plain = _plot(x, y, WIDE - 14, _HIGH)
    found = _named(plain, drawn)
    if found is not None:
        return _draw(Canvas(WIDE, _HIGH), plain, found)
    key = _key_width(drawn)
    high = max(_HIGH, LINE * len(drawn) + 60)
    plot = _plot(x, y, WIDE - key - 14, high)
    canvas = Canvas(WIDE, high)
    for n, dot in enumerate(drawn):
        _in_key(canvas, dot, WIDE - key, plot.inner.top + LINE * n + 12)
    return _draw(canvas, plot, _numbered(plot, drawn))


def narrow_scatter(x: Axis, y: Axis, dots: Sequence[Dot]) -> tuple[Canvas, list[str]]:
    """For a phone -> the figure, and the names that found no room. A key stands below."""
    drawn = _drawn(dots)
    plot = _plot(x, y, NARROW - 8, _HIGH)
    found = _named(plot, drawn)
    if found is not None:
        return _draw(Canvas(NARROW, _HIGH), plot, found)
    columns = max(1, int(NARROW // _key_width(drawn)))
    rows = math.ceil(len(drawn) / columns)
    canvas = Canvas(NARROW, _HIGH + 12 + LINE * rows)
    for n, dot in enumerate(drawn):
        _in_key(canvas, dot, 8 + (n // rows) * NARROW / columns, _HIGH + 18 + LINE * (n % rows))
    return _draw(canvas, plot, _numbered(plot, drawn))


def _drawn(dots: Sequence[Dot]) -> list[Dot]:
    return [d for d in dots if d.x.estimate is not None and d.y.estimate is not None]


def _plot(x: Axis, y: Axis, right: float, height: float) -> _Plot:
    inner = Box(38, 26 if x.above is None else 44, right, height - 40)
    across = Place(x.scale, inner.left + _INSET, inner.right - _INSET)
    return _Plot(inner, across, Place(y.scale, inner.bottom - _INSET, inner.top + _INSET), (x, y))


def _names(dots: Sequence[Dot]) -> list[str]:
    return [short(d.label, _NAME) for d in dots]


def _numbers(dots: Sequence[Dot]) -> list[str]:
    told = [str(d.number) for d in dots]
    return [", ".join(told[n : n + _ABREAST]) for n in range(0, len(told), _ABREAST)]


def _named(plot: _Plot, dots: Sequence[Dot]) -> list[tuple[_Group, Spot | None]] | None:
    """Few dots with their names near them; None where that cannot be."""
    if len(dots) > _FEW:
        return None
    found = _placed(plot, dots, _names, _SAME, _FAR)
    return found if all(spot is not None for _, spot in found) else None


def _numbered(plot: _Plot, dots: Sequence[Dot]) -> list[tuple[_Group, Spot | None]]:
    """Dots with their numbers; where there is no room for one each, those that lie close together share a line."""
    found: list[tuple[_Group, Spot | None]] = []
    for near in (_SAME, *_NEAR):
        found = _placed(plot, dots, _numbers, near, math.inf)
        if all(spot is not None for _, spot in found):
            break
    return found


def _placed(
    plot: _Plot,
    dots: Sequence[Dot],
    name: Callable[[Sequence[Dot]], list[str]],
    near: float,
    reach: float,
) -> list[tuple[_Group, Spot | None]]:
    """Dots within `near` pixels of each other together, each group with the spot of its name."""
    together: list[list[Dot]] = []
    for dot in dots:
        here = next((g for g in together if math.dist(plot.at(g[0]), plot.at(dot)) < near), None)
        if here is None:
            together.append([dot])
        else:
            here.append(dot)
    groups = [_Group(g, _apart(map(plot.at, g)), name(g)) for g in together]
    spots = place_labels([g.places for g in groups], [g.size for g in groups], plot.inner, reach)
    return list(zip(groups, spots, strict=True))


def _apart(places: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """Places without those that are one with another for the eye."""
    found: list[tuple[float, float]] = []
    for place in places:
        if all(math.dist(place, p) >= _SAME for p in found):
            found.append(place)
    return found


def _draw(
    canvas: Canvas, plot: _Plot, found: Sequence[tuple[_Group, Spot | None]]
) -> tuple[Canvas, list[str]]:
    """From the back to the front: ground, crosses, leaders, marks, names."""
    _ground(canvas, plot)
    for group, _ in found:
        for dot in group.dots:
            x, y = plot.at(dot)
            interval_across(canvas, plot.across, dot.x.low, dot.x.high, y, "cross")
            interval_up(canvas, plot.up, dot.y.low, dot.y.high, x, "cross")
    for group, spot in found:
        if spot is not None and spot.leader is not None:
            canvas.line(middle(group.places), spot.leader, "leader")
    for group, spot in found:
        for place in group.places:
            here = [d for d in group.dots if math.dist(plot.at(d), place) < _SAME]
            canvas.mark(*place, "square" if any(d.marked for d in here) else "circle", "mark edged")
        if spot is not None:
            _name(canvas, group, spot)
    return canvas, [d.label for group, spot in found if spot is None for d in group.dots]


def _name(canvas: Canvas, group: _Group, spot: Spot) -> None:
    """The lines of a group, set towards the point."""
    on_right = spot.box.left >= middle(group.places)[0] - 1
    for n, text in enumerate(group.lines):
        marked = group.dots[n].marked if len(group.lines) == len(group.dots) else group.marked
        canvas.words(
            spot.box.left if on_right else spot.box.right,
            spot.box.top + LINE * n + 12,
            text,
            "words strong halo" if marked else "words halo",
            "start" if on_right else "end",
        )


def _key_width(dots: Sequence[Dot]) -> float:
    return max(text_width(short(d.label, _NAME)) for d in dots) + 30


def _in_key(canvas: Canvas, dot: Dot, left: float, y: float) -> None:
    kind = "words strong" if dot.marked else "words"
    canvas.words(left + 16, y, str(dot.number), kind, "end")
    canvas.words(left + 22, y, short(dot.label, _NAME), kind)


def _ground(canvas: Canvas, plot: _Plot) -> None:
    """Both scales with their names, and multiples at the top."""
    inner, across, up, (x, y) = plot
    canvas.words(8, 14, f"{y.name} ({y.better})", "name")
    canvas.words(inner.right, inner.bottom + 34, f"{x.name} ({x.better})", "name", "end")
    ticks_across(canvas, across, inner.top, inner.bottom)
    ticks_up(canvas, up, inner.left, inner.right)
    canvas.line((inner.left, inner.bottom), (inner.right, inner.bottom), "axis")
    canvas.line((inner.left, inner.bottom), (inner.left, inner.top), "axis")
    if x.above is not None:
        _multiples(canvas, across, x.above, inner.top)


def _multiples(canvas: Canvas, across: Place, one: float, top: float) -> None:
    """Along the top: so many times `one`."""
    low, high = across.scale.low / one, across.scale.high / one
    step = next(s for s in (0.1, 0.2, 0.25, 0.5, 1, 2, 5, 10, 20, 50, high) if (high - low) / s <= 8)
    ticks = tuple(round(n * step, 6) for n in range(math.ceil(low / step), math.floor(high / step) + 1))
    place = Place(Scale(low, high, ticks), across.left, across.right)
    label: Callable[[float], str] = "{:g}×".format
    for tick in spaced(place, lambda t: text_width(label(t))):
        canvas.words(place.at(tick), top - 7, label(tick), "tick", "middle")
        canvas.line((place.at(tick), top - 4), (place.at(tick), top), "axis")
