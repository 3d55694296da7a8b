"""How a study's numbers and names are written, in one wording."""

from __future__ import annotations

from specsafe.analysis.result import Estimate, Hypothesis, Line, Standing, StudyResult
from specsafe.battery import axis_label
from specsafe.report.blocks import Tone
from specsafe.report.figures import number
from specsafe.report.numbers import GLUE, count, interval, level, p_value, percent, points, thousands
from specsafe.report.printable import SHORT, cut, one_line

TONES: dict[Standing, Tone] = {
    Standing.SUPPORTED: "good",
    Standing.NOT_SUPPORTED: "plain",
    Standing.REVERSED: "bad",
    Standing.NOT_TESTABLE: "open",
    Standing.NOT_PLANNED: "plain",
}
_BAD = (
    "more harm",
    "different",
    "rises",
    "not caught",
    "the target disagrees with itself",
    "toward the draft",
)


def named(text: str) -> str:
    """A name of a protocol as one line of bearable length."""
    return one_line(cut(text, SHORT))


def in_words(h: Hypothesis) -> str:
    """What the protocol calls a hypothesis, where it says so."""
    return f" In the protocol's words: {named(h.words)}." if h.words else ""


def about(x: Line) -> str:
    """What a line is of: its cell, or the cells together, and what tells it from others of the same."""
    parts = [x.cell or x.pair or (f"place {x.where}" if x.where else ""), x.of if x.of not in x.cell else ""]
    return named(", ".join(p for p in parts if p) or "all together")


def on(x: Line) -> str:
    """The axis, or the task of it."""
    return named(f"{axis_label(x.axis)}, {x.task}" if x.axis and x.task else x.task or axis_label(x.axis))


def value(e: Estimate) -> str:
    """The number in its unit, a dash where it is not known."""
    if e.estimate is None:
        return "–"
    if e.unit == "share":
        return percent(e.estimate)
    if e.unit == "points":
        return points(e.estimate, 2)
    return figure(e.estimate)


def figure(x: float) -> str:
    """A plain number with the digits that it deserves."""
    return number(float(f"{x:.4g}"))


def between(e: Estimate) -> str:
    """The interval in the number's unit; … where an end is not known."""
    if e.low is None and e.high is None:
        return "–"
    if e.unit == "points" and e.low is not None and e.high is not None:
        return interval(e.low, e.high, 2)
    scale = 100 if e.unit in ("share", "points") else 1
    ends = ["…" if x is None else f"{scale * x:.1f}" if scale == 100 else figure(x) for x in (e.low, e.high)]
    return f"[{ends[0]},{GLUE}{ends[1]}]"


def of(e: Estimate) -> str:
    """K of n, or n alone."""
    return (
        f"{count(e.k) if e.k < 1000 else thousands(e.k)}/{thousands(e.n)}"
        if e.k is not None
        else thousands(e.n)
    )


def p_of(e: Estimate) -> str:
    """The p-value, or a dash."""
    return "–" if e.p is None else p_value(e.p)


def method(e: Estimate) -> str:
    """How it was found, at which confidence, and the counts behind it."""
    sure = f", {level(e.confidence)}" if e.confidence is not None else ""
    behind = "; ".join(f"{name} {figure(v)}" for name, v in e.parts.items())
    return f"{e.method}{sure}{f' ({behind})' if behind else ''}"


def mark(reading: str) -> Tone:
    """How a row is marked by what it shows."""
    return "bad" if reading.startswith(_BAD) else "open" if "not resolved" in reading else "plain"


def planned(result: StudyResult) -> tuple[int, int, int]:
    """Answers planned, there, and failed for good, over all cells."""
    return (
        sum(c.planned for c in result.cells),
        sum(c.answered for c in result.cells),
        sum(c.failed for c in result.cells),
    )
