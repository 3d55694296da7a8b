"""The figures of a comparison: attack success, ablations, gates, safety against over-refusal and against speed."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from specsafe.compare.result import Ablation, ComparisonResult, MethodResult
from specsafe.report.blocks import Drawing
from specsafe.report.comparing.words import labelled_briefly, named, per_second
from specsafe.report.drawing.axes import Span
from specsafe.report.drawing.canvas import Canvas, drawing
from specsafe.report.drawing.rows import Line, Panel, narrow_rows, wide_rows
from specsafe.report.drawing.scatter import Axis, Dot, narrow_scatter, wide_scatter
from specsafe.report.figures import Scale, linear
from specsafe.report.numbers import GLUE, percent, quotient, rate, ratio
from specsafe.stats import Proportion, Ratio

ASR, OVER = "ASR strict, %", "over-refused, %"
_MARKED = re.compile(r"\b(published|default)", re.IGNORECASE)


def success(result: ComparisonResult) -> Drawing:
    """Attack success of every method, in the order of the file."""
    first = _first(result)
    spans = [_share(m.asr_strict) for m in result.methods]
    panel = Panel(ASR, _percent(spans), _hundred(first.asr_strict.estimate))
    lines = [Line(m.row, m.row in result.baselines, (s,)) for m, s in zip(result.methods, spans, strict=True)]
    legend = f"Squares: the baselines. Dashed: {named(first.row)}."
    return _rows(
        result,
        "asr",
        "Harmful requests complied with (ASR strict), with 95 % intervals",
        [panel],
        lines,
        legend,
    )


def against_refusal(result: ComparisonResult) -> Drawing:
    """Attack success against over-refusal: down is safer, left is more helpful."""
    dots = [
        Dot(n, m.row, m.row in result.baselines, _share(m.over_refusal), _share(m.asr_strict))
        for n, m in enumerate(result.methods, 1)
    ]
    x = Axis(OVER, _window([d.x for d in dots]), "left: helps more")
    y = Axis(ASR, _window([d.y for d in dots]), "down: safer")
    return _scatter(result, "safety-over-refusal", "Safety against over-refusal", x, y, dots, "")


def against_speed(result: ComparisonResult) -> Drawing | None:
    """Attack success against tokens a second; None if nothing was timed."""
    timed = [(n, m) for n, m in enumerate(result.methods, 1) if m.tokens_a_second.estimate is not None]
    if not timed:
        return None
    dots = [
        Dot(n, m.row, m.row in result.baselines, _number(m.tokens_a_second), _share(m.asr_strict))
        for n, m in timed
    ]
    reach = [v for d in dots for v in (d.x.estimate, d.x.high) if v is not None]
    base = _first(result)
    x = Axis("tokens a second", linear(0, max(reach)), "right: faster", base.tokens_a_second.estimate)
    y = Axis(ASR, _window([d.y for d in dots]), "down: safer")
    above = f"Above: times the tokens a second of {named(base.row)}. {per_second()}"
    untimed = [m.row for m in result.methods if m.tokens_a_second.estimate is None]
    left_out = f" Not timed: {', '.join(map(named, untimed))}." if untimed else ""
    return _scatter(result, "safety-speed", "Safety against speed", x, y, dots, above + left_out)


def ablations(result: ComparisonResult) -> list[tuple[Ablation, Drawing]]:
    """Each ablation with its figure; that of a gate shows the share of union too."""
    if result.tuning is None:
        return []
    files = _files([("gate" if is_gate(a) else "ablation", a.name) for a in result.tuning.ablations])
    return [
        (a, _ablation(result, a, file))
        for a, file in zip(result.tuning.ablations, files, strict=True)
        if a.methods
    ]


def is_gate(ablation: Ablation) -> bool:
    """Whether what is varied is the gate."""
    return ablation.varied == "gate" or ablation.varied.startswith("gate.")


def is_marked(setting: str) -> bool:
    """Whether the name of a setting says that it is the published or the default one."""
    return bool(_MARKED.search(setting))


def _ablation(result: ComparisonResult, ablation: Ablation, file: str) -> Drawing:
    harmful = [_share(m.asr_strict) for m in ablation.methods]
    refused = [_share(m.over_refusal) for m in ablation.methods]
    scale = _percent([*harmful, *refused])
    panels, columns = [Panel(ASR, scale), Panel(OVER, scale)], [harmful, refused]
    if is_gate(ablation) and any(m.union for m in ablation.methods):
        panels.append(Panel("union, % of tokens", linear(0, 100, most=5)))
        columns.append([_tokens(m.union) for m in ablation.methods])
    lines = [
        Line(m.row, is_marked(m.row), spans)
        for m, *spans_ in zip(ablation.methods, *columns, strict=True)
        for spans in [tuple(spans_)]
    ]
    legend = "Tuning prompts alone."
    if any(line.marked for line in lines):
        legend += " Square: the published or default setting."
    caption = f"{named(ablation.name)}: {named(ablation.method)} with {named(ablation.varied)} changed"
    return _rows(result, file, caption, panels, lines, legend)


def _rows(
    result: ComparisonResult,
    file: str,
    caption: str,
    panels: Sequence[Panel],
    lines: Sequence[Line],
    legend: str,
) -> Drawing:
    told = "; ".join(
        f"{named(line.label)}: "
        + ", ".join(f"{p.name.removesuffix(', %')} {s.text}" for p, s in zip(panels, line.spans, strict=True))
        for line in lines
    )
    return _drawing(result, file, caption, told, wide_rows(panels, lines), narrow_rows(panels, lines), legend)


def _scatter(
    result: ComparisonResult, file: str, caption: str, x: Axis, y: Axis, dots: Sequence[Dot], more: str
) -> Drawing:
    told = "; ".join(f"{named(d.label)}: {y.name} {d.y.text}, {x.name} {d.x.text}" for d in dots)
    (wide, left_out), (narrow, also) = wide_scatter(x, y, dots), narrow_scatter(x, y, dots)
    unnamed = list(dict.fromkeys([*left_out, *also]))
    legend = " ".join(
        [
            "Light crosses: 95 % intervals of both. Squares: the baselines.",
            *([more] if more else []),
            *([f"No room for the names of {', '.join(map(named, unnamed))}."] if unnamed else []),
        ]
    )
    return _drawing(result, file, caption, told, wide, narrow, legend)


def _drawing(
    result: ComparisonResult, file: str, caption: str, told: str, wide: Canvas, narrow: Canvas, legend: str
) -> Drawing:
    note = f"{legend} {labelled_briefly(result)} Comparison {named(result.name)}, specsafe {named(result.version)}."
    return drawing(file, caption, told, wide, narrow, legend, note)


def _first(result: ComparisonResult) -> MethodResult:
    """The row that speed is told by: the first baseline."""
    return next(m for m in result.methods if m.row == result.baselines[0])


def _files(named_: Iterable[tuple[str, str]]) -> list[str]:
    """File names of letters, digits and hyphens, each once."""
    found: list[str] = []
    for kind, name in named_:
        slug = re.sub(r"[^a-z0-9]+", "-", name.casefold()).strip("-")[:40]
        stem = slug if slug.startswith(kind) else f"{kind}-{slug}".strip("-")
        found.append(stem if stem not in found else f"{stem}-{len(found) + 1}")
    return found


def _hundred(share: float | None) -> float | None:
    return None if share is None else 100 * share


def _share(p: Proportion) -> Span:
    brief = f"{p.k}/{p.n}{GLUE}={GLUE}{percent(p.estimate)}" if p.estimate is not None else f"{p.k}/{p.n}"
    return Span(_hundred(p.estimate), _hundred(p.low), _hundred(p.high), rate(p), brief)


def _tokens(r: Ratio | None) -> Span:
    if r is None or r.estimate is None:
        return Span(None, None, None, "–", "–")
    brief = f"{percent(r.estimate)} of {r.n:,.0f}"
    return Span(_hundred(r.estimate), _hundred(r.low), _hundred(r.high), ratio(r), brief)


def _number(r: Ratio) -> Span:
    return Span(r.estimate, r.low, r.high, quotient(r, 1), quotient(r, 1))


def _window(spans: Sequence[Span]) -> Scale:
    """What the intervals reach, at least a tenth: points do not stand on zero as bars do."""
    ends = [v for s in spans for v in (s.estimate, s.low, s.high) if v is not None]
    low, high = min(ends, default=0.0), max(ends, default=100.0)
    middle = min(95.0, max(5.0, (low + high) / 2))
    return linear(max(0.0, min(low, middle - 5)), min(100.0, max(high, middle + 5)), most=8)


def _percent(spans: Sequence[Span]) -> Scale:
    """From 0 to the highest interval, at least a tenth."""
    reach = [v for s in spans for v in (s.estimate, s.high) if v is not None]
    return linear(0, min(100.0, max([10.0, *reach])), most=8)
