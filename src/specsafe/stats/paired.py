"""Two arms, the same items, a yes-or-no outcome: the paired difference, its interval and its tests.

Counts: `b` pairs got worse (fine under the baseline, bad under the treatment), `c` got better, `n` pairs
in all. The difference is (b - c) / n, so a positive one is harm. n counts unique items, never replays.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.stats import binom, binomtest, norm, t

from specsafe.stats.proportions import clopper_pearson

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class PairedDifference:
    """(b - c) / n with its interval. b, c and n may be fractions after division by a design effect."""

    estimate: float
    low: float
    high: float
    b: float
    c: float
    n: float
    confidence: float
    method: str


@dataclass(frozen=True, slots=True)
class TostTr144:
    """Two one-sided tests as the TR144 publication computed them, zero-variance defect included."""

    estimate: float
    low: float
    high: float
    p_value: float
    equivalent: bool


@lru_cache(maxsize=65536)
def paired_difference(
    b: float, c: float, n: float, *, method: str = "tango", confidence: float = 0.90
) -> PairedDifference:
    """Interval for the difference of two paired proportions.

    method: "tango" (score interval, Tango 1998, Stat. Med. 17:891) or "wald" (for comparison only).
    The limits of a two-sided 90 % interval are one-sided bounds at 5 %.
    """
    _check(b, c, n)
    estimate = (b - c) / n
    z = _quantile(0.5 + confidence / 2)
    if method == "wald":
        half = z * math.sqrt(max(0.0, (b + c) / n**2 - estimate**2 / n))
        return PairedDifference(estimate, estimate - half, estimate + half, b, c, n, confidence, method)
    if method != "tango":
        raise ValueError(f"method must be 'tango' or 'wald', got {method!r}")

    def excess(delta: float, sign: float) -> float:
        return _score(b, c, n, delta) - sign * z

    edge = 1 - 1e-12
    low = -1.0 if c == n else brentq(excess, -edge, estimate, args=(1.0,), xtol=1e-10)
    high = 1.0 if b == n else brentq(excess, estimate, edge, args=(-1.0,), xtol=1e-10)
    return PairedDifference(estimate, float(low), float(high), b, c, n, confidence, method)


def score_statistic(
    b: FloatArray | IntArray | float, c: FloatArray | IntArray | float, n: float, delta: float
) -> FloatArray:
    """Tango's Z for H: p_b - p_c = delta. Arrays broadcast.

    Z = (b - c - n d) / sqrt(n (2 q + d (1 - d))), q the restricted estimate of p_c under H.
    """
    b_, c_ = np.asarray(b, float), np.asarray(c, float)
    linear = -b_ - c_ + (2 * n - b_ + c_) * delta
    constant = -c_ * delta * (1 - delta)
    q = (np.sqrt(np.maximum(linear**2 - 8 * n * constant, 0)) - linear) / (4 * n)
    variance = n * (2 * np.maximum(q, 0) + delta * (1 - delta))
    shift = b_ - c_ - n * delta
    with np.errstate(divide="ignore", invalid="ignore"):
        z = shift / np.sqrt(variance)
        certain = np.where(shift == 0, 0.0, np.sign(shift) * np.inf)
    return np.where(variance > 1e-300, z, certain)


def _score(b: float, c: float, n: float, delta: float) -> float:
    """`score_statistic` of one table: a root search asks for many, and arrays of one are slow."""
    linear = -b - c + (2 * n - b + c) * delta
    constant = -c * delta * (1 - delta)
    q = (math.sqrt(max(linear**2 - 8 * n * constant, 0.0)) - linear) / (4 * n)
    variance = n * (2 * max(q, 0.0) + delta * (1 - delta))
    shift = b - c - n * delta
    if variance > 1e-300:
        return shift / math.sqrt(variance)
    return math.copysign(math.inf, shift) if shift else 0.0


def exact_unconditional(
    b: int, c: int, n: int, margin: float, *, alternative: str, gamma: float = 1e-5
) -> float:
    """p-value of the exact unconditional test of H: p_b - p_c = margin, ordered by Tango's statistic.

    alternative "less" is non-inferiority (small p: the harm is below the margin), "greater" is harm
    beyond it. The nuisance p_c is maximized over a 1 - gamma confidence set and gamma is added
    (Berger and Boos 1994), so the test is valid at every n and cheap at a large one. Between grid
    points the maximum is refined once; the grid is dense where the counts are few.
    """
    _check(b, c, n)
    if alternative not in ("less", "greater"):
        raise ValueError(f"alternative must be 'less' or 'greater', got {alternative!r}")
    low, high = _nuisance_range(b, c, n, margin, gamma)
    if low > high:  # no nuisance value is compatible with the data: H is rejected either way
        consistent = (b - c) / n < margin if alternative == "less" else (b - c) / n > margin
        return gamma if consistent else 1.0
    observed = float(score_statistic(b, c, n, margin))
    grid = np.linspace(math.sqrt(low), math.sqrt(high), 120) ** 2
    p = _tail(grid, n, margin, observed, alternative)
    best = int(np.argmax(p))
    fine = np.linspace(grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)], 40)
    return float(min(1.0, max(p.max(), _tail(fine, n, margin, observed, alternative).max()) + gamma))


@lru_cache(maxsize=65536)
def mcnemar_exact(b: int, c: int) -> float:
    """Two-sided exact McNemar p-value; 1.0 without discordant pairs."""
    return 1.0 if b + c == 0 else float(binomtest(b, b + c, 0.5).pvalue)


def sample_size(
    discordance: float, margin: float, *, alpha: float = 0.05, power: float = 0.8, two_sided: bool = False
) -> int:
    """Pairs needed to show a true difference of 0 within the margin.

    n = (z_(1-alpha) + z_power)^2 discordance / margin^2; two_sided (TOST) splits the error of power.
    Never fewer than the n at which zero discordant pairs pass: z^2 / (n + z^2) < margin.
    """
    z_alpha = float(norm.ppf(1 - alpha))
    z_beta = float(norm.ppf(1 - (1 - power) / 2 if two_sided else power))
    formula = math.ceil((z_alpha + z_beta) ** 2 * discordance / margin**2)
    floor = math.floor(z_alpha**2 * (1 - margin) / margin) + 1
    return max(formula, floor)


def paired_mde(n: float, discordance: float, *, alpha: float = 0.05, power: float = 0.8) -> float:
    """Smallest difference that a one-sided paired test finds with this power at this discordance."""
    return float((norm.ppf(1 - alpha) + norm.ppf(power)) * math.sqrt(discordance / n))


def mde_tr144(rate: float, n: int) -> float:
    """The publication's minimum detectable effect: an unpaired two-sample formula, for comparison only."""
    return (1.96 + 0.842) * math.sqrt(2 * rate * (1 - rate) / n)


def tost_tr144(b: int, c: int, n: int, margin: float = 0.03) -> TostTr144:
    """The publication's TOST, for comparison only: a paired-t interval that fails at zero discordance."""
    estimate = (b - c) / n
    variance = ((b + c) - n * estimate**2) / (n - 1)
    se = math.sqrt(variance / n) if variance > 0 else 1e-12
    if se > 1e-12:
        p = max(float(t.cdf((estimate - margin) / se, n - 1)), float(t.sf((estimate + margin) / se, n - 1)))
    else:
        p = 0.5
    return TostTr144(estimate, estimate - 1.645 * se, estimate + 1.645 * se, p, p < 0.05)


@lru_cache(maxsize=64)
def _quantile(level: float) -> float:
    return float(norm.ppf(level))


def _check(b: float, c: float, n: float) -> None:
    if n <= 0 or b < 0 or c < 0 or b + c > n + 1e-9:
        raise ValueError(f"need b, c >= 0, b + c <= n and n > 0, got b={b}, c={c}, n={n}")


def _nuisance_range(b: int, c: int, n: int, margin: float, gamma: float) -> tuple[float, float]:
    """p_c values compatible with c, and with b through p_b = p_c + margin; each at 1 - gamma / 2."""
    from_c, from_b = (clopper_pearson(k, n, gamma / 2) for k in (c, b))
    low = max(from_c[0], from_b[0] - margin, -margin, 0.0)
    high = min(from_c[1], from_b[1] - margin, (1 - margin) / 2)
    return float(low), float(high)


def _tail(q: FloatArray, n: int, margin: float, observed: float, alternative: str) -> FloatArray:
    """P(statistic at least as extreme as observed) for each nuisance value q = p_c, p_b = q + margin."""
    spread = 9 * math.sqrt(n * float(q.max()) + 1)
    c = np.arange(
        max(0, math.floor(n * float(q.min()) - spread)), min(n, math.ceil(n * float(q.max()) + spread)) + 1
    )
    sign = 1.0 if alternative == "less" else -1.0
    edge = _critical_b(c, n, margin, observed, sign)
    weight = binom.pmf(c[None, :], n, q[:, None])
    share = np.clip((q + margin) / np.maximum(1 - q, 1e-300), 0, 1)
    remaining = (n - c)[None, :]
    if alternative == "less":
        inside = binom.cdf(edge[None, :], remaining, share[:, None])
    else:
        inside = binom.sf(edge[None, :] - 1, remaining, share[:, None])
    total: FloatArray = np.sum(weight * inside, axis=1)
    return total


def _critical_b(
    c: NDArray[np.int64], n: int, margin: float, observed: float, sign: float
) -> NDArray[np.int64]:
    """Per c: the largest b with Z <= observed (sign +1; -1 if none), or the smallest with Z >= observed.

    Z grows with b at fixed c, so a vectorized bisection over the integers finds it.
    """
    tolerance = 1e-9
    low, high = np.full(c.shape, -1), n - c + 1  # low: condition fails or starts; high: beyond the end
    if sign > 0:
        while np.any(high - low > 1):
            middle = (low + high) // 2
            holds = (middle < 0) | (
                score_statistic(np.maximum(middle, 0), c, n, margin) <= observed + tolerance
            )
            low, high = np.where(holds, middle, low), np.where(holds, high, middle)
        return low.astype(np.int64)
    while np.any(high - low > 1):
        middle = (low + high) // 2
        holds = (middle >= 0) & (score_statistic(np.maximum(middle, 0), c, n, margin) >= observed - tolerance)
        low, high = np.where(holds, low, middle), np.where(holds, middle, high)
    return high.astype(np.int64)
