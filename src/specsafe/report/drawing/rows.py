"""A figure of rows: a name, and in each panel an estimate with its interval and its counts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from specsafe.report.drawing.axes import Place, Span, interval_across, ticks_across
from specsafe.report.drawing.canvas import LINE, NARROW, WIDE, Canvas, short, text_width
from specsafe.report.figures import Scale

_ROW, _TALL_ROW = 22, 40  # pixels: name and interval side by side, or the name above
_HEAD, _FOOT = 24, 22
_NAMES = 240.0  # pixels of a name at most
_EDGE = 6.0  # pixels kept free beside a scale, so that a tick label stays inside


class Line(NamedTuple):
    """A row; marked ones have a square and a bold name."""

    label: str
    marked: bool
    spans: tuple[Span, ...]


class Panel(NamedTuple):
    """A column of the figure. limit: a dashed line."""

    name: str
    scale: Scale
    limit: float | None = None


def wide_rows(panels: Sequence[Panel], lines: Sequence[Line]) -> Canvas:
    """Names once, panels beside each other, what is written right of each."""
    names = max(text_width(short(line.label, _NAMES)) for line in lines) + 18
    brief = len(panels) > 1
    said = [max(text_width(_said(line.spans[k], brief)) for line in lines) + 20 for k in range(len(panels))]
    room = (WIDE + 6 - names - sum(said)) / len(panels)
    bottom = _HEAD + _ROW * len(lines)
    canvas, left = Canvas(WIDE, bottom + _FOOT), names
    for n, line in enumerate(lines):
        canvas.words(8, _HEAD + _ROW * (n + 0.5) + 4, short(line.label, _NAMES), _kind(line))
    for k, panel in enumerate(panels):
        place = Place(panel.scale, left + _EDGE, left + room - _EDGE)
        canvas.words(place.left, 14, panel.name, "words strong")
        _ground(canvas, place, panel.limit, _HEAD, bottom)
        for n, line in enumerate(lines):
            middle = _HEAD + _ROW * (n + 0.5)
            _draw(canvas, place, line.spans[k], line.marked, middle)
            canvas.words(left + room + said[k] - 14, middle + 4, _said(line.spans[k], brief), "tick", "end")
        left += room + said[k]
    return canvas


def narrow_rows(panels: Sequence[Panel], lines: Sequence[Line]) -> Canvas:
    """Panels under each other, each name above its interval."""
    each = _HEAD + _TALL_ROW * len(lines) + _FOOT + LINE
    canvas = Canvas(NARROW, each * len(panels) - LINE)
    place_ = 8 + _EDGE, NARROW - 8 - _EDGE
    for k, panel in enumerate(panels):
        top, place = each * k, Place(panel.scale, *place_)
        canvas.words(8, top + 14, panel.name, "words strong")
        _ground(canvas, place, panel.limit, top + _HEAD, top + _HEAD + _TALL_ROW * len(lines))
        for n, line in enumerate(lines):
            above = top + _HEAD + _TALL_ROW * n
            name = short(line.label, NARROW - 28 - text_width(line.spans[k].brief))
            canvas.words(8, above + 16, name, f"{_kind(line)} halo")
            canvas.words(NARROW - 8, above + 16, line.spans[k].brief, "tick halo", "end")
            _draw(canvas, place, line.spans[k], line.marked, above + 26)
    return canvas


def _said(span: Span, brief: bool) -> str:
    return span.brief if brief else span.text


def _kind(line: Line) -> str:
    return "words strong" if line.marked else "words"


def _ground(canvas: Canvas, place: Place, limit: float | None, top: float, bottom: float) -> None:
    """Ticks with their lines, and the dashed line."""
    ticks_across(canvas, place, top, bottom)
    canvas.line((place.left, bottom), (place.right, bottom), "axis")
    if limit is not None:
        canvas.line((place.at(limit), top), (place.at(limit), bottom), "limit")


def _draw(canvas: Canvas, place: Place, span: Span, marked: bool, middle: float) -> None:
    interval_across(canvas, place, span.low, span.high, middle, "interval")
    if span.estimate is not None:
        canvas.mark(place.at(span.estimate), middle, "square" if marked else "circle")
