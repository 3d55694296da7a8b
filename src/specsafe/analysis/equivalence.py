"""Two one-sided tests by Tango's interval with the exact unconditional check, as a screen decides, in both directions."""

from __future__ import annotations

from typing import Literal, NamedTuple

from specsafe.analysis.measure import Flips, tango
from specsafe.analysis.result import Estimate
from specsafe.screen.decide import is_harm, p_harm, upper_bound
from specsafe.stats import paired_difference

Reading = Literal["equivalent", "different", "not resolved"]


class Side(NamedTuple):
    """One direction: its one-sided bound, the exact p that it lies within the margin, and whether it lies beyond."""

    bound: float
    p: float
    beyond: bool


class Equivalence(NamedTuple):
    """Both directions of one contrast: more harm than the margin, and less harm by more than the margin."""

    reading: Reading
    harm: Side
    relief: Side

    @property
    def p(self) -> float:
        """The larger of the two one-sided exact p-values: equivalence needs both."""
        return max(self.harm.p, self.relief.p)


def equivalence(f: Flips, margin: float, alpha: float) -> Equivalence:
    """Equivalent: both bounds lie inside the margin and both exact tests agree. Different: one lies wholly outside.

    Nothing discordant is no proof by itself: the bound is z² / (n + z²), so 50 items are not enough for 3 points and 100
    are. Clusters count as the units where that is stricter, as in `screen.decide`.
    """
    harm, relief = (_side(b, c, f, margin, alpha) for b, c in ((f.worse, f.better), (f.better, f.worse)))
    if harm.beyond or relief.beyond:
        return Equivalence("different", harm, relief)
    if all(s.bound < margin and s.p <= alpha for s in (harm, relief)):
        return Equivalence("equivalent", harm, relief)
    return Equivalence("not resolved", harm, relief)


def _side(worse: int, better: int, f: Flips, margin: float, alpha: float) -> Side:
    bound, p = upper_bound(worse, better, f.n, margin, alpha, max(f.effect, f.n / f.clusters))
    return Side(bound, p, is_harm(worse, better, f.n, margin, alpha, f.effect))


def p_beyond(f: Flips, margin: float) -> float:
    """Exact p that the harm lies beyond the margin."""
    return p_harm(f.worse, f.better, f.n, margin, f.effect)


def equivalence_estimate(f: Flips, found: Equivalence, alpha: float) -> Estimate:
    """The difference with both bounds of the rule: they may be wider than its interval where items share clusters."""
    u = f.effect
    e = tango(
        "difference", paired_difference(f.worse / u, f.better / u, f.n / u, confidence=1 - 2 * alpha), f
    )
    return e.model_copy(
        update={
            "low": min(-found.relief.bound, e.low or 0.0),
            "high": max(found.harm.bound, e.high or 0.0),
            "method": "TOST: Tango's interval and the exact unconditional test, clusters as units where stricter",
            "p": found.p,
        }
    )
