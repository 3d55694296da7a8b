"""The figures of a study: forest, dose response, acceptance by position, identity, forks by cause, planned and actual."""

from __future__ import annotations

from collections.abc import Sequence

from specsafe.analysis.result import Estimate, Line, StudyResult
from specsafe.battery import axis_label
from specsafe.report.blocks import Block, Drawing
from specsafe.report.drawing.axes import Span
from specsafe.report.drawing.canvas import Canvas, drawing
from specsafe.report.drawing.grid import Cell, grid
from specsafe.report.drawing.plot import Curve, Point, plot
from specsafe.report.drawing.rows import Line as Mark
from specsafe.report.drawing.rows import Panel, narrow_rows, wide_rows
from specsafe.report.figures import linear
from specsafe.report.numbers import thousands
from specsafe.report.studies.words import between, named, of, value

MOST = 48  # rows of a figure
_WIDEST = 12.0  # points; an interval that reaches farther than all estimates may end at the edge


def progress(result: StudyResult) -> Drawing:
    """Answers there of those planned, place by place."""
    places = list(dict.fromkeys(c.where for c in result.cells))
    marks = []
    for place in places[:MOST]:
        cells = [c for c in result.cells if c.where == place]
        planned, there = sum(c.planned for c in cells), sum(c.answered for c in cells)
        text = f"{thousands(there)} of {thousands(planned)}"
        share = 100 * there / planned if planned else None
        name = f"phase {place}" if place.isdigit() else place
        marks.append(
            Mark(named(name), there < planned, (Span(share, 0.0 if share else None, share, text, text),))
        )
    panel = Panel("answered, % of planned", linear(0, 100, most=6), 100.0)
    return _rows(
        result, "planned", "Planned against actual", panel, marks, "Square: something is missing or failed."
    )


def forest(result: StudyResult) -> list[Block]:
    """Differences of every judged cell outside of dose series against the margin, one figure an axis."""
    found = [x for x in result.find("equivalence").lines if not x.task and not _swept(x)]
    axes = dict.fromkeys(x.axis for x in found)
    return [_forest(result, n, axis, [x for x in found if x.axis == axis]) for n, axis in enumerate(axes, 1)]


def _forest(result: StudyResult, number: int, axis: str, lines: Sequence[Line]) -> Drawing:
    spans = [(x, _points(x.estimates[0])) for x in lines[:MOST]]
    margin = 100 * result.margin
    at = [s.estimate or 0.0 for _, s in spans]
    # every estimate is inside; an interval may leave a figure that it would squeeze
    low = min(-margin, *at, *(max(-_WIDEST, s.low or 0.0) for _, s in spans))
    high = max(1.5 * margin, *at, *(min(_WIDEST, s.high or 0.0) for _, s in spans))
    marks = [Mark(named(x.cell), x.reading == "different", (s,)) for x, s in spans]
    left_out = f" {len(lines) - MOST} more stand in the table." if len(lines) > MOST else ""
    legend = f"Dashed: the margin of {margin:g} points. Square: different by more than that.{left_out}"
    panel = Panel("points of harm more", linear(low, high, most=8), margin)
    title = f"{axis_label(axis).capitalize()}: difference in harm against the matched target, with the rule's bounds"
    return _rows(result, f"forest-{number}", title, panel, marks, legend)


def _swept(x: Line) -> bool:
    return x.cell.partition(": ")[0].rpartition("/")[2] == "4"


def dose(result: StudyResult) -> list[Block]:
    """Difference in harm over the tokens drafted a round, one figure an axis, one curve a series."""
    found = [x for x in result.find("critical_dose").lines if "dose" in x.estimates[0].parts]
    blocks: list[Block] = []
    for n, axis in enumerate(dict.fromkeys(x.axis for x in found), 1):
        series: dict[str, list[Point]] = {}
        for x in found:
            if x.axis == axis:
                e = x.estimates[0]
                place = x.cell.partition(": ")[0]
                name = x.pair if place == "4" else f"{x.pair}, {place}"
                series.setdefault(named(name), []).append(_point(e.parts["dose"], e, 100.0))
        curves = [Curve(name, tuple(sorted(points))) for name, points in list(series.items())[:MOST]]
        title = f"{axis_label(axis).capitalize()}: difference over the tokens drafted a round"
        drawn = plot(curves, "num_speculative_tokens", "points of harm more", limit=100 * result.margin)
        legend = (
            "Lines up: 90 % intervals of each dose. Dashed: the margin. The same items answer at every dose."
        )
        blocks.append(_drawing(result, f"dose-{n}", title, _told(curves), *drawn, legend))
    return blocks


def positions(result: StudyResult) -> list[Block]:
    """Acceptance at slot 1, 2, … by axis, one figure a cell of phase 2 (or of whatever tells its positions)."""
    lines = [x for x in result.find("matched_positions").lines if x.axis]
    cells = list(dict.fromkeys(x.cell for x in lines if not _swept(x)))[:6]
    blocks: list[Block] = []
    for n, cell in enumerate(cells, 1):
        curves = []
        for axis in dict.fromkeys(x.axis for x in lines if x.cell == cell):
            mine = [x.estimates[0] for x in lines if x.cell == cell and x.axis == axis]
            points = [_point(e.parts["position"], e, 100.0) for e in mine if e.estimate is not None]
            if points:
                curves.append(Curve(axis_label(axis), tuple(points)))
        if curves:
            title = f"{named(cell)}: acceptance by position and domain"
            drawn = plot(curves, "slot of the round", "accepted, % of rounds that came so far", whole=True)
            legend = "Slot 1 is never past the end of an answer; later ones may be, by at most one round an answer."
            blocks.append(_drawing(result, f"acceptance-{n}", title, _told(curves), *drawn, legend))
    return blocks


def identity(result: StudyResult) -> list[Block]:
    """Share of byte-identical answers, cell by task."""
    lines = [x for x in result.find("identity").lines if x.task]
    cells = list(dict.fromkeys(x.cell for x in lines))[:MOST]
    tasks = list(dict.fromkeys(x.task for x in lines))
    if not cells:
        return []
    shares = {(x.cell, x.task): x.estimates[0] for x in lines}
    table = [[_shade(shares.get((c, t))) for t in tasks] for c in cells]
    told = "; ".join(f"{named(c)}, {named(t)}: {value(e)} {of(e)}" for (c, t), e in shares.items())
    drawn = grid([named(c) for c in cells], [named(t) for t in tasks], table)
    title = "Answers that are byte-identical to the target's, %"
    return [
        _drawing(result, "identity", title, told, *drawn, "Darker: more of them. The tables have the counts.")
    ]


def _shade(e: Estimate | None) -> Cell:
    return Cell("–", None) if e is None or e.estimate is None else Cell(f"{100 * e.estimate:.0f}", e.estimate)


def causes(result: StudyResult) -> list[Block]:
    """Forks of every cell by how far the target preferred its own token: the nearer, the likelier it is arithmetic."""
    lines = [x for x in result.find("forks").lines if x.estimates[0].k][:MOST]
    if not lines:
        return []
    names = ["near tie", "up to 1 nat", "beyond 1 nat", "not known"]
    table, told = [], []
    for x in lines:
        large = x.estimates[1]
        forks, beyond = large.n, large.k or 0
        unknown, near = large.parts.get("unknown", 0.0), large.parts.get("near", 0.0)
        counts = (near, forks - near - beyond - unknown, beyond, unknown)
        table.append([Cell(f"{c:.0f}", c / forks if forks else None) for c in counts])
        told.append(
            f"{named(x.cell)}: " + ", ".join(f"{n} {c:.0f}" for n, c in zip(names, counts, strict=True))
        )
    drawn = grid([named(x.cell) for x in lines], names, table)
    legend = "Numbers are forks. A near tie: the target preferred its own token by less than 0.1 nat."
    return [
        _drawing(result, "forks", "Forks by the gap at which they happen", "; ".join(told), *drawn, legend)
    ]


def _point(x: float, e: Estimate, scale: float) -> Point:
    low, high = (None if v is None else scale * v for v in (e.low, e.high))
    return Point(x, scale * (e.estimate or 0.0), low, high, f"{value(e)} {between(e)}")


def _told(curves: Sequence[Curve]) -> str:
    return "; ".join(f"{c.name}: " + ", ".join(f"{p.x:g}: {p.text}" for p in c.points) for c in curves)


def _points(e: Estimate) -> Span:
    low, at, high = (None if v is None else 100 * v for v in (e.low, e.estimate, e.high))
    return Span(at, low, high, f"{value(e)} {between(e)}", value(e))


def _rows(
    result: StudyResult, file: str, caption: str, panel: Panel, marks: Sequence[Mark], legend: str
) -> Drawing:
    told = "; ".join(f"{m.label}: {m.spans[0].text}" for m in marks)
    return _drawing(
        result, file, caption, told, wide_rows([panel], marks), narrow_rows([panel], marks), legend
    )


def _drawing(
    result: StudyResult, file: str, caption: str, told: str, wide: Canvas, narrow: Canvas, legend: str
) -> Drawing:
    note = f"{legend} Study {named(result.name)}, specsafe {named(result.version)}."
    return drawing(file, caption, told, wide, narrow, legend, note)
