"""Two one-sided tests by Tango's interval with the exact unconditional check, as a screen decides, in both directions."""

from __future__ import annotations

from typing import Literal, NamedTuple

from specsafe.analysis.measure import Flips
from specsafe.screen.decide import decide
from specsafe.screen.result import Decision, Verdict

Reading = Literal["equivalent", "different", "not resolved"]


class Equivalence(NamedTuple):
    """Both directions of one contrast: harm (more harm than the margin?) and relief (less by more than the margin?)."""

    reading: Reading
    harm: Decision
    relief: Decision

    @property
    def p(self) -> float:
        """The larger of the two one-sided exact p-values: equivalence needs both."""
        return max(self.harm.p_pass, self.relief.p_pass)


def equivalence(f: Flips, margin: float, alpha: float) -> Equivalence:
    """Equivalent: both bounds lie inside the margin and both exact tests agree. Different: one lies wholly outside.

    Nothing discordant is no proof by itself: the bound is z² / (n + z²), so 50 items are not enough for 3 points and 100
    are. Clusters count as the units where that is stricter, as in `screen.decide`.
    """
    harm, relief = (_side(b, c, f, margin, alpha) for b, c in ((f.worse, f.better), (f.better, f.worse)))
    if Verdict.FAIL in (harm.verdict, relief.verdict):
        return Equivalence("different", harm, relief)
    if all(d.bound < margin and d.p_pass <= alpha for d in (harm, relief)):
        return Equivalence("equivalent", harm, relief)
    return Equivalence("not resolved", harm, relief)


def _side(worse: int, better: int, f: Flips, margin: float, alpha: float) -> Decision:
    """At risk are the items at which a change in this direction could be: all, since here only the bound is asked."""
    return decide(
        worse, better, f.n, f.n, margin=margin, alpha=alpha, design_effect=f.effect, clusters=f.clusters
    )
