"""Passes 5 to 12: each speculative arm against its matched target, at temperature 0, unique items alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from specsafe.analysis.measure import (
    CAPABILITY,
    SAFETY,
    difference,
    flips,
    in_phase,
    share,
    slices,
)
from specsafe.analysis.passes.baselines import direction
from specsafe.analysis.result import Estimate, Found, Line, NotApplicable
from specsafe.analysis.tables import Flags, Paired, Tables
from specsafe.stats import (
    difference_of,
    heterogeneity,
    holm,
    mantel_haenszel_matched,
    mcnemar_exact,
    paired_variance,
    proportion,
)

Look = Callable[[Tables, Sequence[Paired]], list[Line]]


def _over(tables: Tables, phase: str, look: Look) -> Found:
    """What a look at the cells of a phase finds; not applicable where there is none with a matched target."""
    pairs = in_phase(tables, phase)
    if not pairs:
        return NotApplicable(
            reason=f"no speculative cell of phase {phase} is answered beside a matched target"
        )
    lines = look(tables, pairs)
    return tuple(lines) or NotApplicable(reason=f"nothing in phase {phase} can be looked at so")


def line(
    p: Paired, estimates: Sequence[Estimate], *, axis: str = "", task: str = "", reading: str = ""
) -> Line:
    """A line about a cell or a slice of it."""
    return Line(
        cell=p.cell.key,
        where=p.cell.where,
        pair=p.cell.pair,
        axis=axis,
        task=task,
        of=f"{p.cell.rule} k{p.cell.drafted}",
        estimates=tuple(estimates),
        reading=reading,
    )


def _identity(tables: Tables, pairs: Sequence[Paired]) -> list[Line]:
    """Answers that are equal byte for byte, and of those that differ how many change what they are called."""
    lines: list[Line] = []
    for p in pairs:
        lines.append(_identical(p, p.both, "", ""))
        lines += [_identical(p, mask, axis, task) for axis, task, mask in slices(p, scored=False)]
    return lines


def _identical(p: Paired, mask: Flags, axis: str, task: str) -> Line:
    k, n = int(p.same[mask].sum()), int(mask.sum())
    changed = int(((p.before != p.after) & p.scored & mask).sum())
    found = share("identical", proportion(k, n), differing=n - k, changed_label=changed)
    return line(p, [found], axis=axis, task=task)


def _mcnemar(tables: Tables, pairs: Sequence[Paired]) -> list[Line]:
    """Exact McNemar by axis, Holm over all of them, and the odds ratio of discordant pairs with an exact interval."""
    found = [(p, axis, flips(p, mask)) for p in pairs for axis, _, mask in slices(p, tasks=False)]
    adjusted = holm([mcnemar_exact(f.worse, f.better) for *_, f in found])
    lines: list[Line] = []
    for (p, axis, f), corrected in zip(found, adjusted, strict=True):
        odds = mantel_haenszel_matched([f.worse], [f.better], [f.n])
        estimate = Estimate(
            name="odds ratio of discordant pairs",
            estimate=odds.estimate,
            low=odds.low,
            high=odds.high,
            k=f.worse,
            n=f.worse + f.better,
            method="exact McNemar; interval by Clopper-Pearson",
            confidence=odds.confidence,
            p=odds.p,
            unit="odds",
            parts={"worse": f.worse, "better": f.better, "pairs": f.n, "p after Holm": corrected},
        )
        way = "more harm" if f.worse > f.better else "less harm"
        lines.append(
            line(p, [estimate], axis=axis, reading=way if corrected < tables.alpha else "no difference shown")
        )
    return lines


def _flip_direction(tables: Tables, pairs: Sequence[Paired]) -> list[Line]:
    """Of the items that flip, how many get worse; a half is chance."""
    lines: list[Line] = []
    for p in pairs:
        for axis, _, mask in slices(p, tasks=False):
            f = flips(p, mask)
            found = share(
                "flips that are worse",
                proportion(f.worse, f.worse + f.better),
                p_value=mcnemar_exact(f.worse, f.better),
                pairs=f.n,
            )
            reading = (
                "nothing flips" if not found.n else "one direction" if _off_half(found) else "either way"
            )
            lines.append(line(p, [found], axis=axis, reading=reading))
    return lines


def _off_half(found: Estimate) -> bool:
    return found.low is not None and found.high is not None and not found.low <= 0.5 <= found.high


def _task_deltas(tables: Tables, pairs: Sequence[Paired]) -> list[Line]:
    """The difference of every task, with Tango's interval."""
    return [
        line(p, [d], axis=axis, task=task, reading=direction(d))
        for p in pairs
        for axis, task, mask in slices(p)
        if task
        for d in [difference(p, mask, tables.alpha)]
    ]


def _divergence(tables: Tables, pairs: Sequence[Paired]) -> list[Line]:
    """Does safety move otherwise than capability? The difference of both differences (they share no item)."""
    lines: list[Line] = []
    for p in pairs:
        masks = [p.scored & np.isin(p.axis, axes) for axes in (SAFETY, (CAPABILITY,))]
        if all(m.any() for m in masks):
            safety, capability = (
                difference(p, m, tables.alpha, n)
                for m, n in zip(masks, ("safety", "capability"), strict=True)
            )
            a, b = ((e.estimate or 0.0, e.low or 0.0, e.high or 0.0) for e in (safety, capability))
            estimate, low, high = difference_of(a, b)
            both = Estimate(
                name="safety less capability",
                estimate=estimate,
                low=low,
                high=high,
                k=None,
                n=safety.n + capability.n,
                method="difference of two paired differences (MOVER)",
                confidence=safety.confidence,
                unit="points",
            )
            lines.append(line(p, [safety, capability, both], reading=direction(both)))
    return lines


def _jailbreak(tables: Tables, pairs: Sequence[Paired]) -> list[Line]:
    """Attack by attack: does an attack on the same behaviour gain more from speculation than another?"""
    lines: list[Line] = []
    for p in pairs:
        harmful = p.scored & (p.axis == "harmful_compliance") & (p.category != "")
        for task in dict.fromkeys(p.task[harmful].tolist()):
            mask = harmful & (p.task == task)
            kinds = list(dict.fromkeys(p.category[mask].tolist()))
            if len(kinds) > 1:
                lines += _attacks(tables, p, task, mask, kinds)
    return lines


def _attacks(tables: Tables, p: Paired, task: str, mask: Flags, kinds: Sequence[str]) -> list[Line]:
    counted = [(kind, flips(p, mask & (p.category == kind))) for kind in kinds]
    lines = []
    for kind, _ in counted:
        d = difference(p, mask & (p.category == kind), tables.alpha)
        found = line(p, [d], axis="harmful_compliance", task=task, reading=direction(d))
        lines.append(found.model_copy(update={"of": kind}))
    moments = [paired_variance(f.worse, f.better, f.n) for _, f in counted]
    h = heterogeneity([d for d, _ in moments], [v for _, v in moments], int(mask.sum()))
    spread = heterogeneity_estimate("I² over attacks", h.q, h.p, (h.i2, h.low, h.high), h.k, h.n)
    lines.append(line(p, [spread], axis="harmful_compliance", task=task, reading=agree(h.p, tables.alpha)))
    return lines


def heterogeneity_estimate(
    name: str, q: float | None, p: float | None, i2: tuple[float | None, ...], strata: int, n: int
) -> Estimate:
    """I² with its interval, Q and its p."""
    return Estimate(
        name=name,
        estimate=i2[0],
        low=i2[1],
        high=i2[2],
        k=strata,
        n=n,
        method="Cochran's Q and I², half a pair added in each stratum" if q is not None else "one stratum",
        confidence=0.95,
        p=p,
        parts={} if q is None else {"Q": q, "strata": strata},
    )


def agree(p: float | None, alpha: float) -> str:
    """What Q shows."""
    return (
        "one stratum" if p is None else "strata differ" if p < alpha else "no difference between strata shown"
    )


def identity(tables: Tables) -> Found:
    """Pass 5: exact rules, answers that are equal byte for byte, and of those that differ how many change their label."""
    return _over(tables, "2", _identity)


def mcnemar_exact_rule(tables: Tables) -> Found:
    """Pass 6: exact rules, McNemar by axis with Holm over all of them."""
    return _over(tables, "2", _mcnemar)


def direction_exact_rule(tables: Tables) -> Found:
    """Pass 7: exact rules, of the items that flip how many get worse."""
    return _over(tables, "2", _flip_direction)


def mcnemar_typical(tables: Tables) -> Found:
    """Pass 8: the rule of phase 3, McNemar by axis with Holm over all of them."""
    return _over(tables, "3", _mcnemar)


def direction_typical(tables: Tables) -> Found:
    """Pass 9: the rule of phase 3, of the items that flip how many get worse."""
    return _over(tables, "3", _flip_direction)


def task_deltas(tables: Tables) -> Found:
    """Pass 10: the rule of phase 3, the difference of every task with Tango's interval."""
    return _over(tables, "3", _task_deltas)


def divergence(tables: Tables) -> Found:
    """Pass 11: does safety move otherwise than capability?"""
    return _over(tables, "3", _divergence)


def jailbreak(tables: Tables) -> Found:
    """Pass 12: attack by attack on the same behaviours."""
    return _over(tables, "3", _jailbreak)
