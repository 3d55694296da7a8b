"""What is read first of a comparison: on what it stands, who labelled, and which differences are shown."""

from __future__ import annotations

from specsafe.battery import axis_label
from specsafe.compare.result import ComparisonResult, Contrast
from specsafe.report.blocks import Card, Front
from specsafe.report.comparing.contrasts import contrasts_of
from specsafe.report.comparing.words import (
    counted,
    direction,
    hangs_on_clusters,
    hangs_on_reading,
    is_shown,
    labelled,
    listed,
    named,
)
from specsafe.words import plural


def front(result: ComparisonResult) -> Front:
    """Nothing is decided here: a comparison has no verdict."""
    prompts = sum(result.items.values())
    return Front(
        kicker=f"What do safety-aware decoders do to harm, help and speed? · comparison {named(result.name)}",
        verdict=plural(len(result.methods), "method"),
        tone="plain",
        bound=f"on the same {plural(prompts, 'prompt')}: {counted(result.items)}",
        lead=_lead(result),
        answers=(
            ("What was compared", _compared(result)),
            ("On what", _prompts(result)),
            ("Who labelled", labelled(result)),
            ("How sure", _sure(result)),
        ),
        loud=("The refusal detector stands in for a guard model.",) if result.stand_in else (),
        flags=tuple(_flags(result)),
        cards=tuple(_card(result, b) for b in result.baselines),
        headline=(
            f"comparison {named(result.name)}: {plural(len(result.methods), 'method')}, {counted(result.items)}, labels "
            f"{named(result.scorer)}{' (stand-in)' if result.stand_in else ''}, specsafe {named(result.version)}"
        ),
    )


def _lead(result: ComparisonResult) -> str:
    """What is shown of harm against the first baseline."""
    baseline = result.baselines[0]
    found = contrasts_of(result, baseline, "harmful_compliance")
    shown = [(row, c) for row, c in found if is_shown(c)]
    if not shown:
        return (
            f"No method is shown to comply with more or fewer harmful requests than {named(baseline)}. That is not the same "
            "as no difference: the intervals say how large one may be."
        )
    return (
        f"Of {plural(len(found), 'method')} held against {named(baseline)}, {plural(len(shown), 'is', 'are')} "
        f"shown to comply with another share of harmful requests: {_by_direction(shown)}."
    )


def _by_direction(shown: list[tuple[str, Contrast]]) -> str:
    ways = dict.fromkeys(direction(c) for _, c in shown)
    return "; ".join(f"{way}: {listed([row for row, c in shown if direction(c) == way])}" for way in ways)


def _card(result: ComparisonResult, baseline: str) -> Card:
    found = {axis: contrasts_of(result, baseline, axis) for axis in result.items}
    shown = {axis: [(r, c) for r, c in pairs if is_shown(c)] for axis, pairs in found.items()}
    lines = [
        f"{axis_label(axis)}: {_by_direction(pairs) if pairs else 'no difference is shown'}"
        for axis, pairs in shown.items()
    ]
    lines += [
        f"{named(row)}, {axis_label(axis)}: hangs on how unreadable answers are read"
        for axis, pairs in found.items()
        for row, c in pairs
        if hangs_on_reading(c)
    ]
    lines += [
        f"{named(row)}, {axis_label(axis)}: hangs on prompts of one cluster counting as independent"
        for axis, pairs in shown.items()
        for row, c in pairs
        if hangs_on_clusters(c)
    ]
    rows = {row for pairs in shown.values() for row, _ in pairs}
    return Card(
        title=f"against {named(baseline)}",
        verdict=f"{len(rows)} of {len(result.methods) - 1} differ",
        tone="plain",
        bound="exact McNemar, 5 % after Holm over the methods",
        lines=tuple(lines),
    )


def _compared(result: ComparisonResult) -> str:
    return (
        "Ways to choose a token from the same target and draft, each held prompt by prompt against the baselines: "
        f"{listed(result.baselines)}."
    )


def _prompts(result: ComparisonResult) -> str:
    told = f"{plural(sum(result.items.values()), 'prompt')}: {counted(result.items)}. Harmful requests ought to be refused, the others not."
    if result.tuning is not None:
        told += (
            f" What was tuned was tuned on {plural(sum(result.tuning.items.values()), 'other')}; {plural(result.tuning.compared, 'pair')} of a "
            "prompt of either were held against each other, and none is nearly equal."
        )
    return told


def _sure(result: ComparisonResult) -> str:
    return (
        "Every share has a 95 % interval (Clopper–Pearson), every paired difference Tango's, the same by clusters, and a "
        "bootstrap of whole clusters. A row counts as different only after Holm's correction over the methods held against "
        "one row on one axis."
    )


def _flags(result: ComparisonResult) -> list[str]:
    found = []
    missing = [(m.row, m.failed) for m in result.methods if m.failed]
    if missing:
        found.append(
            f"{plural(sum(n for _, n in missing), 'answer is', 'answers are')} missing ({listed([row for row, _ in missing])}); pairs without both "
            "answers are left out and counted."
        )
    bound_to_width = [m.row for m in result.methods if m.depends_on_lookahead]
    if bound_to_width:
        found.append(
            f"What {listed(bound_to_width)} answers depends on how many tokens are drafted at a time: as published."
        )
    on_evaluation = list(dict.fromkeys(c.row for c in result.calibrations if c.on == "evaluation"))
    if on_evaluation:
        found.append(
            f"{listed(on_evaluation)}: a number was measured on the prompts of this comparison, without a look at any label."
        )
    return found
