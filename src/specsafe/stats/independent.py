"""Differences of what does not share its items: two rates, or two differences."""

from __future__ import annotations

import math
from dataclasses import dataclass

from specsafe.stats.proportions import proportion

Interval = tuple[float, float, float]  # estimate, low, high


@dataclass(frozen=True, slots=True)
class IndependentDifference:
    """First less second, of two rates with their counts."""

    estimate: float
    low: float
    high: float
    k: tuple[int, int]
    n: tuple[int, int]
    confidence: float
    method: str = "Newcombe's hybrid score interval"


def independent_difference(
    k1: int, n1: int, k2: int, n2: int, *, confidence: float = 0.95
) -> IndependentDifference:
    """k1 / n1 - k2 / n2 of different subjects (Newcombe 1998, method 10). Raises ValueError where an n is 0."""
    if not n1 or not n2:
        raise ValueError(f"nothing to compare: n is {n1} and {n2}")
    one, other = (proportion(k, n, method="wilson", confidence=confidence) for k, n in ((k1, n1), (k2, n2)))
    estimate, low, high = difference_of(
        (one.estimate or 0.0, one.low or 0.0, one.high or 0.0),
        (other.estimate or 0.0, other.low or 0.0, other.high or 0.0),
    )
    return IndependentDifference(estimate, low, high, (k1, k2), (n1, n2), confidence)


def difference_of(one: Interval, other: Interval) -> Interval:
    """(estimate, low, high) of the first less the second, from their own intervals (Donner and Zou 2012, MOVER)."""
    (a, a_low, a_high), (b, b_low, b_high) = one, other
    low = a - b - math.hypot(a - a_low, b_high - b)
    high = a - b + math.hypot(a_high - a, b - b_low)
    return a - b, low, high
