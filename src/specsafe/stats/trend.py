"""Does an outcome rise with a dose? Cochran-Armitage, and slopes where the same items answer at every dose.

The classical test takes the answers at different doses for different subjects. Where each item is asked at every dose
its answers move together, so the slopes here have intervals from sums over clusters of items (sandwich, CR1).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import chi2, norm, t

from specsafe.stats.bootstrap import Clusters

FloatArray = NDArray[np.float64]
_STEPS, _CLOSE = 60, 1e-10
_STEEPEST = 30.0  # log odds between the lowest and the highest dose: beyond that no maximum exists


@dataclass(frozen=True, slots=True)
class Trend:
    """The classical test for a trend in proportions; z and p are None where nothing varies."""

    z: float | None
    p: float | None
    k: tuple[int, ...]
    n: tuple[int, ...]
    doses: tuple[float, ...]
    method: str = "Cochran-Armitage, different subjects at every dose"


@dataclass(frozen=True, slots=True)
class Slope:
    """Change of an outcome a unit of dose. None: the data have no slope, `reason` says why.

    n: answers; items: unique ones; clusters: what the interval counts; changed: items whose answers are not all the same.
    """

    estimate: float | None
    low: float | None
    high: float | None
    p: float | None
    n: int
    items: int
    clusters: int
    changed: int
    confidence: float
    method: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class CochranQ:
    """Cochran's Q: do the same items answer differently under several treatments? p is None where no item differs."""

    q: float
    df: int
    p: float | None
    items: int
    changed: int
    treatments: int
    method: str = "Cochran's Q, the same items under every treatment"


def cochran_armitage(k: Sequence[int], n: Sequence[int], doses: Sequence[float]) -> Trend:
    """Z of the trend in k / n over doses (Armitage 1955), two-sided p. Raises ValueError for fewer than two doses."""
    hits, of, x = (np.asarray(v, float) for v in (k, n, doses))
    if len(x) < 2 or len(set(doses)) < 2:
        raise ValueError("need at least two doses")
    told = (tuple(int(v) for v in k), tuple(int(v) for v in n), tuple(float(v) for v in doses))
    share = hits.sum() / of.sum()
    middle = (of * x).sum() / of.sum()
    variance = share * (1 - share) * float((of * (x - middle) ** 2).sum())
    if variance <= 0:
        return Trend(None, None, *told)
    z = float((x * (hits - of * share)).sum() / math.sqrt(variance))
    return Trend(z, float(2 * norm.sf(abs(z))), *told)


def linear_slope(
    outcomes: FloatArray,
    doses: Sequence[float],
    clusters: Clusters,
    *,
    confidence: float = 0.95,
) -> Slope:
    """Slope of the rate over doses, in shares a unit of dose, by least squares.

    outcomes: items x doses, 0 to 1. clusters: one an item. Where no item changes the slope is 0 and has no interval: its
    bound is what the share of items that change may be.
    """
    y, index, m = _checked(outcomes, doses, clusters)
    x = np.asarray(doses, float)
    centred = x - x.mean()
    spread = float((centred**2).sum()) * len(y)
    estimate = float((y @ centred).sum()) / spread
    residual: FloatArray = np.asarray(y - y.mean() - estimate * centred, np.float64)
    totals = np.asarray(np.bincount(index, weights=residual @ centred, minlength=m), np.float64)
    return _slope(estimate, totals, spread, y, m, confidence, "linear, variance clustered by item")


def logistic_slope(
    outcomes: FloatArray,
    doses: Sequence[float],
    clusters: Clusters,
    *,
    confidence: float = 0.95,
) -> Slope:
    """Slope of the log odds a unit of dose, by maximum likelihood, with a cluster sandwich and t of clusters - 1.

    outcomes: items x doses, 0 or 1. clusters: one an item. There is no slope where all answers are the same or the doses
    part them perfectly.
    """
    y, index, m = _checked(outcomes, doses, clusters)
    x, method = np.asarray(doses, float), "logistic, variance clustered by item"
    changed = int((np.ptp(y, axis=1) > 0).sum())
    nothing = (None, None, None, None, y.size, len(y), m, changed, confidence, method)
    if y.min() == y.max():
        return Slope(*nothing, "every answer at every dose is the same")
    fitted = _fit(y.sum(0), np.full(len(x), float(len(y))), x)
    if fitted is None:
        return Slope(*nothing, "the doses part the answers perfectly")
    a, b = fitted
    p = 1 / (1 + np.exp(-(a + b * x)))
    weight = p * (1 - p) * len(y)
    design = np.column_stack([np.ones_like(x), x])
    bread = np.linalg.inv(design.T @ (weight[:, None] * design))
    residual = y - p
    scores = np.column_stack([np.bincount(index, weights=residual @ c, minlength=m) for c in design.T])
    totals = scores @ bread[1]
    return _slope(b, totals, 1.0, y, m, confidence, method)


def cochran_q(outcomes: FloatArray) -> CochranQ:
    """Cochran's Q of items x treatments, 0 or 1 (Cochran 1950). Raises ValueError for fewer than two treatments."""
    y = np.asarray(outcomes, float)
    if y.ndim != 2 or y.shape[1] < 2:
        raise ValueError("need items x at least two treatments")
    m = y.shape[1]
    changed = int((np.ptp(y, axis=1) > 0).sum()) if len(y) else 0
    if not changed:
        return CochranQ(0.0, m - 1, None, len(y), 0, m)
    columns, rows = y.sum(0), y.sum(1)
    q = (m - 1) * float(m * (columns**2).sum() - columns.sum() ** 2) / float(m * rows.sum() - (rows**2).sum())
    return CochranQ(q, m - 1, float(chi2.sf(q, m - 1)), len(y), changed, m)


def _checked(
    outcomes: FloatArray, doses: Sequence[float], clusters: Clusters
) -> tuple[FloatArray, NDArray[np.int64], int]:
    y = np.asarray(outcomes, float)
    if y.ndim != 2 or y.shape != (len(clusters), len(doses)) or not len(y) or len(set(doses)) < 2:
        raise ValueError(f"need items x doses and a cluster an item, got {y.shape}, {len(doses)} doses")
    names, index = np.unique(np.asarray(clusters), return_inverse=True)
    return y, index, len(names)


def _slope(
    estimate: float, totals: FloatArray, spread: float, y: FloatArray, m: int, confidence: float, method: str
) -> Slope:
    """A slope from its cluster totals of influence; no interval where nothing changes or with one cluster."""
    changed = int((np.ptp(y, axis=1) > 0).sum())
    if m < 2 or not changed:
        reason = "one cluster" if changed else "no item changes with the dose"
        return Slope(
            estimate if changed else 0.0,
            *(None, None, None, y.size, len(y), m, changed, confidence, method, reason),
        )
    se = math.sqrt(m / (m - 1) * float((totals**2).sum())) / spread
    if se == 0:
        return Slope(
            estimate, None, None, None, y.size, len(y), m, changed, confidence, method, "no variance"
        )
    half = float(t.ppf(0.5 + confidence / 2, m - 1)) * se
    p = float(2 * t.sf(abs(estimate) / se, m - 1))
    return Slope(
        estimate, estimate - half, estimate + half, p, y.size, len(y), m, changed, confidence, method
    )


def _fit(k: FloatArray, n: FloatArray, x: FloatArray) -> tuple[float, float] | None:
    """Intercept and slope of a logistic curve through k of n at x (Newton); None where no maximum exists."""
    middle, scale = float(x.mean()), float(np.ptp(x))
    u = (x - middle) / scale
    share = float(k.sum() / n.sum())
    a, b = math.log(share / (1 - share)), 0.0
    for _ in range(_STEPS):
        p = 1 / (1 + np.exp(-(a + b * u)))
        weight = n * p * (1 - p)
        gradient = np.array([(k - n * p).sum(), ((k - n * p) * u).sum()])
        hessian = np.array([[weight.sum(), (weight * u).sum()], [(weight * u).sum(), (weight * u**2).sum()]])
        if abs(b) > _STEEPEST or np.linalg.det(hessian) < 1e-12:
            return None
        step = np.linalg.solve(hessian, gradient)
        a, b = a + float(step[0]), b + float(step[1])
        if np.abs(step).max() < _CLOSE:
            return a - b * middle / scale, b / scale
    return None
