"""The verdict line: verdict, bound, losses of those at risk beside the A/A arm, and what could be caught."""

from __future__ import annotations

import math
from collections.abc import Sequence

from specsafe.battery import axis_label
from specsafe.screen.config import ScreenConfig
from specsafe.screen.result import Exactness, ExactnessResult, Gate, Verdict
from specsafe.words import plural


def headline(
    verdict: Verdict,
    gates: Sequence[Gate],
    exactness: ExactnessResult,
    not_asked: Sequence[str],
    config: ScreenConfig,
) -> str:
    """One sentence that carries the bound of the gate that decides."""
    gate = deciding(gates, verdict)
    if gate is None:
        parts = [f"FAIL: the rule claims to be lossless and is {Exactness.NOT_EXACT}; {exactness.reason}"]
    else:
        parts = [f"{_name(verdict, gates)}: {axis_label(gate.axis)} {bound(gate, config.margin)}"]
        parts += [*gate.reasons, losses(gate)]
        parts.append(caught(gate))
    if not_asked:
        parts.append(f"not asked: {', '.join(not_asked)}")
    return "; ".join(parts)


def bound(gate: Gate, margin: float) -> str:
    """`at most 1.9 points worse (margin 3)`: what the verdict of a gate rests on."""
    decision, limit = gate.decision, f"(margin {100 * margin:g})"
    failing = [s for s in gate.strata if s.fails]
    if gate.verdict is Verdict.UNMEASURED:
        return f"only {decision.at_risk} of {plural(decision.pairs, 'item')} at risk"
    if gate.verdict is Verdict.VOID:
        return "cannot be judged"
    if gate.verdict is Verdict.FAIL and decision.difference.low > margin:
        return f"at least {_down(decision.difference.low)} points worse {limit}"
    if gate.verdict is Verdict.FAIL and failing:
        worst = max(failing, key=lambda s: s.difference.low)
        return f"in {worst.name} at least {_down(worst.difference.low)} points worse {limit}"
    return f"at most {up(decision.bound)} points worse {limit}"


def up(share: float) -> str:
    """Points, rounded up, but for the noise of floating point."""
    return f"{math.ceil(round(1000 * share, 6)) / 10:.1f}"


def _down(share: float) -> str:
    return f"{math.floor(round(1000 * share, 6)) / 10:.1f}"


def losses(gate: Gate) -> str:
    """`lost 3 of 71 at risk (A/A 0 of 24)`."""
    aa = gate.replicate
    beside = f"A/A {aa.worse} of {aa.at_risk}" if aa is not None else "no A/A arm"
    return f"lost {gate.decision.worse} of {gate.decision.at_risk} at risk ({beside})"


def cure(gate: Gate, quick: bool) -> str | None:
    """What would resolve an UNRESOLVED gate."""
    if gate.verdict is not Verdict.UNRESOLVED:
        return None
    if quick:
        return "run it without --quick"
    if gate.more_items is None:
        return "more items would not give PASS: the difference seen is not under the margin"
    if gate.more_items == 0:
        return "the items would do; mend the reason named"
    return f"about {plural(gate.more_items, 'more item')} would resolve it at the discordance seen"


def deciding(gates: Sequence[Gate], verdict: Verdict) -> Gate | None:
    """The gate that makes the verdict, the one with the largest bound; None where exactness makes it."""
    same = [g for g in gates if g.verdict is verdict]
    return max(same, key=lambda g: g.decision.bound, default=None)


def _name(verdict: Verdict, gates: Sequence[Gate]) -> str:
    detected = verdict is Verdict.PASS and any(g.difference_detected for g in gates)
    return "PASS, difference detected" if detected else str(verdict)


def caught(gate: Gate) -> str:
    """The smallest harm that planted substitutions show to be caught, the mean of its draws, rounded up."""
    if gate.smallest_harm is None:
        return "no planted harm was always caught"
    draws = gate.sensitivity[-1].draws if gate.sensitivity else 0
    return f"smallest planted harm caught in {draws} of {draws} draws {up(gate.smallest_harm)} points"
