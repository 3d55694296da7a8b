"""Ratios of sums over items (accepted / drafted, tokens / second) and the ratio of two of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import norm


@dataclass(frozen=True, slots=True)
class Ratio:
    """sum(k) / sum(n) with an interval that treats items, not tokens, as the units."""

    k: float
    n: float
    items: int
    estimate: float | None
    low: float | None
    high: float | None
    confidence: float
    method: str = "linearized over items"


def ratio_of_sums(k: Sequence[float], n: Sequence[float], *, confidence: float = 0.95) -> Ratio:
    """sum(k) / sum(n) over items, with the linearization (delta) interval; None where n sums to 0."""
    a, b = np.asarray(k, float), np.asarray(n, float)
    total = float(b.sum())
    if total == 0:
        return Ratio(float(a.sum()), total, len(a), None, None, None, confidence)
    estimate = float(a.sum()) / total
    half = _half_width(a - estimate * b, confidence)
    low, high = (None, None) if half is None else (estimate - half / total, estimate + half / total)
    return Ratio(float(a.sum()), total, len(a), estimate, low, high, confidence)


@dataclass(frozen=True, slots=True)
class SpeedUp:
    """Rate of the treatment over rate of the baseline, on the same items."""

    treatment_rate: float
    baseline_rate: float
    items: int
    estimate: float
    low: float | None
    high: float | None
    confidence: float
    method: str = "log ratio, linearized over paired items"


def paired_rate_ratio(
    treatment: tuple[Sequence[float], Sequence[float]],
    baseline: tuple[Sequence[float], Sequence[float]],
    *,
    confidence: float = 0.95,
) -> SpeedUp | None:
    """(amounts, seconds) of both arms, item by item -> ratio of their rates; None without any seconds."""
    (kt, st), (kb, sb) = ((np.asarray(k, float), np.asarray(s, float)) for k, s in (treatment, baseline))
    if len(kt) == 0 or min(st.sum(), sb.sum(), kt.sum(), kb.sum()) <= 0:
        return None
    rate_t, rate_b = float(kt.sum() / st.sum()), float(kb.sum() / sb.sum())
    influence = (kt - rate_t * st) / kt.sum() - (kb - rate_b * sb) / kb.sum()
    half, estimate = _half_width(influence, confidence), rate_t / rate_b
    low, high = (None, None) if half is None else (estimate * math.exp(-half), estimate * math.exp(half))
    return SpeedUp(rate_t, rate_b, len(kt), estimate, low, high, confidence)


def _half_width(influence: np.ndarray, confidence: float) -> float | None:
    """Half the interval of a sum with these influences; None with fewer than two items."""
    m = len(influence)
    if m < 2:
        return None
    z = float(norm.ppf(0.5 + confidence / 2))
    return z * math.sqrt(m / (m - 1) * float(np.sum(influence**2)))
