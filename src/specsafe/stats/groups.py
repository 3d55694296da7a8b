"""Groups of numbers: Welch's t, one-way analysis of variance, and a number against a yes or no."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import f_oneway, norm, t, ttest_ind

Numbers = Sequence[float] | NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class WelchT:
    """Difference of two means (first less second); d is Cohen's, over the pooled deviation. None: nothing varies."""

    estimate: float
    low: float | None
    high: float | None
    t: float | None
    df: float | None
    p: float | None
    d: float | None
    n: tuple[int, int]
    confidence: float
    method: str = "Welch's t"


@dataclass(frozen=True, slots=True)
class Anova:
    """One-way analysis of variance; k groups. eta2: share of variation between groups. None: nothing varies."""

    f: float | None
    p: float | None
    eta2: float | None
    df: tuple[int, int]
    k: int
    n: int
    method: str = "one-way analysis of variance"


@dataclass(frozen=True, slots=True)
class PointBiserial:
    """Correlation of a number with a yes or no, Fisher's interval; k: how many are yes. None: one of them never varies."""

    estimate: float | None
    low: float | None
    high: float | None
    p: float | None
    k: int
    n: int
    confidence: float
    method: str = "point-biserial correlation, Fisher's z"


def welch_t(one: Numbers, other: Numbers, *, confidence: float = 0.95) -> WelchT:
    """Difference of the means of two independent groups. Raises ValueError where a group has fewer than two."""
    a, b = np.asarray(one, float), np.asarray(other, float)
    if min(len(a), len(b)) < 2:
        raise ValueError(f"need two of each group, got {len(a)} and {len(b)}")
    sizes, estimate = (len(a), len(b)), float(a.mean() - b.mean())
    if np.ptp(a) == 0 and np.ptp(b) == 0:
        return WelchT(estimate, None, None, None, None, None, None, sizes, confidence)
    res = ttest_ind(a, b, equal_var=False)
    interval = res.confidence_interval(confidence)
    pooled = ((len(a) - 1) * a.var(ddof=1) + (len(b) - 1) * b.var(ddof=1)) / (len(a) + len(b) - 2)
    return WelchT(
        estimate,
        float(interval.low),
        float(interval.high),
        float(res.statistic),
        float(res.df),
        float(res.pvalue),
        estimate / math.sqrt(pooled),
        sizes,
        confidence,
    )


def one_way_anova(groups: Sequence[Numbers]) -> Anova:
    """F of several groups. Raises ValueError for fewer than two groups or an empty one."""
    values = [np.asarray(g, float) for g in groups]
    if len(values) < 2 or min(map(len, values)) < 1:
        raise ValueError("need at least two groups, none of them empty")
    together = np.concatenate(values)
    df = (len(values) - 1, len(together) - len(values))
    total = float(((together - together.mean()) ** 2).sum())
    inside = float(sum(((v - v.mean()) ** 2).sum() for v in values))
    if total == 0 or df[1] < 1:
        return Anova(None, None, None, df, len(values), len(together))
    eta2 = (total - inside) / total
    if inside == 0:
        return Anova(None, 0.0, eta2, df, len(values), len(together))
    res = f_oneway(*values)
    return Anova(float(res.statistic), float(res.pvalue), eta2, df, len(values), len(together))


def point_biserial(numbers: Numbers, yes: Sequence[bool], *, confidence: float = 0.95) -> PointBiserial:
    """Correlation of numbers with yes or no, two-sided p by t."""
    x, y = np.asarray(numbers, float), np.asarray(yes, float)
    n, k = len(x), int(y.sum())
    if n < 4 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return PointBiserial(None, None, None, None, k, n, confidence)
    r = float(np.corrcoef(x, y)[0, 1])
    half = float(norm.ppf(0.5 + confidence / 2)) / math.sqrt(n - 3)
    z = math.atanh(min(1 - 1e-15, max(-1 + 1e-15, r)))
    p = float(2 * t.sf(abs(r) * math.sqrt((n - 2) / max(1e-300, 1 - r**2)), n - 2))
    return PointBiserial(r, math.tanh(z - half), math.tanh(z + half), p, k, n, confidence)
