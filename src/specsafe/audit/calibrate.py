"""How far rounding moves a stack: the target's own answers, audited by the target itself.

A forward pass of one row rounds otherwise than a wide one, and an audit is a wide one. So the target answers some of the
prompts, one at a time and alone: where its audit calls one of these answers a fork, nobody but rounding made it.
"""

from __future__ import annotations

from collections.abc import Sequence

from specsafe.audit.result import THRESHOLD, AuditCalibration
from specsafe.battery.items import hash_rank
from specsafe.engines import Request, Sample, Session
from specsafe.engines.auditing import AuditArm, audit
from specsafe.engines.base import Audited, Claim
from specsafe.errors import UserError

ANSWERS = 16
_LEAST = 0.1  # nats
_ROOM = 4.0  # a choice turns where two log-probabilities each move by so much; as much again for what was not seen


def calibrate(arm: AuditArm, session: Session, claims: Sequence[Claim], count: int) -> AuditCalibration:
    """Let the target answer `count` of the prompts, chosen by a hash, and audit that. Raises UserError if none can be."""
    chosen = sorted(claims, key=lambda c: hash_rank(c.item, "calibrate"))[:count]
    said: dict[str, Sample] = {}
    for claim in chosen:
        found = session.generate([Request(claim.item, claim.prompt)])
        said |= {s.item: s for s in found if isinstance(s, Sample)}
    own = [
        Claim(c.item, c.prompt, said[c.item].text, said[c.item].token_ids, said[c.item].finish)
        for c in chosen
        if c.item in said
    ]
    audited = [a for a in audit(arm, session, own) if isinstance(a, Audited)]
    if not audited:
        raise UserError(
            f"none of the target's own answers to {len(chosen)} prompts could be audited: nothing tells near ties apart",
            "ask the target by hand; --calibrate 0 goes on with 1 nat",
        )
    gaps = [a.gap for a in audited if a.gap is not None]
    moved = [m for a in audited if (m := _moved(said[a.item], a)) is not None]
    largest, most = max(gaps, default=0.0), max(moved, default=None)
    return AuditCalibration(
        answers=len(audited),
        tokens=sum(a.tokens for a in audited),
        forks=len(gaps),
        largest_gap=largest,
        moved=most,
        threshold=threshold(largest, most),
    )


def threshold(largest_gap: float, moved: float | None) -> float:
    """The gap up to which rounding may explain a fork, in nats, never above THRESHOLD.

    moved: by how much a log-probability differed between decoding and the audit; None: the stack did not tell.
    """
    if moved is None:
        return THRESHOLD
    return min(THRESHOLD, max(_LEAST, _ROOM * moved, 2 * largest_gap))


def _moved(said: Sample, found: Audited) -> float | None:
    """Largest difference of a token's log-probability, as decoded and as audited; None where nothing can be compared."""
    if found.retokenized or said.logprobs is None:
        return None
    pairs = zip(
        said.logprobs, found.logprobs, strict=False
    )  # an end that was asked for apart is in one of them
    return max((abs(a - b) for a, b in pairs if a is not None), default=None)
