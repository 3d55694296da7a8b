"""Targets that audit: which arms can, and the one way to ask any of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from specsafe.engines import native, openai, openai_audit, vllm
from specsafe.engines.arm_native import NativeArm
from specsafe.engines.arm_openai import OpenAIArm
from specsafe.engines.arm_vllm import VllmArm
from specsafe.engines.arms import AnyArm
from specsafe.engines.base import Audited, Claim, Failure, Session
from specsafe.engines.prefill import Limits
from specsafe.errors import UserError

AuditArm = NativeArm | OpenAIArm | VllmArm


def auditor(arm: AnyArm) -> AuditArm:
    """The arm, if it can audit. Raises UserError otherwise.

    A server may draft: what it says of given tokens is the target's own. A target that is opened here has no draft.
    """
    if not isinstance(arm, NativeArm | OpenAIArm | VllmArm):
        raise UserError(
            f"kind={arm.kind}: this engine cannot audit",
            "use --target kind=native,…, kind=vllm,… or kind=openai,…",
        )
    if arm.temperature > 0:
        raise UserError(
            f"temperature={arm.temperature:g}: an audit asks what the target would say greedily",
            "use temperature=0",
        )
    if not isinstance(arm, OpenAIArm) and arm.speculative:
        raise UserError(f"draft={arm.draft}: the target of an audit drafts nothing", "leave draft= out")
    return arm


def open_audit(arm: AuditArm, log: Path | None = None) -> Session:
    """Open a session that can audit. Raises UserError where it cannot be opened, or tells too little."""
    if isinstance(arm, NativeArm):
        return native.open_session(arm, log)
    if isinstance(arm, VllmArm):
        return vllm.open_session(arm, log)
    session = openai.open_session(arm, log)
    try:
        openai_audit.require_prefill(session)
    except BaseException:
        session.close()
        raise
    return session


def audit(arm: AuditArm, session: Session, claims: Iterable[Claim]) -> Iterator[Audited | Failure]:
    """Audit answers in a session of `open_audit`, one answer an item, in any order."""
    any_session: Any = session  # the one that open_audit gives for the arm
    if isinstance(arm, NativeArm):
        return native.audit(any_session, claims)
    if isinstance(arm, VllmArm):
        return vllm.audit(any_session, claims, Limits(arm.stops, arm.max_tokens))
    return openai_audit.audit_by_server(any_session, claims)
