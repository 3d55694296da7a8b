"""Figures of a fixed size, in pixels: drawn once for a page and once, with a style of its own, for a file.

Classes are those of report.css where a page shows the figure; a file brings FILE_STYLE, which needs no variable and no
font but the usual ones. Nothing is told by colour alone.
"""

from __future__ import annotations

import copy
import unicodedata
from collections.abc import Sequence
from typing import NamedTuple
from xml.etree import ElementTree as ET

from specsafe.report.blocks import Drawing
from specsafe.report.figures import MARKS, Svg, child, px
from specsafe.report.printable import SHORT, cut, one_line

FONT = 12  # pixels of every text
LINE = 15  # from one line of text to the next
WIDE, NARROW = 760, 356  # pixels: for a desk or a printed page, for a phone
_EMS = {  # of the broadest of the usual fonts, by kinds of characters
    "mwMW@%—": 1.0,
    "=+<>−×~": 0.84,
    "ijl|.,:;'!()[]/ftrI \u00a0": 0.41,
}
_EM = {c: em for characters, em in _EMS.items() for c in characters}

FILE_STYLE = (
    'text{font:12px Helvetica,Arial,"Liberation Sans","DejaVu Sans",sans-serif;fill:#1d2126}'
    ".tick,.name{fill:#59616b}.strong{font-weight:700}"
    ".halo{paint-order:stroke;stroke:#fff;stroke-width:3px;stroke-linejoin:round}"
    ".grid{stroke:#e3e6ea}.axis{stroke:#59616b}.limit{stroke:#1d2126;stroke-width:1.25;stroke-dasharray:4 3}"
    ".interval{stroke:#234b74;stroke-width:2.5}.cross{stroke:#bcc5ce}.leader{stroke:#59616b;stroke-width:.75}"
    ".mark{fill:#234b74;stroke:#234b74;stroke-width:1.5}.mark.edged{stroke:#fff;stroke-width:1.25}.sheet{fill:#fff}"
    ".heat{fill:#234b74}.curve{stroke:#234b74;stroke-width:1.5}.frame{fill:none;stroke:#59616b}.mark.hollow{fill:#fff}"
)


class Box(NamedTuple):
    """A rectangle in pixels."""

    left: float
    top: float
    right: float
    bottom: float


class Canvas:
    """A drawing that grows: words, lines and marks at places in pixels."""

    def __init__(self, width: float, height: float) -> None:
        self.width, self.height = width, height
        self._root = ET.Element("g")

    def words(self, x: float, y: float, text: str, kind: str = "words", anchor: str = "start") -> None:
        """Text whose baseline is at y. anchor: start, middle or end of it is at x."""
        element = child(self._root, "text", x=px(x), y=px(y))
        element.set("text-anchor", anchor)
        element.set("class", kind)
        element.text = one_line(text)

    def line(self, one: tuple[float, float], other: tuple[float, float], kind: str) -> None:
        """A line from one place to another."""
        (x1, y1), (x2, y2) = one, other
        child(self._root, "line", x1=px(x1), y1=px(y1), x2=px(x2), y2=px(y2)).set("class", kind)

    def rect(self, box: Box, kind: str, share: float = 1.0) -> None:
        """A filled rectangle; share: how dark, of its class' colour."""
        left, top, right, bottom = box
        cell = child(
            self._root,
            "rect",
            x=px(left),
            y=px(top),
            width=px(max(0.0, right - left)),
            height=px(bottom - top),
        )
        cell.set("class", kind)
        cell.set("fill-opacity", f"{share:.2f}")

    def path(self, places: Sequence[tuple[float, float]], kind: str) -> None:
        """A line through places."""
        points = " ".join(f"{px(x)},{px(y)}" for x, y in places)
        child(self._root, "polyline", points=points, fill="none").set("class", kind)

    def mark(self, x: float, y: float, shape: str, kind: str = "mark") -> None:
        """A shape of `figures.MARKS` around a place."""
        child(self._root, "path", d=MARKS[shape], transform=f"translate({px(x)} {px(y)})").set("class", kind)

    def for_page(self, title: str, told: str) -> Svg:
        """Markup that a page's stylesheet colours. title and told: what it is and shows, for who cannot see it."""
        return Svg(ET.tostring(self._svg(title, told, self.height), encoding="unicode"))

    def for_file(self, title: str, told: str, note: str) -> Svg:
        """A document that stands alone: title above, note below, on white."""
        above, below = (wrapped(text, self.width - 16) for text in (title, note))
        head, foot = LINE * len(above) + 12, LINE * len(below) + 14
        svg = self._svg(title, told, head + self.height + foot)
        child(svg, "style").text = FILE_STYLE
        child(svg, "rect", width="100%", height="100%").set("class", "sheet")
        sheet = Canvas(self.width, 0)
        for n, text in enumerate(above):
            sheet.words(8, 16 + LINE * n, text, "words strong")
        for n, text in enumerate(below):
            sheet.words(8, head + self.height + 14 + LINE * n, text, "name")
        drawing = svg[2]  # after title and desc
        svg.remove(drawing)
        drawing.set("transform", f"translate(0 {px(head)})")
        svg.extend([drawing, sheet._root])
        return Svg(ET.tostring(svg, encoding="unicode") + "\n")

    def _svg(self, title: str, told: str, height: float) -> ET.Element:
        size = {
            "width": px(self.width),
            "height": px(height),
            "viewBox": f"0 0 {px(self.width)} {px(height)}",
        }
        svg = ET.Element("svg", {"xmlns": "http://www.w3.org/2000/svg", "role": "img", **size})
        child(svg, "title").text = one_line(title)
        child(svg, "desc").text = one_line(told)
        svg.append(copy.deepcopy(self._root))
        return svg


def drawing(
    file: str, caption: str, told: str, wide: Canvas, narrow: Canvas, legend: str, note: str
) -> Drawing:
    """A figure for a page and for a file of its own, which has the note (legend and origin) below it."""
    return Drawing(
        caption=caption,
        file=file,
        wide=wide.for_page(caption, told),
        narrow=narrow.for_page(caption, told),
        alone=wide.for_file(caption, told, note),
        legend=legend,
    )


def text_width(text: str) -> float:
    """Pixels that a text takes at most in the usual sans-serif fonts."""
    return FONT * sum(map(_em, text))


def _em(character: str) -> float:
    if unicodedata.east_asian_width(character) in "WF":
        return 1.05
    return _EM.get(character, 0.76 if character.isupper() or not character.isascii() else 0.64)


def short(name: str, width: float) -> str:
    """A name as a figure shows it: one line of at most so many pixels, its end left out where it is longer."""
    line = one_line(cut(name, SHORT))
    if text_width(line) <= width:
        return line
    room, kept = width - text_width("…"), 0
    while kept < len(line) and text_width(line[: kept + 1]) <= room:
        kept += 1
    return f"{line[:kept]}…"


def wrapped(text: str, width: float) -> list[str]:
    """A text in lines that fit."""
    lines: list[str] = []
    for word in one_line(text).split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and text_width(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines
