"""Passes 16 to 18 and acceptance at matched positions: what of the draft was kept, where, and whether it tells of flips.

Units are items. A slot past the end of an answer cannot be accepted, so answers of a letter look as if their drafts were
bad; the first slot of a round is never past the end, and is compared alone and among answers of equal length.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from scipy.stats import norm

from specsafe.analysis.measure import CAPABILITY, SAFETY, nothing, phase_of, ratio
from specsafe.analysis.result import Estimate, Found, Line, NotApplicable
from specsafe.analysis.tables import Flags, Floats, Names, Row, Tables, kept_replicates
from specsafe.battery import Item
from specsafe.stats import (
    Ratio,
    difference_of,
    one_way_anova,
    point_biserial,
    ratio_of_sums,
    welch_t,
)
from specsafe.study.cells import Cell

_NOTHING = NotApplicable(reason="no cell tells how many draft tokens it accepted")
_BINS = (4, 16, 64)  # tokens: answers of up to so many are compared with each other


class Told(NamedTuple):
    """What a cell tells of its draft, an item each: sums over its samples. first: rounds whose first slot was accepted."""

    cell: Cell
    ids: Names
    axis: Names
    task: Names
    accepted: Floats
    drafted: Floats
    rounds: Floats
    at: Floats
    tokens: Floats
    stopped: Floats


@lru_cache(maxsize=1)  # several passes look at the same, and it is the largest table of all
def told(tables: Tables) -> tuple[Told, ...]:
    """Cells that drafted, with the items of which the stack told it."""
    found = [_told(tables, c) for c in tables.of("speculative", "probe") if c.drafted]
    return tuple(x for x in found if len(x.ids))


def _told(tables: Tables, cell: Cell) -> Told:
    """Sums over the samples of an item; an item of which one sample tells nothing is left out."""
    rows, kept = tables.rows[cell.key], kept_replicates(cell)
    places: list[int] = []
    samples: list[Row] = []
    items: list[Item] = []
    for item in cell.items:
        mine = [r for s in kept if (r := rows.get((item, s))) and r.drafted]
        if mine and all(r.accepted is not None for r in mine):
            places += [len(items)] * len(mine)
            samples += mine
            items.append(tables.items[item])
    of = np.array(places, int)
    at = np.array([_at(r, cell.drafted) for r in samples], float).reshape(len(samples), cell.drafted)

    def total(values: Iterable[float]) -> Floats:
        return np.asarray(np.bincount(of, np.fromiter(values, float), len(items)), np.float64)

    return Told(
        cell,
        np.array([i.id for i in items], dtype=np.str_),
        np.array([i.axis for i in items], dtype=np.str_),
        np.array([i.task for i in items], dtype=np.str_),
        accepted=total(_known(r.accepted) for r in samples),
        drafted=total(_known(r.drafted) for r in samples),
        rounds=total(_known(r.rounds) for r in samples),
        at=np.array([total(column) for column in at.T], float).T.reshape(len(items), cell.drafted),
        tokens=total(_known(r.tokens) for r in samples)
        / np.maximum(np.bincount(of, minlength=len(items)), 1),
        stopped=total(float(not r.truncated) for r in samples),
    )


def _known(value: int | None) -> float:
    return float("nan") if value is None else float(value)


def _at(row: Row, width: int) -> tuple[float, ...]:
    """Rounds in which at least 1, 2, … draft tokens were accepted; NaN where the stack did not say."""
    if row.accepted_at is None:
        return (float("nan"),) * width
    return (row.accepted_at + (0,) * width)[:width]


def by_domain(tables: Tables) -> Found:
    """Pass 16: accepted of drafted by axis; safety against capability as it was published, past-the-end slots and all."""
    lines: list[Line] = []
    for x in told(tables):
        lines += [_line(x, [_ratio(x, x.axis == a)], axis=a) for a in dict.fromkeys(x.axis.tolist())]
        safety, capability = np.isin(x.axis, SAFETY), x.axis == CAPABILITY
        if safety.any() and capability.any():
            found = _apart(_sums(x, safety), _sums(x, capability), "safety less capability, all slots")
            lines.append(_line(x, [found, *_welch(x, safety, capability)], reading=_order(found)))
    return tuple(lines) or _NOTHING


def by_task(tables: Tables) -> Found:
    """Pass 17: accepted of drafted by task, and how much of the items' rates lies between tasks."""
    lines: list[Line] = []
    for x in told(tables):
        tasks = list(dict.fromkeys(x.task.tolist()))
        lines += [_line(x, [_ratio(x, x.task == t)], axis=str(x.axis[x.task == t][0]), task=t) for t in tasks]
        if len(tasks) > 1:
            rates = x.accepted / x.drafted
            a = one_way_anova([rates[x.task == t] for t in tasks])
            between = Estimate(
                name="eta² between tasks",
                estimate=a.eta2,
                low=None,
                high=None,
                k=a.k,
                n=a.n,
                method=f"{a.method} of the items' rates",
                p=a.p,
                unit="number",
                parts={} if a.f is None else {"F": a.f, "df between": a.df[0], "df within": a.df[1]},
            )
            lines.append(_line(x, [between]))
    return tuple(lines) or _NOTHING


def against_flips(tables: Tables) -> Found:
    """Pass 18: does an item's acceptance tell whether its label, or its text, changes?"""
    lines: list[Line] = []
    for x in told(tables):
        p = tables.paired.get(x.cell.key)
        if p is None or p.sampled:
            continue
        place = {i: n for n, i in enumerate(p.ids.tolist())}
        at = np.array([place[i] for i in x.ids.tolist()])
        rates, scored, both = x.accepted / x.drafted, p.scored[at], p.both[at]
        flipped: Flags = (p.before[at] != p.after[at]) & scored
        changed: Flags = ~p.same[at] & both
        for name, yes, known in (("label flips", flipped, scored), ("text changes", changed, both)):
            r = point_biserial(rates[known], yes[known].tolist())
            estimate = Estimate(
                name=f"acceptance and {name}",
                estimate=r.estimate,
                low=r.low,
                high=r.high,
                k=r.k,
                n=r.n,
                method=r.method if r.estimate is not None else f"{r.method}: one of both never varies",
                confidence=r.confidence,
                p=r.p,
                unit="number",
            )
            shown = r.p is not None and r.p < tables.alpha
            lines.append(_line(x, [estimate], reading="related" if shown else "no relation shown"))
    return tuple(lines) or _NOTHING


def matched_positions(tables: Tables) -> Found:
    """Acceptance of slot 1, 2, … among rounds that came so far, by axis; safety against capability at slot 1 alone.

    An answer that stops by itself may have ended at the slot before, so beyond slot 1 each such answer may count one round
    too many: `least rounds` leaves those out, and the truth lies between. Slot 1 has no such doubt.
    """
    lines: list[Line] = []
    for x in told(tables):
        if np.isnan(x.at).all() or np.isnan(x.rounds).any():
            continue
        for axis in dict.fromkeys(x.axis.tolist()):
            mask = x.axis == axis
            for position in range(x.cell.drafted):
                lines.append(_line(x, [_slot(x, mask, position)], axis=axis, position=position + 1))
        safety, capability = np.isin(x.axis, SAFETY), x.axis == CAPABILITY
        if safety.any() and capability.any():
            first = _apart(_first(x, safety), _first(x, capability), "safety less capability, slot 1")
            equal = _equal_length(x, safety, capability)
            lines.append(_line(x, [first, equal], reading=_order(equal if equal.low is not None else first)))
    return tuple(lines) or NotApplicable(reason="no cell tells at which positions draft tokens were accepted")


def _slot(x: Told, mask: Flags, position: int) -> Estimate:
    accepted = x.at[mask, position]
    reached = x.rounds[mask] if position == 0 else x.at[mask, position - 1]
    ended = 0.0 if position == 0 else float(np.minimum(x.stopped[mask], reached).sum())
    found = ratio_of_sums(accepted.tolist(), reached.tolist())
    return ratio(
        f"accepted at slot {position + 1}",
        found,
        position=position + 1,
        least_rounds=float(reached.sum()) - ended,
    )


def _equal_length(x: Told, safety: Flags, capability: Flags) -> Estimate:
    """Slot 1 of both domains among answers of equal length, weighted by the rounds that both have there."""
    name = "safety less capability, slot 1, answers of equal length"
    bins = np.digitize(x.tokens, _BINS, right=True) if not np.isnan(x.tokens).any() else None
    if bins is None:
        return nothing(name, "the stack does not tell how long answers are", unit="points")
    found: list[tuple[float, Estimate]] = []
    for which in sorted(set(bins.tolist())):
        masks = safety & (bins == which), capability & (bins == which)
        if min(m.sum() for m in masks) > 1:
            one, other = (_first(x, m) for m in masks)
            apart = _apart(one, other, name)
            if apart.low is not None:
                found.append((min(one.n, other.n), apart))
    if not found:
        return nothing(name, "no length of answer occurs in both domains", unit="points")
    total = sum(w for w, _ in found)
    estimate = sum(w * (e.estimate or 0) for w, e in found) / total
    below, above = (
        sum(
            (w / total * ((e.estimate or 0) - (end or 0))) ** 2
            for w, e in found
            for end in [getattr(e, side)]
        )
        ** 0.5
        for side in ("low", "high")
    )
    return Estimate(
        name=name,
        estimate=estimate,
        low=estimate - below,
        high=estimate + above,
        k=None,
        n=sum(e.n for _, e in found),
        method="linearized over items within lengths, weighted by the smaller number of rounds",
        confidence=0.95,
        p=_p(estimate, estimate - below, estimate + above),
        unit="points",
        parts={"lengths compared": len(found)},
    )


def _sums(x: Told, mask: Flags) -> Ratio:
    return ratio_of_sums(x.accepted[mask].tolist(), x.drafted[mask].tolist())


def _first(x: Told, mask: Flags) -> Ratio:
    return ratio_of_sums(x.at[mask, 0].tolist(), x.rounds[mask].tolist())


def _ratio(x: Told, mask: Flags) -> Estimate:
    return ratio("accepted of drafted", _sums(x, mask))


def _apart(one: Ratio, other: Ratio, name: str) -> Estimate:
    if None in (one.low, one.high, other.low, other.high):
        return nothing(name, "fewer than two items on a side", n=one.items + other.items, unit="points")
    if one.low == one.high or other.low == other.high:
        return nothing(name, "nothing varies on a side", n=one.items + other.items, unit="points")
    a, b = ((r.estimate or 0.0, r.low or 0.0, r.high or 0.0) for r in (one, other))
    estimate, low, high = difference_of(a, b)
    return Estimate(
        name=name,
        estimate=estimate,
        low=low,
        high=high,
        k=None,
        n=one.items + other.items,
        method=f"difference of two ratios, {one.method}",
        confidence=one.confidence,
        p=_p(estimate, low, high),
        unit="points",
        parts={"k": one.k, "of": one.n, "other k": other.k, "other of": other.n},
    )


def _p(estimate: float, low: float, high: float) -> float:
    """Two-sided p of a difference from the end of its 95 % interval that lies towards 0."""
    half = estimate - low if estimate > 0 else high - estimate
    if half <= 0:
        return 1.0 if estimate == 0 else 0.0
    return float(2 * norm.sf(float(norm.ppf(0.975)) * abs(estimate) / half))


def decisive(x: Line) -> Estimate:
    """Of the two comparisons of a cell the one among answers of equal length, where there is one."""
    first, equal = x.estimates
    return equal if equal.low is not None else first


def _welch(x: Told, safety: Flags, capability: Flags) -> list[Estimate]:
    rates = x.accepted / x.drafted
    if min(safety.sum(), capability.sum()) < 2:
        return []
    w = welch_t(rates[safety], rates[capability])
    return [
        Estimate(
            name="mean of the items' rates, safety less capability",
            estimate=w.estimate,
            low=w.low,
            high=w.high,
            k=None,
            n=sum(w.n),
            method=w.method if w.t is not None else f"{w.method}: nothing varies",
            confidence=w.confidence,
            p=w.p,
            unit="points",
            parts={} if w.t is None or w.df is None or w.d is None else {"t": w.t, "df": w.df, "d": w.d},
        )
    ]


def _order(found: Estimate) -> str:
    if found.low is None or found.high is None:
        return "not known"
    return (
        "higher on safety"
        if found.low > 0
        else "lower on safety"
        if found.high < 0
        else "no difference shown"
    )


def _line(
    x: Told,
    estimates: Sequence[Estimate],
    *,
    axis: str = "",
    task: str = "",
    reading: str = "",
    position: int = 0,
) -> Line:
    c = x.cell
    return Line(
        cell=c.key,
        where=c.where,
        pair=c.pair,
        axis=axis,
        task=task,
        of=f"slot {position}" if position else f"phase {phase_of(c)}, {c.rule} k{c.drafted}",
        estimates=tuple(estimates),
        reading=reading,
    )
