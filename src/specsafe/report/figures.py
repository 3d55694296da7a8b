"""Figures as inline SVG: pure functions from numbers to markup.

Places along x are percentages and marks are drawn in pixels around them, so a figure takes any width while
text, lines and marks keep their size. Colours are classes of report.css; nothing is told by colour alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple
from xml.etree import ElementTree as ET

from specsafe.report.numbers import MINUS
from specsafe.report.printable import one_line

PAD = 6.0  # per cent kept free at both ends, so that a tick label stays inside
_STEPS = (1, 2, 2.5, 5, 10)
MARKS = {
    "circle": "M-4.5,0a4.5,4.5 0 1,0 9,0a4.5,4.5 0 1,0 -9,0Z",
    "square": "M-4.5,-4.5h9v9h-9Z",
    "dot": "M-3,0a3,3 0 1,0 6,0a3,3 0 1,0 -6,0Z",
    "diamond": "M0,-4.5L4.5,0L0,4.5L-4.5,0Z",
    "right": "M0,-4L6,0L0,4Z",
    "left": "M0,-4L-6,0L0,4Z",
    "bound": "M-4,-7h4v14h-4",
}


class Svg(str):
    """Markup that was built here, from numbers and escaped text: the page may take it as it is."""

    __slots__ = ()

    def __html__(self) -> str:
        """Itself: templates do not escape it again."""
        return self


class Scale(NamedTuple):
    """Values from low to high along x, with ticks; log: by powers of ten."""

    low: float
    high: float
    ticks: tuple[float, ...]
    log: bool = False

    def at(self, value: float) -> float:
        """Per cent of the width; what lies outside sits at the edge."""
        low, high, v = (
            (math.log10(x) if self.log else x) for x in (self.low, self.high, max(value, self.low))
        )
        return PAD + (100 - 2 * PAD) * min(1.0, (v - low) / (high - low))


def linear(low: float, high: float, most: int = 6) -> Scale:
    """A scale from low to high or a little more, with at most `most` round ticks."""
    span = max(high - low, 1e-9)
    power = 10 ** math.floor(math.log10(span / most))
    step = next(s * power for s in (*_STEPS, 20) if span / (s * power) <= most - 1)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    ticks = tuple(round(n * step, 10) for n in range(first, last + 1))
    return Scale(ticks[0], ticks[-1], ticks)


def powers(low: float, high: float) -> Scale:
    """A logarithmic scale over whole powers of ten."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    return Scale(10.0**first, 10.0**last, tuple(10.0**n for n in range(first, last + 1)), log=True)


def number(value: float, *, sign: bool = False) -> str:
    """A tick label: 2.5, −5, +10, 0."""
    return f"{value:+g}".replace("-", MINUS) if sign and value else f"{value:g}".replace("-", MINUS)


def strip(
    scale: Scale,
    title: str,
    *,
    estimate: float | None,
    low: float | None,
    high: float | None,
    bound: float | None = None,
    band: tuple[float, float] | None = None,
    limit: float | None = None,
    bar: float | None = None,
    shape: str = "circle",
    tone: str = "plain",
    height: int = 28,
) -> Svg:
    """One estimate with its interval; an arrow where the interval leaves the scale.

    band: shaded from, to. limit: a line that must not be crossed. bar: a pale bar from zero. bound: the
    one-sided bound, a bracket.
    """
    svg, middle = _figure(title, height), height / 2
    _ground(svg, scale, height, band, limit)
    if bar is not None:
        _rect(svg, scale, min(0.0, bar), max(0.0, bar), middle - 7, 14, "bar")
    if low is not None and high is not None:
        _line(svg, (scale.at(low), middle), (scale.at(high), middle), f"interval {tone}")
        for value, out, arrow in ((low, low < scale.low, "left"), (high, high > scale.high, "right")):
            if out:
                _mark(svg, scale.at(value), middle, arrow, f"arrow {tone}")
    if bound is not None:
        _mark(svg, scale.at(bound), middle, "right" if bound > scale.high else "bound", f"bound {tone}")
    if estimate is not None:
        _mark(svg, scale.at(estimate), middle, shape, f"mark {tone}")
    return _markup(svg)


def dots(
    scale: Scale,
    title: str,
    small: Sequence[float],
    large: Sequence[float],
    *,
    limit: float,
    bins: int = 60,
    most: int = 8,
) -> Svg:
    """Values stacked where they lie; `large` ones as diamonds. Stacks above `most` become bars to scale."""
    stacks = _stacks(scale, small, large, bins)
    highest = max((len(a) + len(b) for a, b in stacks.values()), default=1)
    rows = min(highest, most)
    height = max(28, 8 * rows + 8)
    svg = _figure(title, height)
    _ground(svg, scale, height, (scale.low, limit), limit)
    for place, (near, far) in sorted(stacks.items()):
        x = PAD + (100 - 2 * PAD) * (place + 0.5) / bins
        if highest <= most:
            shapes = ["dot"] * len(near) + ["diamond"] * len(far)
            for level, shape in enumerate(shapes):
                _mark(
                    svg, x, height - 8 - 8 * level, shape, "mark bad" if shape == "diamond" else "mark plain"
                )
        else:
            tall = (height - 6) * (len(near) + len(far)) / highest
            cell = child(svg, "rect", x=_pct(x - 0.6), width="1.2%", y=px(height - tall), height=px(tall))
            cell.set("class", "column bad" if far else "column")
    return _markup(svg)


def curve(
    title: str,
    scale: Scale,
    points: Sequence[tuple[float, float, float, float]],
    *,
    chosen: float | None,
    limit: float,
    top: str,
    name: str,
    height: int = 176,
) -> Svg:
    """Shares (0 to 1) against x, from (x, lowest x, highest x, share). chosen and limit: lines along y."""
    svg, base, roof = _figure(title, height), height - 40, 22

    def y(share: float) -> float:
        return base - (base - roof) * share

    for share in (0.0, 0.5, 1.0):
        _line(svg, (PAD, y(share)), (100 - PAD, y(share)), "grid")
    _text(svg, PAD, roof - 8, top, "start", "tick")
    _upright(svg, scale.at(limit), roof, base, "limit")
    if chosen is not None:
        _upright(svg, scale.at(chosen), roof, base, "chosen")
    places = [(scale.at(x), y(share)) for x, _, _, share in points]
    for one, other in pairwise(places):
        _line(svg, one, other, "curve")
    for (x, height_), (_, low, high, share) in zip(places, points, strict=True):
        _line(svg, (scale.at(low), height_), (scale.at(high), height_), "interval faint")
        _mark(svg, x, height_, "dot", "mark plain" if share == 1 else "mark hollow")
    for tick in scale.ticks:
        _text(svg, scale.at(tick), base + 16, number(tick), "middle", "tick")
    _text(svg, 100 - PAD, base + 32, name, "end", "name")
    return _markup(svg)


def axis(
    scale: Scale, title: str, *, left: str = "", right: str = "", sign: bool = False, factor: float = 1
) -> Svg:
    """The scale under a chart, with its ticks, and what either direction means."""
    height = 42 if left or right else 24
    svg = _figure(title, height)
    _line(svg, (PAD, 0.5), (100 - PAD, 0.5), "axis")
    for tick in scale.ticks:
        _upright(svg, scale.at(tick), 0, 5, "axis")
        _text(svg, scale.at(tick), 18, number(tick * factor, sign=sign), "middle", "tick")
    for where, text, anchor in ((PAD, left, "start"), (100 - PAD, right, "end")):
        if text:
            _text(svg, where, 36, text, anchor, "name")
    return _markup(svg)


def header(scale: Scale, title: str, at: float, text: str) -> Svg:
    """A label over a chart, at the line that it names."""
    svg, place = _figure(title, 20), scale.at(at)
    anchor = "end" if place > 60 else "start"
    _text(svg, place, 13, text, anchor, "name", shift=-4 if anchor == "end" else 4)
    _upright(svg, place, 4, 20, "limit")
    return _markup(svg)


def _stacks(
    scale: Scale, small: Sequence[float], large: Sequence[float], bins: int
) -> dict[int, tuple[list[float], list[float]]]:
    stacks: dict[int, tuple[list[float], list[float]]] = {}
    for which, values in enumerate((small, large)):
        for value in values:
            share = (scale.at(value) - PAD) / (100 - 2 * PAD)
            stacks.setdefault(min(bins - 1, int(share * bins)), ([], []))[which].append(value)
    return stacks


def _figure(title: str, height: float) -> ET.Element:
    svg = ET.Element(
        "svg", {"xmlns": "http://www.w3.org/2000/svg", "role": "img", "width": "100%", "height": px(height)}
    )
    name, _, more = one_line(title).partition(": ")
    child(svg, "title").text = name
    if more:
        child(svg, "desc").text = more
    return svg


def _ground(
    svg: ET.Element, scale: Scale, height: float, band: tuple[float, float] | None, limit: float | None
) -> None:
    if band is not None:
        _rect(svg, scale, *band, 0, height, "band")
    if not scale.log and scale.low <= 0 <= scale.high:
        _upright(svg, scale.at(0), 0, height, "zero")
    if limit is not None:
        _upright(svg, scale.at(limit), 0, height, "limit")


def _rect(svg: ET.Element, scale: Scale, low: float, high: float, y: float, height: float, kind: str) -> None:
    left, right = scale.at(low), scale.at(high)
    cell = child(svg, "rect", x=_pct(left), width=_pct(right - left), y=px(y), height=px(height))
    cell.set("class", kind)


def _line(svg: ET.Element, one: tuple[float, float], other: tuple[float, float], kind: str) -> None:
    (x1, y1), (x2, y2) = one, other
    child(svg, "line", x1=_pct(x1), y1=px(y1), x2=_pct(x2), y2=px(y2)).set("class", kind)


def _upright(svg: ET.Element, x: float, top: float, bottom: float, kind: str) -> None:
    _line(svg, (x, top), (x, bottom), kind)


def _text(svg: ET.Element, x: float, y: float, text: str, anchor: str, kind: str, shift: float = 0) -> None:
    words = child(svg, "text", x=_pct(x), y=px(y), dx=px(shift))
    words.set("text-anchor", anchor)
    words.set("class", kind)
    words.text = one_line(text)


def _mark(svg: ET.Element, x: float, y: float, shape: str, kind: str) -> None:
    """A shape in pixels around a place in per cent: an inner svg is the only element that can do both."""
    place = child(svg, "svg", x=_pct(x), y=px(y), overflow="visible")
    path = child(place, "path", d=MARKS[shape])
    path.set("class", kind)


def child(parent: ET.Element, name: str, **attributes: str) -> ET.Element:
    """A new element under another."""
    return ET.SubElement(parent, name, attributes)


def _pct(x: float) -> str:
    return f"{x:.3f}%"


def px(x: float) -> str:
    """A length in pixels as an attribute."""
    return f"{x:.2f}".rstrip("0").rstrip(".")


def _markup(svg: ET.Element) -> Svg:
    return Svg(ET.tostring(svg, encoding="unicode"))
