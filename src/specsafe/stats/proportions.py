"""One proportion, and families of tests: Clopper-Pearson, Cohen's h, Holm."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from scipy.special import betaincinv
from scipy.stats import binomtest

Method = Literal["exact", "wilson"]


@dataclass(frozen=True, slots=True)
class Proportion:
    """A rate that cannot lose its counts. `estimate`, `low`, `high` are None when n is 0."""

    k: int
    n: int
    estimate: float | None
    low: float | None
    high: float | None
    confidence: float
    method: str


def proportion(k: int, n: int, *, method: Method = "exact", confidence: float = 0.95) -> Proportion:
    """K of n with its interval. method: "exact" (Clopper-Pearson) or "wilson"."""
    if not 0 <= k <= n:
        raise ValueError(f"k must lie within 0..n, got k={k}, n={n}")
    if n == 0:
        return Proportion(k, n, None, None, None, confidence, method)
    if method == "exact":
        low, high = clopper_pearson(k, n, 1 - confidence)
    else:
        interval = binomtest(k, n).proportion_ci(confidence, method)
        low, high = float(interval.low), float(interval.high)
    return Proportion(k, n, k / n, low, high, confidence, method)


@lru_cache(maxsize=65536)
def clopper_pearson(k: int, n: int, alpha: float) -> tuple[float, float]:
    """The two-sided exact interval at 1 - alpha in closed form: many are needed, and a root search is slow."""
    low = 0.0 if k == 0 else float(betaincinv(k, n - k + 1, alpha / 2))
    return low, 1.0 if k == n else float(betaincinv(k + 1, n - k, 1 - alpha / 2))


def cohen_h(treatment: float, baseline: float) -> float:
    """Cohen's h = 2 asin sqrt(p1) - 2 asin sqrt(p0) of two marginal rates (Cohen 1988, eq. 6.2.1)."""
    return 2 * math.asin(math.sqrt(treatment)) - 2 * math.asin(math.sqrt(baseline))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p-values, in the order given (Holm 1979)."""
    m = len(p_values)
    order = sorted(range(m), key=lambda i: p_values[i])
    adjusted, running = [0.0] * m, 0.0
    for rank, i in enumerate(order):
        running = max(running, min(1.0, (m - rank) * p_values[i]))
        adjusted[i] = running
    return adjusted
