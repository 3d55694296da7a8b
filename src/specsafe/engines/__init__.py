"""Who answers: arms, sessions, and the one function that opens any arm."""

from __future__ import annotations

from pathlib import Path

from specsafe.engines.arm_base import LiveArm, LocalArm
from specsafe.engines.arms import (
    AnswersArm,
    AnyArm,
    Arm,
    InspectArm,
    LlamaCppArm,
    LmEvalArm,
    NativeArm,
    OpenAIArm,
    RecordedArm,
    VllmArm,
    arm_id,
    parse_arm,
)
from specsafe.engines.base import Failure, Request, Sample, Session

__all__ = [
    "AnswersArm",
    "AnyArm",
    "Arm",
    "Failure",
    "InspectArm",
    "LiveArm",
    "LlamaCppArm",
    "LmEvalArm",
    "LocalArm",
    "NativeArm",
    "OpenAIArm",
    "RecordedArm",
    "Request",
    "Sample",
    "Session",
    "VllmArm",
    "arm_id",
    "check_arm",
    "open_session",
    "parse_arm",
]


def check_arm(arm: AnyArm) -> dict[str, str]:
    """Hashes of the files behind an arm; raises UserError where it could not run. Loads no model."""
    from specsafe.engines import llamacpp, native, openai, recorded, vllm

    if isinstance(arm, AnswersArm):
        return recorded.check(arm)
    if isinstance(arm, OpenAIArm):
        return openai.check(arm)
    if isinstance(arm, VllmArm):
        return vllm.check(arm)
    return native.check(arm) if isinstance(arm, NativeArm) else llamacpp.check(arm)


def open_session(arm: AnyArm, log: Path | None = None, *, fresh: bool = False) -> Session:
    """Open an arm. log: file that takes what the engine prints. fresh: a server that runs already will not do."""
    from specsafe.engines import llamacpp, native, openai, recorded, vllm

    if isinstance(arm, AnswersArm):
        return recorded.open_session(arm)
    if isinstance(arm, OpenAIArm):
        return openai.open_session(arm, log, fresh=fresh)
    if isinstance(arm, VllmArm):
        return vllm.open_session(arm, log)
    return native.open_session(arm, log) if isinstance(arm, NativeArm) else llamacpp.open_session(arm, log)
