"""What a report is made of, whatever it is written in: sections of paragraphs, tables, charts and folds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

from specsafe.report.figures import Svg

Tone = Literal["plain", "good", "bad", "open"]


class Row(NamedTuple):
    """A row of a table; mark: "strong" for what matters most, "bad" for what failed, "open" for what differs."""

    cells: tuple[str, ...]
    mark: Tone | Literal["strong"] = "plain"


class Mark(NamedTuple):
    """One line of a chart: its name, the figure, the same in words, the counts, and what was decided."""

    label: str
    figure: Svg
    reading: str
    counts: str
    tag: str = ""
    tone: Tone = "plain"
    minor: bool = False


@dataclass(frozen=True, slots=True)
class Para:
    """Running text; `warning` stands out, `note` stands back."""

    text: str
    kind: Literal["plain", "note", "warning"] = "plain"
    name: Literal["para"] = "para"


@dataclass(frozen=True, slots=True)
class Facts:
    """Terms and what holds of them."""

    rows: tuple[tuple[str, str], ...]
    name: Literal["facts"] = "facts"


@dataclass(frozen=True, slots=True)
class Table:
    """The first column names the rows. numbers: the other columns are set to the right."""

    caption: str
    head: tuple[str, ...]
    rows: tuple[Row, ...]
    numbers: bool = True
    name: Literal["table"] = "table"


@dataclass(frozen=True, slots=True)
class Chart:
    """Lines under one scale. heads: what label, reading, counts and tag are. top and axis are figures too."""

    caption: str
    heads: tuple[str, str, str, str]
    top: Svg | None
    axis: Svg
    groups: tuple[Group, ...]
    legend: str = ""
    name: Literal["chart"] = "chart"


@dataclass(frozen=True, slots=True)
class Group:
    """Lines that belong together; `folded` are shown on demand under `fold`."""

    rows: tuple[Mark, ...]
    folded: tuple[Mark, ...] = ()
    fold: str = ""


@dataclass(frozen=True, slots=True)
class Figures:
    """Small figures side by side, each with its caption; `table` is the same in numbers."""

    figures: tuple[tuple[str, Svg], ...]
    table: Table
    legend: str = ""
    name: Literal["figures"] = "figures"


@dataclass(frozen=True, slots=True)
class Drawing:
    """A figure drawn twice, for a wide and for a narrow page, and once as a file of its own: `file`, without an ending."""

    caption: str
    file: str
    wide: Svg
    narrow: Svg
    alone: Svg
    legend: str
    name: Literal["drawing"] = "drawing"


@dataclass(frozen=True, slots=True)
class Fold:
    """Blocks shown on demand."""

    summary: str
    blocks: tuple[Block, ...]
    name: Literal["fold"] = "fold"


@dataclass(frozen=True, slots=True)
class Verbatim:
    """A text as it is, line breaks kept."""

    title: str
    text: str
    name: Literal["verbatim"] = "verbatim"


Block: TypeAlias = Para | Facts | Table | Chart | Figures | Drawing | Fold | Verbatim


class Section(NamedTuple):
    """A part of the report with an id of its own."""

    id: str
    title: str
    blocks: tuple[Block, ...]


class Card(NamedTuple):
    """One thing decided: what, how, and the numbers that it rests on."""

    title: str
    verdict: str
    tone: Tone
    bound: str
    lines: tuple[str, ...]


class Front(NamedTuple):
    """What is read first. verdict: the largest words; a comparison, which decides nothing, says how many methods it has."""

    kicker: str
    verdict: str
    tone: Tone
    bound: str
    lead: str
    answers: tuple[tuple[str, str], ...]
    loud: tuple[str, ...]
    flags: tuple[str, ...]
    cards: tuple[Card, ...]
    headline: str


class Document(NamedTuple):
    """A whole report."""

    title: str
    front: Front
    sections: tuple[Section, ...]
    footer: tuple[str, ...]
