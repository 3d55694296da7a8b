"""Items that share one request are not independent: the design effect."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class DesignEffect:
    """How much clustering inflates the variance of a mean; `value` is never below 1."""

    value: float
    clusters: int
    n: int


def design_effect(differences: Sequence[float], clusters: Sequence[str] | Sequence[int]) -> DesignEffect:
    """Design effect of the mean of per-item differences, by the linearized cluster variance.

    differences: one value an item (-1, 0, 1). clusters: the cluster of each item.
    n where all items are one cluster; 1 where every item is its own cluster or no item differs (print the bound with n = clusters then).
    """
    d = np.asarray(differences, float)
    names, index = np.unique(np.asarray(clusters), return_inverse=True)
    n, m = len(d), len(names)
    if m == 1 and n > 1:
        return DesignEffect(float(n), m, n)  # one cluster is one unit
    if m == n or not np.any(d):
        return DesignEffect(1.0, m, n)
    centred = d - d.mean()
    plain = float(np.sum(centred**2)) / (n - 1) / n
    totals = np.bincount(index, weights=centred, minlength=m)
    clustered = m / (m - 1) * float(np.sum(totals**2)) / n**2
    return DesignEffect(max(1.0, clustered / plain) if plain > 0 else 1.0, m, n)
