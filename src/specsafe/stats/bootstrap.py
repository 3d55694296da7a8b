"""The mean of values whose clusters are the units: whole clusters are drawn again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Clusters = Sequence[str] | Sequence[int] | NDArray[np.int64] | NDArray[np.str_]
DRAWS = 2_000
_AT_ONCE = 4_000_000  # cluster indices in memory


@dataclass(frozen=True, slots=True)
class Bootstrap:
    """A mean with its percentile interval. low, high are None where one cluster leaves nothing to draw.

    degenerate: every draw gave the same value, so the interval says nothing of what other items would give.
    """

    estimate: float
    low: float | None
    high: float | None
    n: int
    clusters: int
    draws: int
    confidence: float
    degenerate: bool
    method: str = "cluster bootstrap, percentiles"


def cluster_bootstrap(
    values: Sequence[float] | NDArray[np.float64],
    clusters: Clusters,
    *,
    draws: int = DRAWS,
    confidence: float = 0.95,
    seed: int = 0,
) -> Bootstrap:
    """Percentile interval of the mean of `values`, one an item; `clusters` says which items belong together.

    The same arguments give the same interval. Raises ValueError without a value.
    """
    x = np.asarray(values, float)
    if not len(x):
        raise ValueError("need at least one value")
    names, index = np.unique(np.asarray(clusters), return_inverse=True)
    m, estimate = len(names), float(x.mean())
    if m < 2:
        return Bootstrap(estimate, None, None, len(x), m, draws, confidence, True)
    sums = np.asarray(np.bincount(index, weights=x), np.float64)
    sizes = np.asarray(np.bincount(index), np.float64)
    means = np.concatenate(_means(sums, sizes, draws, np.random.default_rng(seed)))
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    degenerate = bool(np.ptp(means) == 0)
    return Bootstrap(estimate, float(low), float(high), len(x), m, draws, confidence, degenerate)


def _means(
    sums: NDArray[np.float64], sizes: NDArray[np.float64], draws: int, random: np.random.Generator
) -> list[NDArray[np.float64]]:
    """Means of resampled clusters, a part of the draws at a time."""
    m, found = len(sums), []
    each = max(1, _AT_ONCE // m)
    for start in range(0, draws, each):
        drawn = random.integers(m, size=(min(each, draws - start), m))
        found.append(sums[drawn].sum(1) / sizes[drawn].sum(1))
    return found
