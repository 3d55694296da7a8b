"""Gates and strata as a forest plot, and all the counts behind them."""

from __future__ import annotations

from collections.abc import Callable

from specsafe.battery import axis_label
from specsafe.report.blocks import Chart, Facts, Group, Mark, Para, Row, Section, Table, Tone
from specsafe.report.figures import Scale, axis, header, linear, strip
from specsafe.report.numbers import difference, interval, level, of_both, p_value, points, rate
from specsafe.report.parts.front import tone
from specsafe.screen.headline import cure
from specsafe.screen.result import Decision, Gate, ScreenResult, Stratum, Verdict
from specsafe.words import plural

SHOWN = 12  # strata of a gate that are shown without being asked for
_WIDEST = 5  # margins: a stratum's interval may leave the scale, that of a gate may not
_SHAPES = {Verdict.PASS: "circle", Verdict.FAIL: "square"}


def safety(result: ScreenResult) -> list[Section]:
    """Two sections: the forest plots and the table."""
    plots = [_gates(result), *([_strata(result)] if any(len(g.strata) > 1 for g in result.gates) else [])]
    return [
        Section("gates", "Gates and strata", (_intro(result), *plots)),
        Section("evidence", "The counts behind each verdict", (_evidence(result), *_reasons(result))),
    ]


def _intro(result: ScreenResult) -> Para:
    return Para(
        "A gate is one axis, pooled over its tasks: it is what is decided. A stratum is a part of it; it is shown, "
        "and able only to fail. The difference is the share of items that got worse under speculation less the share "
        f"that got better; intervals are {level(1 - 2 * result.alpha)} (Tango's score interval for pairs), so each end "
        f"is a one-sided bound at {level(1 - result.alpha)}."
    )


def gate_scale(result: ScreenResult) -> Scale:
    """In points: holds the margin and every gate's interval and bound."""
    gates = [g.decision for g in result.gates]
    low = min(-result.margin, *(d.difference.low for d in gates))
    high = max(2 * result.margin, *(max(d.difference.high, d.bound) for d in gates))
    return linear(100 * low * 1.05, 100 * high * 1.05)


def strata_scale(result: ScreenResult) -> Scale:
    """In points: holds every estimate, and intervals as far as they do not squeeze the rest."""
    all_ = [g.decision.difference for g in result.gates]
    all_ += [s.difference for g in result.gates for s in g.strata]
    most = _WIDEST * result.margin
    low = min(-result.margin, *(min(d.estimate, max(d.low, -most)) for d in all_))
    high = max(result.margin, *(max(d.estimate, min(d.high, most)) for d in all_))
    return linear(100 * low * 1.05, 100 * high * 1.05)


def _gates(result: ScreenResult) -> Chart:
    scale = gate_scale(result)
    return _forest(
        result,
        scale,
        "gate",
        "Gates: difference in harm",
        tuple(Group((_gate(g, scale, result.margin),)) for g in result.gates),
        "Bracket: the one-sided bound that must stay left of the margin for a PASS, with clusters as units. "
        "Filled circle: PASS; square: FAIL; ring: not decided.",
    )


def _strata(result: ScreenResult) -> Chart:
    scale = strata_scale(result)
    return _forest(
        result,
        scale,
        "gate, stratum",
        "Strata, each gate's under it, on a wider scale",
        tuple(_group(g, scale, result.margin) for g in result.gates if len(g.strata) > 1),
        "An arrow: the interval goes on beyond the scale. A stratum that fails after Holm's correction is a square and says "
        "so.",
    )


def _forest(
    result: ScreenResult, scale: Scale, name: str, caption: str, groups: tuple[Group, ...], legend: str
) -> Chart:
    margin = 100 * result.margin
    return Chart(
        caption=f"{caption}, with {level(1 - 2 * result.alpha)} intervals",
        heads=(
            name,
            "points worse",
            "worse / better of n",
            "verdict",
        ),
        top=header(scale, f"Margin: the line at {plural(margin, 'point')}", margin, f"margin {margin:g}"),
        axis=axis(
            scale, "Scale: difference in points", left="← less harm", right="more harm, points →", sign=True
        ),
        groups=groups,
        legend=f"Shaded: within {plural(margin, 'point')} of no change. {legend}",
    )


def _group(gate: Gate, scale: Scale, margin: float) -> Group:
    rows = [_stratum(gate, s, scale, margin) for s in gate.strata]
    head = _gate(gate, scale, margin)
    if len(rows) <= SHOWN:
        return Group((head, *rows))
    failing = tuple(r for r in rows if r.tone == "bad")
    rest = tuple(r for r in rows if r.tone != "bad")
    others = "more strata" if failing else "strata"
    return Group(
        (head, *failing), rest, f"{len(rest)} {others} of {axis_label(gate.axis)}, none of them failing"
    )


def _gate(gate: Gate, scale: Scale, margin: float) -> Mark:
    d = gate.decision
    reading = difference(d.difference)
    label = axis_label(gate.axis)
    return Mark(
        label=label,
        figure=strip(
            scale,
            f"{label}: {gate.verdict}, {reading} points, one-sided bound {points(d.bound)}",
            **_percent(d.difference.estimate, d.difference.low, d.difference.high),
            bound=100 * d.bound,
            band=(-100 * margin, 100 * margin),
            limit=100 * margin,
            shape=_SHAPES.get(gate.verdict, "circle"),
            tone=tone(gate.verdict),
            height=36,
        ),
        reading=reading,
        counts=f"{d.worse} / {d.better} of {d.pairs}",
        tag=str(gate.verdict),
        tone=tone(gate.verdict),
    )


def _stratum(gate: Gate, stratum: Stratum, scale: Scale, margin: float) -> Mark:
    d, kind = stratum.difference, stratum_tone(stratum)
    reading = difference(d)
    return Mark(
        label=stratum.name,
        figure=strip(
            scale,
            f"{axis_label(gate.axis)}, stratum {stratum.name}: {reading} points",
            **_percent(d.estimate, d.low, d.high),
            band=(-100 * margin, 100 * margin),
            limit=100 * margin,
            shape="square" if stratum.fails else "dot",
            tone=kind,
            height=24,
        ),
        reading=reading,
        counts=f"{stratum.worse} / {stratum.better} of {stratum.pairs}",
        tag="FAIL" if stratum.fails else "",
        tone=kind,
        minor=True,
    )


def stratum_tone(stratum: Stratum) -> Tone:
    """Bad where it fails; else plain: a stratum cannot pass anything."""
    return "bad" if stratum.fails else "plain"


def _percent(estimate: float, low: float, high: float) -> dict[str, float]:
    return {"estimate": 100 * estimate, "low": 100 * low, "high": 100 * high}


def _evidence(result: ScreenResult) -> Table:
    rows = tuple(
        Row((name, *(cell(g) for g in result.gates)), "strong" if name in _MATTERS else "plain")
        for name, cell in _MEASURES
    )
    return Table(
        caption="One column a gate. Two numbers parted by a stroke: target alone / speculative arm. Points are percentage points.",
        head=("", *(axis_label(g.axis) for g in result.gates)),
        rows=rows,
    )


def _reasons(result: ScreenResult) -> list[Facts]:
    """Why a gate's verdict is what it is, and what would cure it, where there is something to say."""
    rows = []
    for gate in result.gates:
        more = cure(gate, result.quick)
        said = [*gate.reasons, *([f"cure: {more}"] if more else [])]
        if said:
            rows.append((f"{axis_label(gate.axis)}, {gate.verdict}", "; ".join(said)))
    return [Facts(tuple(rows))] if rows else []


def _worse_better(d: Decision) -> str:
    return f"{d.worse} / {d.better} of {d.pairs}"


def _against_itself(gate: Gate) -> str:
    aa = gate.replicate
    return "no replicate arm" if aa is None else f"{_worse_better(aa)}, p = {p_value(aa.p_differ)}"


def _clusters(gate: Gate) -> str:
    d = gate.decision
    return f"{d.clusters} for {plural(d.pairs, 'item')}, {d.design_effect:.2f}"


def _smallest_caught(gate: Gate) -> str:
    smallest = gate.decision.smallest_caught
    return "none would" if smallest is None else f"{smallest} of {gate.decision.at_risk} at risk"


def _missing(gate: Gate) -> str:
    both = of_both(gate.missing_baseline, gate.missing_treatment)
    return f"{both}, p = {p_value(gate.p_missing)}"


_MATTERS = ("verdict", "one-sided bound, clusters as units")
_MEASURES: tuple[tuple[str, Callable[[Gate], str]], ...] = (
    ("verdict", lambda g: str(g.verdict)),
    ("one-sided bound, clusters as units", lambda g: points(g.decision.bound, 2)),
    ("difference in points", lambda g: points(g.decision.difference.estimate, 2)),
    (
        "its interval",
        lambda g: (
            f"{interval(g.decision.difference.low, g.decision.difference.high, 2)} {level(g.decision.difference.confidence)}"
        ),
    ),
    ("got worse / better, of pairs", lambda g: _worse_better(g.decision)),
    ("harm, target alone", lambda g: rate(g.baseline_harm)),
    ("harm, speculative arm", lambda g: rate(g.treatment_harm)),
    ("at risk: fine under the target alone", lambda g: f"{g.decision.at_risk} of {g.decision.pairs}"),
    ("lost of those at risk", lambda g: f"{g.decision.worse} of {g.decision.at_risk}"),
    ("losses from which on it is FAIL", _smallest_caught),
    ("target against itself, worse / better (A/A)", _against_itself),
    ("exact p for PASS (harm reaches the margin)", lambda g: p_value(g.decision.p_pass)),
    ("exact p for FAIL (harm stays within the margin)", lambda g: p_value(g.decision.p_fail)),
    (
        "exact p for any difference (McNemar), after Holm",
        lambda g: f"{p_value(g.decision.p_differ)}, {p_value(g.p_differ_holm)}",
    ),
    ("clusters, design effect", _clusters),
    ("missing answers, p that one arm misses more", _missing),
    ("not decided by the scorer", lambda g: of_both(g.unscored_baseline, g.unscored_treatment)),
    (
        "empty, repetitive or unreadable, counted against their arm",
        lambda g: of_both(g.ambiguous_baseline, g.ambiguous_treatment),
    ),
    ("verdict if these counted as fine", lambda g: str(g.opposite.verdict)),
    ("verdict if every missing answer were harm", lambda g: str(g.worst_missing.verdict)),
    ("cut at the token limit", lambda g: of_both(g.truncated_baseline, g.truncated_treatment)),
)
