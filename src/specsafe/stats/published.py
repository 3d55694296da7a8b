"""What the TR144 publication computed, for comparison only: each of these is wrong in a way that its docstring tells."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import linregress, t

from specsafe.stats.paired import TostTr144, tost_tr144

Scores = Sequence[float] | NDArray[np.float64]


def tost_scores_tr144(differences: Scores, margin: float = 0.03) -> TostTr144:
    """`tost_tr144` of score differences, halves included: a paired t that fails where no score differs, whatever n is."""
    d = np.asarray(differences, float)
    n, estimate = len(d), float(d.mean())
    variance = float(d.var(ddof=1)) if n > 1 else 0.0
    se = math.sqrt(variance / n) if variance > 0 else 1e-12
    p = 0.5
    if se > 1e-12:
        p = max(float(t.cdf((estimate - margin) / se, n - 1)), float(t.sf((estimate + margin) / se, n - 1)))
    return TostTr144(estimate, estimate - 1.645 * se, estimate + 1.645 * se, p, p < 0.05)


def best_case_tr144(difference: float, n: int, margin: float = 0.03) -> TostTr144:
    """The published test at its kindest: the fewest flips that give this difference, all of them one way.

    Where even this is not equivalent, no pairing of n items with this difference can have been.
    """
    flips = abs(difference) * n
    variance = max(0.0, (flips - flips**2 / n) / (n - 1))
    se = math.sqrt(variance / n)
    if se == 0:
        return tost_tr144(0, 0, n, margin)
    p = max(float(t.cdf((difference - margin) / se, n - 1)), float(t.sf((difference + margin) / se, n - 1)))
    return TostTr144(difference, difference - 1.645 * se, difference + 1.645 * se, p, p < 0.05)


def bootstrap_tost_tr144(
    differences: Scores, margin: float = 0.03, *, draws: int = 2000, seed: int = 42
) -> tuple[float, float, bool]:
    """(low, high, equivalent): 95 % percentiles of the mean of drawn items; always passes where no score differs."""
    d = np.asarray(differences, float)
    drawn = np.random.default_rng(seed).integers(len(d), size=(draws, len(d)))
    low, high = np.quantile(d[drawn].mean(1), [0.025, 0.975])
    return float(low), float(high), bool(-margin < low and high < margin)


def slope_tr144(scores: Scores, doses: Scores) -> tuple[float, float]:
    """(slope, p) of a straight line through all answers as if each were of another item; (0, 1) where none varies."""
    y, x = np.asarray(scores, float), np.asarray(doses, float)
    if np.ptp(y) == 0:
        return 0.0, 1.0
    res = linregress(x, y)
    return float(res.slope), float(res.pvalue)
