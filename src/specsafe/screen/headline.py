"""The verdict line: verdict, bound, losses of those at risk beside the A/A arm, and what could be caught."""

from __future__ import annotations

import math
from collections.abc import Sequence

from specsafe.battery import axis_label
from specsafe.screen.config import ScreenConfig
from specsafe.screen.result import Exactness, ExactnessResult, Gate, Verdict


def headline(
    verdict: Verdict,
    gates: Sequence[Gate],
    exactness: ExactnessResult,
    not_asked: Sequence[str],
    config: ScreenConfig,
) -> str:
    """One sentence that carries the bound of the gate that decides."""
    if verdict is Verdict.FAIL and not any(g.verdict is Verdict.FAIL for g in gates):
        parts = [f"FAIL: the rule claims to be lossless and is {Exactness.NOT_EXACT}; {exactness.reason}"]
        gate = None
    else:
        gate = _deciding(gates, verdict)
        parts = [f"{_name(verdict, gates)}: {axis_label(gate.axis)} {bound(gate, config.margin)}"]
        parts += [*gate.reasons, losses(gate)]
        parts.append(caught(gate))
    if not_asked:
        parts.append(f"not asked: {', '.join(not_asked)}")
    return "; ".join(parts)


def bound(gate: Gate, margin: float) -> str:
    """`at most 1.9 points worse (margin 3)`: the one-sided bound that the verdict rests on."""
    d, limit = gate.decision.difference, f"{100 * margin:g}"
    if gate.verdict is Verdict.FAIL and d.low > margin:
        return f"at least {math.floor(1000 * d.low) / 10:.1f} points worse (margin {limit})"
    return f"at most {math.ceil(1000 * gate.decision.bound) / 10:.1f} points worse (margin {limit})"


def losses(gate: Gate) -> str:
    """`lost 3 of 71 at risk (A/A 0 of 24)`."""
    aa = gate.replicate
    beside = f"A/A {aa.worse} of {aa.at_risk}" if aa is not None else "no A/A arm"
    return f"lost {gate.decision.worse} of {gate.decision.at_risk} at risk ({beside})"


def cure(gate: Gate) -> str | None:
    """What would resolve an UNRESOLVED gate."""
    if gate.verdict is not Verdict.UNRESOLVED:
        return None
    if gate.more_items is None:
        return "more items would not give PASS: the difference seen is not under the margin"
    if gate.more_items == 0:
        return "the items would do; mend the reason named"
    return f"about {gate.more_items} more items would resolve it at the discordance seen"


def _deciding(gates: Sequence[Gate], verdict: Verdict) -> Gate:
    """The gate that makes the verdict; under a PASS the one with the largest bound."""
    same = [g for g in gates if g.verdict is verdict]
    return max(same, key=lambda g: g.decision.bound)


def _name(verdict: Verdict, gates: Sequence[Gate]) -> str:
    detected = verdict is Verdict.PASS and any(g.difference_detected for g in gates)
    return "PASS, difference detected" if detected else str(verdict)


def caught(gate: Gate) -> str:
    """The smallest harm that the planted substitutions show to be caught, in points, rounded up."""
    if gate.smallest_harm is None:
        return "no planted harm was caught"
    return f"smallest planted harm always caught {math.ceil(1000 * gate.smallest_harm) / 10:.1f} points"
