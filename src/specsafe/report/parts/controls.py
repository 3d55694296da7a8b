"""Controls: harm planted on purpose and whether the same rule found it; the smallest harm always caught."""

from __future__ import annotations

from specsafe.battery import axis_label
from specsafe.report.blocks import Chart, Figures, Group, Mark, Para, Row, Section, Table, Tone
from specsafe.report.figures import Scale, Svg, axis, curve, header, linear, strip
from specsafe.report.numbers import difference, of_both, percent, points
from specsafe.screen.headline import caught
from specsafe.screen.result import Control, Gate, ScreenResult, Sensitivity
from specsafe.words import plural

_NAMES = {
    "substitution": "answers replaced by stand-ins",
    "prefill": "answers made to begin with agreement",
}


def _name(control: str) -> str:
    """A control in words; leak-30 is a dose of a series."""
    if control.startswith("leak-"):
        return f"{control.removeprefix('leak-')} % of a harmful draft waved through"
    return _NAMES.get(control, control)


def controls(result: ScreenResult) -> Section:
    """What was planted and what was found."""
    planted = [(g, c) for g in result.gates for c in g.controls]
    intro = Para(
        "A screen that finds nothing must show that it would have found something. Harm was put in on purpose and judged "
        "by the same rule; a PASS needs every control of its axis to be called FAIL, of a series its strongest dose."
    )
    if not planted:
        return Section(
            "controls", "Controls: harm planted and found", (intro, Para("No control was run.", "warning"))
        )
    blocks = (intro, _planted(planted, result.margin), *_sensitivity(result))
    return Section("controls", "Controls: harm planted and found", blocks)


def _planted(planted: list[tuple[Gate, Control]], margin: float) -> Chart:
    highs = [max(c.planted / max(c.decision.pairs, 1), c.decision.difference.high) for _, c in planted]
    lows = [c.decision.difference.low for _, c in planted]
    scale = linear(100 * min(0.0, *lows), 100 * max(highs))
    return Chart(
        caption="Share of answers harmed (bar) against the difference that the rule found (mark and interval)",
        heads=("gate and control", "points found", "answers harmed", "called FAIL?"),
        top=header(
            scale,
            f"Margin: the line at {plural(100 * margin, 'point')}",
            100 * margin,
            f"margin {100 * margin:g}",
        ),
        axis=axis(scale, "Scale: points", right="points", sign=True),
        groups=(Group(tuple(_control(g, c, scale, margin) for g, c in planted)),),
        legend="An answer that was harmful before cannot be harmed again, so less is found than was planted.",
    )


def _control(gate: Gate, control: Control, scale: Scale, margin: float) -> Mark:
    d = control.decision.difference
    label = f"{axis_label(gate.axis)}: {_name(control.name)}"
    called = "caught" if control.caught else "MISSED" if control.required else "not caught"
    tone: Tone = "good" if control.caught else "bad" if control.required else "plain"
    return Mark(
        label=label,
        figure=strip(
            scale,
            f"{label}: {control.planted} of {control.decision.pairs} harmed, {difference(d)} points found, {called}",
            estimate=100 * d.estimate,
            low=100 * d.low,
            high=100 * d.high,
            limit=100 * margin,
            bar=100 * control.planted / max(control.decision.pairs, 1),
            shape="circle" if control.caught else "square",
            tone=tone,
        ),
        reading=difference(d),
        counts=f"{control.planted} of {control.decision.pairs}",
        tag=called,
        tone=tone,
    )


def _sensitivity(result: ScreenResult) -> tuple[Para | Figures, ...]:
    shown = [g for g in result.gates if g.sensitivity]
    if not shown:
        return ()
    figures = tuple((f"{axis_label(g.axis)}: {caught(g)}", _curve(g, result.margin)) for g in shown)
    rows = tuple(_size(g, s) for g in shown for s in g.sensitivity)
    return (
        Para(
            "How small a harm would this screen have caught? The substitution control was repeated at several sizes, each "
            "with several draws of the answers to replace. The curve says in how many draws the rule said FAIL."
        ),
        Figures(
            figures=figures,
            table=Table(
                caption="Substitution control by size; harm is the net share of items that got worse, over the draws",
                head=("gate", "answers replaced", "mean harm, points", "least / most", "draws called FAIL"),
                rows=rows,
            ),
            legend="Across: harm in points; up: share of draws caught. Filled: every draw caught; ring: not every draw. "
            "Solid line: the smallest harm always caught; dashed line: the margin. Larger harms are in the table.",
        ),
    )


def _curve(gate: Gate, margin: float) -> Svg:
    """The sizes around the smallest harm always caught; the larger ones are in the table."""
    most = 3 * max(margin, gate.smallest_harm or 0.0)
    sizes = [s for s in gate.sensitivity if s.harm <= most] or gate.sensitivity
    title = f"Sensitivity of {axis_label(gate.axis)}: {caught(gate)}"
    return curve(
        title,
        linear(0, 100 * max([margin, *(s.most_harm for s in sizes)]), most=5),
        [(100 * s.harm, 100 * s.least_harm, 100 * s.most_harm, s.caught / max(s.draws, 1)) for s in sizes],
        chosen=None if gate.smallest_harm is None else 100 * gate.smallest_harm,
        limit=100 * margin,
        name="harm, points",
        top=f"all of {plural(max(s.draws for s in sizes), 'draw')}",
    )


def _size(gate: Gate, s: Sensitivity) -> Row:
    return Row(
        (
            axis_label(gate.axis),
            f"{s.planted} of {s.answers} ({percent(s.planted / s.answers if s.answers else None)})",
            points(s.harm),
            of_both(points(s.least_harm), points(s.most_harm)),
            f"{s.caught} of {s.draws}",
        )
    )
