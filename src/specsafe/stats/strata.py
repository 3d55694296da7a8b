"""Strata together: the common odds ratio of matched pairs, and whether strata agree."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq
from scipy.stats import beta, chi2, ncx2, norm

from specsafe.stats.paired import mcnemar_exact


@dataclass(frozen=True, slots=True)
class OddsRatio:
    """A common odds ratio. b, c: pairs worse and better (None where the arms are unpaired). high None: unbounded."""

    estimate: float
    low: float
    high: float | None
    p: float
    b: int | None
    c: int | None
    n: int
    strata: int
    confidence: float
    method: str


@dataclass(frozen=True, slots=True)
class Heterogeneity:
    """Cochran's Q over strata and I², the share of variation beyond chance; k: strata. None with fewer than two."""

    q: float | None
    df: int
    p: float | None
    i2: float | None
    low: float | None
    high: float | None
    k: int
    n: int
    pooled: float | None
    confidence: float
    method: str = "Cochran's Q and I², inverse variance"


def mantel_haenszel_matched(
    b: Sequence[int],
    c: Sequence[int],
    n: Sequence[int],
    *,
    clusters: Sequence[tuple[int, int]] | None = None,
    confidence: float = 0.95,
) -> OddsRatio:
    """Common odds ratio of matched pairs over strata: (sum b) / (sum c), 1 where no pair differs.

    b, c, n: pairs worse, better and in all, a stratum each. A matched pair is a stratum of its own for Mantel and
    Haenszel, so their estimate is the ratio of discordant pairs. The interval is exact (Clopper-Pearson of b among
    b + c). clusters: (worse, better) of every item over all strata, where items occur in several of them; then the
    log of the ratio gets a variance by clusters, if both directions occur.
    """
    if not len(b) == len(c) == len(n) or any(x + y > m for x, y, m in zip(b, c, n, strict=True)):
        raise ValueError("need b, c and n of every stratum, b + c <= n")
    worse, better = sum(b), sum(c)
    p = mcnemar_exact(worse, better)

    def found(estimate: float, low: float, high: float | None, p: float, how: str) -> OddsRatio:
        name = f"matched Mantel-Haenszel, {how}"
        return OddsRatio(estimate, low, high, p, worse, better, sum(n), len(n), confidence, name)

    if not worse + better:
        return found(1.0, 0.0, None, 1.0, "no pair differs: no bound")
    spread = _clustered_spread(clusters, worse, better) if clusters is not None else 0.0
    if spread:
        log, z = math.log(worse / better), float(norm.ppf(0.5 + confidence / 2))
        low, high = (math.exp(log + sign * z * spread) for sign in (-1, 1))
        return found(worse / better, low, high, float(2 * norm.sf(abs(log) / spread)), "clustered by item")
    tail = (1 - confidence) / 2
    least = 0.0 if not worse else float(beta.ppf(tail, worse, better + 1))
    most = 1.0 if not better else float(beta.ppf(1 - tail, worse + 1, better))
    bounds = least / (1 - least), most / (1 - most) if most < 1 else None
    if not better:
        return found((worse + 0.5) / 0.5, *bounds, p, "exact interval, half a pair added to both directions")
    return found(worse / better, *bounds, p, "exact interval")


def _clustered_spread(clusters: Sequence[tuple[int, int]], worse: int, better: int) -> float:
    """Standard error of log(worse / better) from sums by cluster; 0 where it cannot be had from them."""
    m = sum(bool(x or y) for x, y in clusters)
    if not worse or not better or m < 2:
        return 0.0
    return math.sqrt(m / (m - 1) * sum((x / worse - y / better) ** 2 for x, y in clusters))


def mantel_haenszel_tr144(
    tables: Sequence[tuple[int, int, int, int]], *, confidence: float = 0.95
) -> OddsRatio:
    """The publication's unpaired common odds ratio, for comparison only: a, b, c, d of every stratum.

    a, b: bad and fine answers of the treatment; c, d: of the baseline. Variance of the log by Robins, Breslow and
    Greenland (1986). The pairing is thrown away, so the interval is that of two independent groups.
    """
    a, b, c, d = (np.array(column, float) for column in zip(*tables, strict=True))
    n = a + b + c + d
    r, s = (a * d / n).sum(), (b * c / n).sum()
    name = "unpaired Mantel-Haenszel, Robins-Breslow-Greenland"
    if r <= 0 or s <= 0:
        return OddsRatio(1.0, 0.0, None, 1.0, None, None, int(n.sum()), len(tables), confidence, name)
    same, other = (a + d) / n, (b + c) / n
    variance = (
        (same * a * d / n).sum() / (2 * r**2)
        + (same * b * c / n + other * a * d / n).sum() / (2 * r * s)
        + (other * b * c / n).sum() / (2 * s**2)
    )
    log, se = math.log(r / s), math.sqrt(float(variance))
    half = float(norm.ppf(0.5 + confidence / 2)) * se
    p = float(2 * norm.sf(abs(log) / se))
    limits = math.exp(log - half), math.exp(log + half)
    return OddsRatio(float(r / s), *limits, p, None, None, int(n.sum()), len(tables), confidence, name)


def heterogeneity(
    estimates: Sequence[float], variances: Sequence[float], n: int, *, confidence: float = 0.95
) -> Heterogeneity:
    """Do strata differ more than chance explains? Q against chi², I² with the interval that Q's noncentrality gives.

    n: units behind all strata. A stratum without variance cannot be weighed: raises ValueError. See
    `paired_variance` for strata in which no pair differs.
    """
    if any(v <= 0 for v in variances) or len(estimates) != len(variances):
        raise ValueError("need a positive variance of every stratum")
    k = len(estimates)
    if k < 2:
        pooled = estimates[0] if k else None
        return Heterogeneity(None, max(0, k - 1), None, None, None, None, k, n, pooled, confidence)
    weight, x = 1 / np.asarray(variances, float), np.asarray(estimates, float)
    pooled = float((weight * x).sum() / weight.sum())
    q, df = float((weight * (x - pooled) ** 2).sum()), k - 1
    tail = (1 - confidence) / 2
    shares = [_share(_noncentrality(q, df, level), df) for level in (1 - tail, tail)]
    i2 = max(0.0, (q - df) / q) if q > 0 else 0.0
    return Heterogeneity(q, df, float(chi2.sf(q, df)), i2, shares[0], shares[1], k, n, pooled, confidence)


def paired_variance(b: float, c: float, n: float) -> tuple[float, float]:
    """(difference, its variance) of a stratum after half a pair more in each direction: never 0 (Bonett and Price 2012)."""
    worse, better, of = b + 0.5, c + 0.5, n + 1
    difference = (worse - better) / of
    return difference, ((worse + better) / of - difference**2) / of


def _noncentrality(q: float, df: int, level: float) -> float:
    """The noncentrality at which Q lies at this level of its distribution; 0 where none does."""
    if chi2.cdf(q, df) <= level:
        return 0.0
    return float(brentq(lambda nc: ncx2.cdf(q, df, nc) - level, 1e-12, 4 * q + 100))


def _share(noncentrality: float, df: int) -> float:
    return noncentrality / (noncentrality + df)
