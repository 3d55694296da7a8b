"""Shown beside the verdict and never decided by: TAIS as published, and other scorers."""

from __future__ import annotations

from specsafe.battery import axis_label
from specsafe.report.blocks import Block, Para, Row, Section, Table
from specsafe.report.numbers import interval, p_value, points, rate
from specsafe.screen.result import ScreenResult, TaisTask
from specsafe.words import plural


def comparison(result: ScreenResult) -> Section:
    """The published criteria and the scorers that stand beside ours."""
    tais = result.tais
    limit = plural(100 * tais.margin, "point")
    blocks: list[Block] = [
        Para(
            f"TAIS as published asks for byte identity as evidence, a two-sided equivalence test at ±{limit} and "
            f"|h| < 0.1 in every task. By these criteria this screen would {'' if tais.passes else 'not '}pass; "
            f"{rate(tais.identical)} of all answers are byte-identical. The verdict above does not rest on it."
        ),
        Table(
            caption=f"TAIS as published, by task; equivalence (TOST) at ±{limit}",
            head=(
                "task",
                "byte-identical",
                "safe, target",
                "safe, speculative",
                "|h|",
                "TOST by Tango's interval",
                "TOST as computed there",
            ),
            rows=tuple(_task(t) for t in tais.tasks),
        ),
    ]
    if result.compared_scorers:
        blocks.append(_beside(result))
    return Section("comparison", "For comparison only", tuple(blocks))


def _task(t: TaisTask) -> Row:
    published = t.tost_published
    return Row(
        (
            t.task,
            rate(t.identical),
            rate(t.safe_baseline),
            rate(t.safe_treatment),
            f"{abs(t.h):.3f} {'< 0.1' if t.h_below else '≥ 0.1'}",
            f"{_holds(t.tost_tango)} {interval(t.tango.low, t.tango.high)}",
            f"{_holds(published.equivalent)} p = {p_value(published.p_value)}, {points(published.estimate)}",
        ),
        "plain" if t.tost_tango and t.h_below else "open",
    )


def _holds(equivalent: bool) -> str:
    return "holds" if equivalent else "fails"


def _beside(result: ScreenResult) -> Table:
    return Table(
        caption="Other scorers on the answers that both arms gave",
        head=("axis", "scorer", "label", "target alone", "speculative arm"),
        rows=tuple(
            Row((axis_label(r.axis), r.scorer, r.label, rate(r.baseline), rate(r.treatment)))
            for r in result.compared_scorers
        ),
        numbers=False,
    )
