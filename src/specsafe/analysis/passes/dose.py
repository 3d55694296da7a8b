"""Passes 13 to 15: does harm grow with the tokens drafted a round? The same items answer at every dose."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import t as student

from specsafe.analysis.equivalence import equivalence, p_beyond
from specsafe.analysis.measure import difference, finite, flips, in_phase, share
from specsafe.analysis.passes.phases import agree, line
from specsafe.analysis.result import Estimate, Found, Line, NotApplicable
from specsafe.analysis.tables import Flags, Floats, Names, Paired, Tables
from specsafe.stats import (
    CochranQ,
    Slope,
    cochran_armitage,
    cochran_q,
    heterogeneity,
    holm,
    linear_slope,
    logistic_slope,
    proportion,
)
from specsafe.words import plural

_NO_SERIES = NotApplicable(reason="phase 4 has no two doses that are answered beside a matched target")


class Series(NamedTuple):
    """The cells of one pair, rule and setting, by dose."""

    name: str
    pairs: tuple[Paired, ...]

    @property
    def doses(self) -> tuple[float, ...]:
        """Tokens drafted a round."""
        return tuple(float(p.cell.drafted) for p in self.pairs)

    @property
    def first(self) -> Paired:
        """The lowest dose, which stands for the series where one cell must be named."""
        return self.pairs[0]


def series(tables: Tables) -> list[Series]:
    """The dose series of phase 4 and of what repeats it: all that is equal but the tokens drafted."""
    groups: dict[str, dict[int, Paired]] = defaultdict(dict)
    for p in in_phase(tables, "4"):
        c = p.cell
        path = c.key.partition(": ")[0]
        name = f"{path}: {c.pair} {c.rule} {c.dtype} s{c.seed}"
        groups[name].setdefault(c.drafted, p)
    return [
        Series(name, tuple(by_dose[d] for d in sorted(by_dose)))
        for name, by_dose in groups.items()
        if len(by_dose) > 1
    ]


def matrix(s: Series, axis: str, task: str) -> tuple[Floats, Names]:
    """Harm of the items that are scored at every dose [items x doses], and their clusters."""
    masks = [p.scored & p.where(axis, task) for p in s.pairs]
    shared = set(s.first.ids[masks[0]].tolist()).intersection(
        *(p.ids[m].tolist() for p, m in zip(s.pairs[1:], masks[1:], strict=True))
    )
    columns = []
    for p in s.pairs:
        place = {i: n for n, i in enumerate(p.ids.tolist())}
        columns.append(p.after[[place[i] for i in s.first.ids.tolist() if i in shared]])
    kept: Flags = np.isin(s.first.ids, sorted(shared))
    return np.array(columns).T.reshape(int(kept.sum()), len(s.pairs)), s.first.cluster[kept]


def parts(s: Series) -> list[tuple[str, str]]:
    """(axis, task) that the first dose has scored, axes before their tasks."""
    return [(a, t) for a in s.first.axes() for t in ("", *s.first.tasks(a))]


def dose_response(tables: Tables) -> Found:
    """Pass 13: slopes over the dose with intervals clustered by item, and how many items change at all."""
    found = series(tables)
    if not found:
        return _NO_SERIES
    lines: list[Line] = []
    for s in found:
        for axis, task in parts(s):
            y, clusters = matrix(s, axis, task)
            if len(y):
                lines.append(response(s, axis, task, y, clusters, tables.alpha))
    return tuple(lines) or _NO_SERIES


def response(s: Series, axis: str, task: str, y: Floats, clusters: Names, alpha: float) -> Line:
    """What one slice of a series says: slopes, the classical test, and the items that change."""
    straight, log = linear_slope(y, s.doses, clusters), logistic_slope(y, s.doses, clusters)
    k = [int(v) for v in y.sum(0)]
    classical = cochran_armitage(k, [len(y)] * len(k), s.doses)
    trend = Estimate(
        name="Cochran-Armitage z",
        estimate=classical.z,
        low=None,
        high=None,
        k=sum(k),
        n=y.size,
        method=f"{classical.method}: the same {plural(len(y), 'item')}, so it is not what decides",
        p=classical.p,
        unit="number",
        parts={f"k at {d:g}": v for d, v in zip(s.doses, k, strict=True)} | {"n at each": len(y)},
    )
    changed = share("items that change with the dose", proportion(straight.changed, len(y)))
    reading = straight.reason or (
        "no trend shown"
        if straight.p is None or straight.p >= alpha
        else "rises"
        if (straight.estimate or 0) > 0
        else "falls"
    )
    estimates = [
        _slope_estimate("slope, points a token", straight, "points"),
        _slope_estimate("slope, log odds a token", log, "number"),
        trend,
        changed,
    ]
    return line(s.first, estimates, axis=axis, task=task, reading=reading).model_copy(update={"of": s.name})


def _slope_estimate(name: str, slope: Slope, unit: str) -> Estimate:
    return Estimate.model_validate(
        {
            "name": name,
            "estimate": slope.estimate,
            "low": slope.low,
            "high": slope.high,
            "k": slope.changed,
            "n": slope.items,
            "method": f"{slope.method}: {slope.reason}" if slope.reason else slope.method,
            "confidence": slope.confidence,
            "p": slope.p,
            "unit": unit,
            "parts": {"clusters": slope.clusters, "answers": slope.n},
        }
    )


def slope_heterogeneity(tables: Tables) -> Found:
    """Pass 14: do the pairs' slopes differ (Q, I²), and do the doses of a pair differ in any way (Cochran's Q)?"""
    found = series(tables)
    if not found:
        return _NO_SERIES
    lines = [
        _any_difference(s, axis, y, tables.alpha)
        for s in found
        for axis in s.first.axes()
        for y, _ in [matrix(s, axis, "")]
        if len(y)
    ]
    for axis in dict.fromkeys(a for s in found for a in s.first.axes()):
        slopes = [
            linear_slope(y, s.doses, clusters)
            for s in found
            for y, clusters in [matrix(s, axis, "")]
            if len(y)
        ]
        lines.append(_between(slopes, axis, tables.alpha))
    return tuple(lines) or _NO_SERIES


def _any_difference(s: Series, axis: str, y: Floats, alpha: float) -> Line:
    q: CochranQ = cochran_q(y)
    estimate = Estimate(
        name="Cochran's Q",
        estimate=q.q,
        low=None,
        high=None,
        k=q.changed,
        n=q.items,
        method=q.method if q.changed else f"{q.method}: no item changes",
        p=q.p,
        unit="number",
        parts={"df": q.df, "doses": q.treatments},
    )
    reading = (
        "no item changes"
        if q.p is None
        else "doses differ"
        if q.p < alpha
        else "no difference between doses shown"
    )
    return line(s.first, [estimate], axis=axis, reading=reading).model_copy(update={"of": s.name})


def _between(slopes: Sequence[Slope], axis: str, alpha: float) -> Line:
    """Slopes with a variance against each other; the others changed at no item."""
    known = [(s.estimate, v) for s in slopes if s.estimate is not None and (v := _variance(s))]
    n = max((s.items for s in slopes), default=0)
    h = heterogeneity([e for e, _ in known], [v for _, v in known], n)
    estimate = Estimate(
        name="I² over slopes",
        estimate=h.i2,
        low=h.low,
        high=h.high,
        k=h.k,
        n=n,
        method=f"{h.method}; never changing, so not weighed: {len(slopes) - len(known)} of {len(slopes)} series; pairs share items",
        confidence=h.confidence,
        p=h.p,
        parts={"Q": h.q} if h.q is not None else {},
    )
    return Line(axis=axis, of="slopes of all series", estimates=(estimate,), reading=agree(h.p, alpha))


def _variance(s: Slope) -> float | None:
    if s.low is None or s.high is None or s.clusters < 2:
        return None
    se = (s.high - s.low) / 2 / float(student.ppf(0.5 + s.confidence / 2, s.clusters - 1))
    return finite(se**2) if se > 0 and math.isfinite(se) else None


def critical_dose(tables: Tables) -> Found:
    """Pass 15: the smallest dose whose harm lies beyond the margin, by the rule of a screen and Holm over the doses."""
    found = series(tables)
    if not found:
        return _NO_SERIES
    lines: list[Line] = []
    for s in found:
        for axis in s.first.axes():
            lines += _doses(tables, s, axis)
    return tuple(lines) or _NO_SERIES


def _doses(tables: Tables, s: Series, axis: str) -> list[Line]:
    masks = [p.scored & p.where(axis) for p in s.pairs]
    kept = [(p, m) for p, m in zip(s.pairs, masks, strict=True) if m.any()]
    counted = [flips(p, m) for p, m in kept]
    sides = [equivalence(f, tables.margin, tables.alpha).harm for f in counted]
    adjusted = holm([p_beyond(f, tables.margin) for f in counted])
    beyond = [d.beyond and p <= tables.alpha for d, p in zip(sides, adjusted, strict=True)]
    lines = []
    for (p, mask), bad, corrected in zip(kept, beyond, adjusted, strict=True):
        d = difference(p, mask, tables.alpha)
        d = d.model_copy(
            update={"parts": {**d.parts, "dose": p.cell.drafted, "p beyond, after Holm": corrected}}
        )
        reading = "beyond the margin" if bad else "not shown to be beyond"
        lines.append(line(p, [d], axis=axis, reading=reading))
    first = next((p.cell.drafted for (p, _), bad in zip(kept, beyond, strict=True) if bad), None)
    n = max((int(m.sum()) for _, m in kept), default=0)
    smallest = Estimate(
        name="smallest dose beyond the margin",
        estimate=first,
        low=None,
        high=None,
        k=sum(beyond),
        n=n,
        method="lower bound and exact test beyond the margin, Holm over doses",
        confidence=1 - 2 * tables.alpha,
        unit="number",
        parts={"doses": len(kept)},
    )
    reading = "none" if first is None else f"from {plural(first, 'token')} on"
    return [*lines, line(s.first, [smallest], axis=axis, reading=reading).model_copy(update={"of": s.name})]
