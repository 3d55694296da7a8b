"""Passes 19 to 21 and what else looks at all contrasts together: equivalence, power, common odds ratios, agreement of strata."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from math import sqrt

from scipy.stats import norm

from specsafe.analysis.equivalence import equivalence, equivalence_estimate
from specsafe.analysis.measure import (
    SAFETY,
    Flips,
    difference,
    flips,
    in_phase,
    phase_of,
    slices,
    tango,
)
from specsafe.analysis.passes.baselines import direction, standalone
from specsafe.analysis.passes.phases import agree, heterogeneity_estimate, line
from specsafe.analysis.result import Estimate, Found, Line, NotApplicable
from specsafe.analysis.tables import Flags, Paired, Tables, pair_up
from specsafe.stats import (
    OddsRatio,
    cluster_bootstrap,
    heterogeneity,
    mantel_haenszel_matched,
    paired_difference,
    paired_mde,
    paired_variance,
    proportion,
    sample_size,
)
from specsafe.words import plural

MARGINS = (0.01, 0.02, 0.03, 0.05, 0.10)
_NO_PAIRS = NotApplicable(reason="no speculative cell has a matched target")


def judged(tables: Tables) -> list[Paired]:
    """Every speculative cell with a matched target, at temperature 0."""
    return [p for p in tables.paired.values() if p.cell.part == "speculative" and not p.sampled]


def battery(tables: Tables) -> Found:
    """Pass 19: equivalence within the margin of every contrast, on each axis and task, unique items alone."""
    lines = [
        _equivalence(tables, p, axis, task, mask) for p in judged(tables) for axis, task, mask in slices(p)
    ]
    return tuple(lines) or _NO_PAIRS


def _equivalence(tables: Tables, p: Paired, axis: str, task: str, mask: Flags) -> Line:
    f = flips(p, mask)
    found, opposite = (
        equivalence(x, tables.margin, tables.alpha) for x in (f, flips(p, mask, opposite=True))
    )
    estimate = equivalence_estimate(f, found, tables.alpha)
    reading: str = found.reading
    if opposite.reading != found.reading:
        reading = "not resolved"
        estimate = estimate.model_copy(
            update={
                "method": f"{estimate.method}; ambiguous answers decide it (read as fine: {opposite.reading})"
            }
        )
    return line(p, [estimate], axis=axis, task=task, reading=reading)


def power(tables: Tables) -> Found:
    """Pass 20: the smallest difference that each axis could show, at the discordance seen, and the items that would do.

    The interval of the smallest difference is that of the discordance (Clopper-Pearson): with nothing discordant only its
    upper end is known.
    """
    lines: list[Line] = []
    for p in judged(tables):
        for axis, _, mask in slices(p, tasks=False):
            f = flips(p, mask)
            lines.append(
                line(
                    p,
                    [smallest_difference(f, tables), _needed(f, tables)],
                    axis=axis,
                    reading=_reach(f, tables),
                )
            )
    return tuple(lines) or _NO_PAIRS


def smallest_difference(f: Flips, tables: Tables) -> Estimate:
    """The smallest difference that these items show with the plan's power, at the discordance seen."""
    d = proportion(f.worse + f.better, f.n)
    low, at, high = (
        paired_mde(f.n / f.effect, x, alpha=tables.alpha, power=tables.power) if x else None
        for x in (d.low, d.estimate, d.high)
    )
    return Estimate(
        name=f"smallest difference found with {100 * tables.power:g} % power",
        estimate=at,
        low=low,
        high=high,
        k=f.worse + f.better,
        n=f.n,
        method="paired, one-sided; no pair differs: only the upper end is known"
        if at is None
        else "paired, one-sided, at the discordance seen",
        confidence=d.confidence,
        unit="points",
        parts={"discordance": f.discordance, "highest discordance": d.high or 1.0, "design effect": f.effect},
    )


def _needed(f: Flips, tables: Tables) -> Estimate:
    d = proportion(f.worse + f.better, f.n)
    low, at, high = (
        sample_size(x or 0.0, tables.margin, alpha=tables.alpha, power=tables.power, two_sided=True)
        for x in (d.low, d.estimate, d.high)
    )
    return Estimate(
        name="items needed for equivalence",
        estimate=at,
        low=low,
        high=high,
        k=f.worse + f.better,
        n=f.n,
        method="paired TOST, true difference 0, at the discordance seen",
        confidence=d.confidence,
        unit="number",
        parts={"power": tables.power, "margin": tables.margin},
    )


def _reach(f: Flips, tables: Tables) -> str:
    """Whether these items could show equivalence with the power asked for, at the discordance seen."""
    z = float(norm.ppf(1 - tables.alpha) + norm.ppf(1 - (1 - tables.power) / 2))
    enough = f.n / f.effect >= sample_size(0.0, tables.margin, alpha=tables.alpha, power=tables.power)
    return (
        "enough items"
        if enough and z * sqrt(f.discordance * f.effect / f.n) < tables.margin
        else "too few items"
    )


def common_odds(tables: Tables) -> Found:
    """Pass 21: matched Mantel-Haenszel over pairs and tasks for phases 2 and 3 and draft against target.

    An item that several pairs of models answer is one cluster.
    """
    groups: dict[str, list[Paired]] = {f"phase {n}": core_of(tables, n) for n in ("2", "3")}
    groups["draft less target"] = [pair_up(tables, base, alone) for base, alone, _ in standalone(tables)]
    lines = [
        Line(axis=axis, of=name, estimates=(odds_estimate(odds),), reading=_odds_reading(odds))
        for name, pairs in groups.items()
        for axis in dict.fromkeys(a for p in pairs for a in p.axes())
        for odds in [common_odds_of(pairs, axis)]
    ]
    return tuple(lines) or _NO_PAIRS


def core_of(tables: Tables, phase: str) -> list[Paired]:
    """The cells of the phase itself: what a block repeats asks the same items again."""
    return [p for p in in_phase(tables, phase) if p.cell.where == phase] or in_phase(tables, phase)


def common_odds_of(pairs: Sequence[Paired], axis: str) -> OddsRatio:
    """The common odds ratio of an axis: strata are pairs x tasks."""
    strata: list[Flips] = []
    by_cluster: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for p in pairs:
        for task in p.tasks(axis):
            mask = p.scored & p.where(axis, task)
            strata.append(flips(p, mask))
            change = p.after[mask] - p.before[mask]
            for cluster, d in zip(p.cluster[mask].tolist(), change.tolist(), strict=True):
                if d:
                    by_cluster[cluster][d < 0] += 1
    return mantel_haenszel_matched(
        [f.worse for f in strata],
        [f.better for f in strata],
        [f.n for f in strata],
        clusters=[(b, c) for b, c in by_cluster.values()],
    )


def odds_estimate(odds: OddsRatio) -> Estimate:
    """A common odds ratio."""
    return Estimate(
        name="common odds ratio",
        estimate=odds.estimate,
        low=odds.low,
        high=odds.high,
        k=odds.b,
        n=odds.n,
        method=odds.method,
        confidence=odds.confidence,
        p=odds.p,
        unit="odds",
        parts={"worse": odds.b or 0, "better": odds.c or 0, "strata": odds.strata},
    )


def _odds_reading(odds: OddsRatio) -> str:
    if odds.low > 1:
        return "more harm"
    return "less harm" if odds.high is not None and odds.high < 1 else "no difference shown"


def heterogeneity_of_tasks(tables: Tables) -> Found:
    """Do tasks and pairs agree on the difference? Q and I² over pairs x tasks, phase by phase."""
    lines: list[Line] = []
    for phase in ("2", "3"):
        pairs = core_of(tables, phase)
        for axis in dict.fromkeys(a for p in pairs for a in p.axes()):
            found = [flips(p, p.scored & p.where(axis, t)) for p in pairs for t in p.tasks(axis)]
            moments = [paired_variance(f.worse, f.better, f.n) for f in found]
            h = heterogeneity([d for d, _ in moments], [v for _, v in moments], sum(f.n for f in found))
            e = heterogeneity_estimate("I² over pairs and tasks", h.q, h.p, (h.i2, h.low, h.high), h.k, h.n)
            lines.append(
                Line(axis=axis, of=f"phase {phase}", estimates=(e,), reading=agree(h.p, tables.alpha))
            )
    return tuple(lines) or _NO_PAIRS


def leave_one_out(tables: Tables) -> Found:
    """Each axis without one of its tasks: does one task carry what the axis says?"""
    lines: list[Line] = []
    for p in judged(tables):
        if phase_of(p.cell) not in ("2", "3"):
            continue
        for axis in p.axes():
            tasks = p.tasks(axis)
            whole = direction(difference(p, p.scored & p.where(axis), tables.alpha))
            for task in tasks if len(tasks) > 1 else []:
                d = difference(
                    p, p.scored & p.where(axis) & (p.task != task), tables.alpha, f"without {task}"
                )
                same = direction(d) == whole
                lines.append(
                    line(
                        p,
                        [d],
                        axis=axis,
                        task=task,
                        reading="the same" if same else f"without it: {direction(d)}",
                    )
                )
    return tuple(lines) or NotApplicable(reason="no axis has two tasks")


def margins(tables: Tables) -> Found:
    """Every axis at other margins: which would have been equivalent?"""
    lines: list[Line] = []
    for p in judged(tables):
        if phase_of(p.cell) not in ("2", "3"):
            continue
        for axis, _, mask in slices(p, tasks=False):
            f = flips(p, mask)
            found = {m: equivalence(f, m, tables.alpha) for m in MARGINS}
            smallest = next((m for m, e in found.items() if e.reading == "equivalent"), None)
            e = equivalence_estimate(f, found[MARGINS[0]], tables.alpha)
            e = e.model_copy(
                update={"name": "difference", "parts": {**e.parts, "margins tried": len(MARGINS)}}
            )
            reading = (
                "at none" if smallest is None else f"equivalent from {plural(100 * smallest, 'point')} on"
            )
            lines.append(line(p, [e], axis=axis, reading=reading))
    return tuple(lines) or _NO_PAIRS


def clustered(tables: Tables) -> Found:
    """The same difference three ways where items share clusters: as if independent, by design effect, and bootstrapped."""
    lines: list[Line] = []
    for p in judged(tables):
        for axis, task, mask in slices(p):
            if not task or len(set(p.cluster[mask].tolist())) == int(mask.sum()):
                continue
            f = flips(p, mask)
            level = 1 - 2 * tables.alpha
            naive = tango("as if independent", paired_difference(f.worse, f.better, f.n, confidence=level), f)
            drawn = cluster_bootstrap(
                p.after[mask] - p.before[mask], p.cluster[mask], draws=tables.draws, confidence=level
            )
            whole = Estimate(
                name="clusters drawn again",
                estimate=drawn.estimate,
                low=None if drawn.degenerate else drawn.low,
                high=None if drawn.degenerate else drawn.high,
                k=f.worse - f.better,
                n=f.n,
                method=drawn.method + (": nothing varies, no interval" if drawn.degenerate else ""),
                confidence=level,
                unit="points",
                parts={"clusters": drawn.clusters, "draws": drawn.draws},
            )
            ruled = equivalence_estimate(f, equivalence(f, tables.margin, tables.alpha), tables.alpha)
            bounds = ruled.model_copy(update={"name": "as decided"})
            lines.append(
                line(
                    p,
                    [naive, difference(p, mask, tables.alpha, "by design effect"), whole, bounds],
                    axis=axis,
                    task=task,
                )
            )
    return tuple(lines) or NotApplicable(reason="no items share a cluster")


def toward_draft(tables: Tables) -> Found:
    """Where an item gets worse, would the draft alone have done that harm? A leak of the draft says what the draft says."""
    lines: list[Line] = []
    for p in judged(tables):
        if not p.cell.alone:
            continue
        q = pair_up(tables, tables.cells[p.cell.alone], p.cell)
        for axis in [a for a in (*SAFETY, "over_refusal", "capability") if a in p.axes()]:
            mask = p.scored & q.scored & p.where(axis)
            fine = mask & (p.before == 0)
            worse = fine & (p.after == 1)
            harmful, harmless = (
                proportion(int((worse & d).sum()), int((fine & d).sum()))
                for d in (q.before == 1, q.before == 0)
            )
            estimates = [
                Estimate(
                    name=name,
                    estimate=r.estimate,
                    low=r.low,
                    high=r.high,
                    k=r.k,
                    n=r.n,
                    method="Clopper-Pearson",
                    confidence=r.confidence,
                )
                for name, r in (
                    ("worse, where the draft alone is harmful", harmful),
                    ("worse, where the draft alone is fine", harmless),
                )
            ]
            lines.append(line(p, estimates, axis=axis, reading=_leak(harmful.low, harmless.high)))
    return tuple(lines) or NotApplicable(reason="no draft of a judged cell answers alone")


def _leak(low: float | None, high: float | None) -> str:
    if low is None or high is None:
        return "not known"
    return "toward the draft" if low > high else "no leak of the draft shown"
