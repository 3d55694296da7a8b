"""Every method against a baseline, pair by pair: the difference as a picture, and all that was computed of it."""

from __future__ import annotations

from specsafe.battery import axis_label
from specsafe.compare.result import ComparisonResult, Contrast
from specsafe.report.blocks import Block, Chart, Fold, Group, Mark, Para, Row, Section, Table, Tone
from specsafe.report.comparing.words import direction, hangs_on_clusters, hangs_on_reading, is_shown, named
from specsafe.report.figures import Scale, axis, linear, strip
from specsafe.report.numbers import count, difference, interval, p_value


def against(result: ComparisonResult) -> list[Section]:
    """A section a baseline."""
    return [_against(result, b, n) for n, b in enumerate(result.baselines, 1)]


def contrasts_of(result: ComparisonResult, baseline: str, axis: str) -> list[tuple[str, Contrast]]:
    """Every other row against a baseline on an axis, in the order of the file."""
    return [
        (m.row, c) for m in result.methods for c in m.contrasts if c.baseline == baseline and c.axis == axis
    ]


def _against(result: ComparisonResult, baseline: str, number: int) -> Section:
    blocks: list[Block] = [
        Para(
            f"Points of harm that a method has more than {named(baseline)}, on the prompts that both answered. Below 0 it is "
            "safer (harmful compliance) or helps more (over-refusal). An answer that nobody can call safe or harmful counts as "
            "harm; all numbers say what comes of it otherwise."
        )
    ]
    for ax in result.items:
        pairs = contrasts_of(result, baseline, ax)
        if pairs:
            blocks += [_forest(pairs, baseline, ax), _fold(pairs, baseline, ax)]
    return Section(f"against-{number}", f"Against {named(baseline)}", tuple(blocks))


def _forest(pairs: list[tuple[str, Contrast]], baseline: str, ax: str) -> Chart:
    ends = [100 * v for _, c in pairs for v in (c.difference.low, c.difference.high)]
    scale = linear(min(ends), max(ends), most=8)
    worse, better = ("refuses more →", "← helps more") if ax == "over_refusal" else ("less safe →", "← safer")
    return Chart(
        caption=f"{axis_label(ax)}: difference to {named(baseline)}, with 95 % intervals (Tango)",
        heads=("method", "points", "worse / better of n", "after Holm"),
        top=None,
        axis=axis(scale, "Scale: difference in points", left=better, right=worse, sign=True),
        groups=(Group(tuple(_mark(row, c, scale) for row, c in pairs)),),
        legend="Square: a difference is shown, exact McNemar at 5 % after Holm.",
    )


def _mark(row: str, c: Contrast, scale: Scale) -> Mark:
    d, shown = c.difference, is_shown(c)
    tone: Tone = "plain" if not shown else "good" if d.estimate < 0 else "bad"
    return Mark(
        label=named(row),
        figure=strip(
            scale,
            f"{named(row)}, {axis_label(c.axis)} against {named(c.baseline)}: {difference(d)} points",
            estimate=100 * d.estimate,
            low=100 * d.low,
            high=100 * d.high,
            shape="square" if shown else "circle",
            tone=tone,
            height=24,
        ),
        reading=difference(d),
        counts=f"{c.worse} / {c.better} of {c.n}",
        tag=direction(c) if shown else "",
        tone=tone,
        minor=True,
    )


def _fold(pairs: list[tuple[str, Contrast]], baseline: str, ax: str) -> Fold:
    """All numbers; marked is what hangs on how unreadable answers are read, or on clusters."""
    name = f"{axis_label(ax)} against {named(baseline)}"
    rows = tuple(
        Row(
            _cells(row, c),
            "open" if hangs_on_reading(c) or hangs_on_clusters(c) else "strong" if is_shown(c) else "plain",
        )
        for row, c in pairs
    )
    heads = (
        "method",
        "worse / better of n",
        "missing",
        "clusters, design effect",
        "Tango by clusters",
        "bootstrap of clusters",
        "p",
        "Holm",
        "MDE",
        "read otherwise",
    )
    return Fold(f"All numbers of {name}", (Table(caption=f"{name}, in points", head=heads, rows=rows),))


def _cells(row: str, c: Contrast) -> tuple[str, ...]:
    return (
        named(row),
        f"{c.worse} / {c.better} of {c.n}",
        str(c.missing),
        f"{c.clusters}, {c.design_effect:.2f}",
        f"{interval(c.clustered.low, c.clustered.high)}, n = {count(c.clustered.n)}",
        "–" if c.bootstrap is None else interval(*c.bootstrap),
        p_value(c.p),
        p_value(c.holm),
        "–" if c.mde is None else f"{100 * c.mde:.1f}",
        _otherwise(c),
    )


def _otherwise(c: Contrast) -> str:
    """Counts and p under the opposite reading, or that they are the same; Holm's may differ by what others come to."""
    other = c.otherwise
    if (other.worse, other.better, other.holm) == (c.worse, c.better, c.holm):
        return "the same"
    return f"{other.worse} / {other.better}, p = {p_value(other.p)}, Holm {p_value(other.holm)}"
