"""Who answers: arms, sessions, and the one function that opens any arm."""

from __future__ import annotations

from pathlib import Path

from specsafe.engines.arms import Arm, LlamaCppArm, RecordedArm, arm_id, parse_arm
from specsafe.engines.base import Failure, Request, Sample, Session

__all__ = [
    "Arm",
    "Failure",
    "LlamaCppArm",
    "RecordedArm",
    "Request",
    "Sample",
    "Session",
    "arm_id",
    "check_arm",
    "open_session",
    "parse_arm",
]


def check_arm(arm: LlamaCppArm | RecordedArm) -> dict[str, str]:
    """Hashes of the files behind an arm; raises UserError where it could not run. Loads no model."""
    from specsafe.engines import llamacpp, recorded

    return recorded.check(arm) if isinstance(arm, RecordedArm) else llamacpp.check(arm)


def open_session(arm: LlamaCppArm | RecordedArm, log: Path | None = None) -> Session:
    """Open an arm. log: file that takes what the engine prints."""
    from specsafe.engines import llamacpp, recorded

    return recorded.open_session(arm) if isinstance(arm, RecordedArm) else llamacpp.open_session(arm, log)
