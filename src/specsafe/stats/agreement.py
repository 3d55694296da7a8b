"""How far two raters agree beyond chance: Cohen's kappa, and what the TR144 publication's helper returned."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import norm


@dataclass(frozen=True, slots=True)
class Kappa:
    """Cohen's kappa. k: pairs that agree, of n; left_out: pairs in which a rater decided nothing.

    estimate is None where both raters used one and the same label alone: chance then explains all.
    """

    estimate: float | None
    low: float | None
    high: float | None
    k: int
    n: int
    left_out: int
    confidence: float
    method: str = "Cohen's kappa, large-sample interval"


def cohen_kappa(
    one: Sequence[str], other: Sequence[str], *, undecided: Collection[str] = (), confidence: float = 0.95
) -> Kappa:
    """Kappa of two raters' labels of the same texts, with the variance of Fleiss, Cohen and Everitt (1969).

    undecided: labels that decide nothing; such pairs are left out and counted. Raises ValueError where nothing is left:
    no agreement is known then, which is not an agreement of 0.
    """
    kept = [(x, y) for x, y in zip(one, other, strict=True) if x not in undecided and y not in undecided]
    left_out, n = len(one) - len(kept), len(kept)
    if not kept:
        raise ValueError(f"no pair of {len(one)} is decided by both raters: kappa is not known")
    names = sorted({label for pair in kept for label in pair})
    places = {name: place for place, name in enumerate(names)}
    table = np.zeros((len(names), len(names)))
    np.add.at(table, ([places[x] for x, _ in kept], [places[y] for _, y in kept]), 1)
    agree, share = int(np.trace(table)), table / n
    rows, columns = share.sum(1), share.sum(0)
    observed, chance = float(np.trace(share)), float(rows @ columns)
    if chance >= 1 - 1e-12:
        return Kappa(None, None, None, agree, n, left_out, confidence)
    kappa = (observed - chance) / (1 - chance)
    both = columns[:, None] + rows[None, :]  # of each cell: how often the raters use its labels the other way
    on = float((np.diag(share) * (1 - np.diag(both) * (1 - kappa)) ** 2).sum())
    off = float((share * both**2).sum() - (np.diag(share) * np.diag(both) ** 2).sum()) * (1 - kappa) ** 2
    variance = (on + off - (kappa - chance * (1 - kappa)) ** 2) / (n * (1 - chance) ** 2)
    half = float(norm.ppf(0.5 + confidence / 2)) * math.sqrt(max(0.0, variance))
    return Kappa(kappa, max(-1.0, kappa - half), min(1.0, kappa + half), agree, n, left_out, confidence)


def kappa_tr144(one: Sequence[str], other: Sequence[str], *, undecided: Collection[str] = ()) -> float:
    """The publication's helper, for comparison only: it says 0.0 where fewer than two pairs are decided."""
    kept = [(x, y) for x, y in zip(one, other, strict=True) if x not in undecided and y not in undecided]
    if len(kept) < 2:
        return 0.0
    found = cohen_kappa([x for x, _ in kept], [y for _, y in kept]).estimate
    return 1.0 if found is None else found
