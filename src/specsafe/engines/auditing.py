"""Targets that audit: which arms can, and the one way to ask any of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from specsafe.engines import native, openai, openai_audit
from specsafe.engines.arm_native import NativeArm
from specsafe.engines.arm_openai import OpenAIArm
from specsafe.engines.arms import AnyArm
from specsafe.engines.base import Audited, Claim, Failure, Session
from specsafe.errors import UserError

AuditArm = NativeArm | OpenAIArm


def auditor(arm: AnyArm) -> AuditArm:
    """The arm, if it can audit. Raises UserError otherwise.

    A server may draft: what it says of given tokens is the target's own. Our engine's target is opened without a draft.
    """
    if not isinstance(arm, NativeArm | OpenAIArm):
        raise UserError(
            f"kind={arm.kind}: this engine cannot audit", "use --target kind=native,… or kind=openai,…"
        )
    if arm.temperature > 0:
        raise UserError(
            f"temperature={arm.temperature:g}: an audit asks what the target would say greedily",
            "use temperature=0",
        )
    if isinstance(arm, NativeArm) and arm.speculative:
        raise UserError(f"draft={arm.draft}: the target of an audit drafts nothing", "leave draft= out")
    return arm


def open_audit(arm: AuditArm, log: Path | None = None) -> Session:
    """Open a session that can audit. Raises UserError where it cannot be opened, or tells too little."""
    if isinstance(arm, NativeArm):
        return native.open_session(arm, log)
    session = openai.open_session(arm)
    try:
        openai_audit.require_prefill(session)
    except BaseException:
        session.close()
        raise
    return session


def audit(arm: AuditArm, session: Session, claims: Iterable[Claim]) -> Iterator[Audited | Failure]:
    """Audit answers in a session of `open_audit`, one answer an item, in any order."""
    ask: Callable[[Any, Iterable[Claim]], Iterator[Audited | Failure]] = (
        native.audit if isinstance(arm, NativeArm) else openai_audit.audit_by_server
    )
    return ask(session, claims)
