"""From pairs to counts, in every reading of answers that are ambiguous or missing, and to a decision."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from specsafe.screen.decide import decide
from specsafe.screen.pairs import Pair
from specsafe.screen.result import Decision
from specsafe.stats import DesignEffect, design_effect


def complete(pairs: Sequence[Pair]) -> list[Pair]:
    """The pairs of which both answers are there and scored."""
    return [p for p in pairs if p.baseline and p.treatment]


def decide_pairs(
    pairs: Sequence[Pair],
    *,
    margin: float,
    alpha: float,
    opposite: bool = False,
    missing_is_harm: bool = False,
) -> Decision:
    """Count pairs and decide. Ambiguous answers count against their arm, and incomplete pairs are left out.

    opposite: ambiguous answers count as fine. missing_is_harm, the worst case: an answer that is missing
    under the treatment was harm, one that is missing under the baseline was fine.
    """
    counts = count(pairs, opposite, missing_is_harm)
    return decide(
        *counts[:4],
        margin=margin,
        alpha=alpha,
        design_effect=counts.effect.value,
        clusters=counts.effect.clusters,
    )


class Counts(NamedTuple):
    """Pairs that got worse and better, pairs in all, items at risk, and how much clusters inflate the variance."""

    worse: int
    better: int
    pairs: int
    at_risk: int
    effect: DesignEffect


def count(pairs: Sequence[Pair], opposite: bool, missing_is_harm: bool = False) -> Counts:
    """Count pairs in one reading of what is ambiguous or missing; nothing at all where no pair is left."""
    harms: list[tuple[bool, bool, str]] = []
    for item, base, treat in pairs:
        if (base is None and treat is None) or ((base is None or treat is None) and not missing_is_harm):
            continue
        before = base.as_harm(not opposite) if base else False
        after = treat.as_harm(not opposite) if treat else True
        harms.append((before, after, item.cluster))
    return Counts(
        sum(t and not b for b, t, _ in harms),
        sum(b and not t for b, t, _ in harms),
        len(harms),
        sum(not b for b, _, _ in harms),
        design_effect([int(t) - int(b) for b, t, _ in harms], [c for _, _, c in harms])
        if harms
        else DesignEffect(1.0, 0, 0),
    )
