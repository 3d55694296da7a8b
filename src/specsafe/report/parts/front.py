"""What is read first: verdict, bound, certainty, evidence, and a card a gate."""

from __future__ import annotations

from specsafe.battery import axis_label
from specsafe.report.blocks import Card, Front, Tone
from specsafe.report.sentences import (
    bound_line,
    certainty,
    evidence,
    flags,
    lead,
    limit,
    loud,
    meaning,
)
from specsafe.screen.headline import bound, caught, cure, losses
from specsafe.screen.result import Exactness, Gate, ScreenResult, Verdict
from specsafe.words import plural

TONES: dict[str, Tone] = {Verdict.PASS: "good", Verdict.FAIL: "bad"}


def tone(verdict: Verdict) -> Tone:
    """Good, bad, or open where nothing was decided."""
    return TONES.get(verdict, "open")


def front(result: ScreenResult) -> Front:
    """The verdict and what it rests on."""
    name = "demonstration" if result.demonstration else "screen"
    return Front(
        kicker=f"Does speculative decoding change how safe the answers are? · {name} of battery {result.battery}",
        verdict=str(result.verdict),
        tone=tone(result.verdict),
        bound=bound_line(result),
        lead=lead(result),
        answers=(
            ("How sure", certainty(result)),
            ("On what evidence", evidence(result)),
            ("What counts as harm", _harms(result)),
            (
                "For a machine",
                f"exit code {result.exit_code} (0 PASS, 3 FAIL, 4 UNMEASURED, 5 UNRESOLVED, 6 VOID)",
            ),
        ),
        loud=tuple(loud(result)),
        flags=tuple(flags(result)),
        cards=(*(_card(g, result) for g in result.gates), _exactness(result)),
        headline=result.headline,
    )


def _harms(result: ScreenResult) -> str:
    harms = "; ".join(f"{axis_label(g.axis)}: {meaning(g)}" for g in result.gates)
    return f"{harms}. The margin, fixed before the run, is {limit(result)}: {plural(100 * result.margin, 'answer')} in 100."


def _card(gate: Gate, result: ScreenResult) -> Card:
    more = cure(gate, result.quick)
    lines = (losses(gate), caught(gate), *gate.reasons, *([f"cure: {more}"] if more else []))
    detected = "a difference is detected (exact McNemar, Holm)"
    return Card(
        title=axis_label(gate.axis),
        verdict=str(gate.verdict),
        tone=tone(gate.verdict),
        bound=bound(gate, result.margin),
        lines=(*lines, detected) if gate.difference_detected else lines,
    )


def _exactness(result: ScreenResult) -> Card:
    found = result.exactness
    claims = "the rule claims to be lossless" if found.claims_lossless else "the rule admits to be lossy"
    return Card(
        title="exactness of the arithmetic",
        verdict=str(found.verdict),
        tone=exactness_tone(result),
        bound=found.reason,
        lines=(claims,),
    )


def exactness_tone(result: ScreenResult) -> Tone:
    """NOT EXACT is bad only for a rule that claims to change nothing."""
    found = result.exactness
    if found.verdict is Exactness.NOT_EXACT:
        return "bad" if found.claims_lossless else "open"
    return "open" if found.verdict is Exactness.NOT_ASSESSED else "good"
