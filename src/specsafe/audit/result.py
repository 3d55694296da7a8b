"""The typed result of an audit: counts with their intervals, and where answers leave the target. No text of any."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict

from specsafe.stats import Proportion

THRESHOLD = 1.0  # nats, as in screen.forks: rounding moves a log-probability by a fraction of this
EXACT, LARGE, NOTHING, PART, VOID = 0, 3, 4, 5, 6
CLEAR = 0.01  # p of Fisher's test, as in screen.exactness


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class AuditFork(_Record):
    """The first token of an answer that the target alone would not have chosen; gap in nats, under the target."""

    item: str
    position: int
    gap: float
    rank: int
    retokenized: bool


class NotAudited(_Record):
    """An answer of which nothing can be said, and why."""

    item: str
    reason: str


class AuditCalibration(_Record):
    """What the audit said of answers that the target gave alone, one at a time: what rounding does in this stack."""

    answers: int
    tokens: int
    forks: int
    largest_gap: float
    moved: float | None
    threshold: float


class AuditResult(_Record):
    """What an audit found."""

    version: str
    source: str
    role: str | None
    answers_sha256: str
    token_ids: str
    target: str
    config: dict[str, Any]
    fingerprint: dict[str, Any]
    answers: int
    audited: int
    tokens: int
    threshold: float
    calibration: AuditCalibration | None
    more_forks_p: float | None
    exact: Proportion
    near_ties: Proportion
    larger: Proportion
    retokenized: Proportion
    forks: list[AuditFork]
    not_audited: list[NotAudited]

    @property
    def contradicts_itself(self) -> bool:
        """Whether the target's own answers leave it by more than rounding ever explains."""
        return self.calibration is not None and self.calibration.largest_gap > THRESHOLD

    @property
    def has_more_forks(self) -> bool:
        """Whether clearly more answers leave the target than its own do."""
        return self.more_forks_p is not None and self.more_forks_p < CLEAR

    @property
    def exit_code(self) -> int:
        """6 the target contradicts itself, 3 a larger gap, 4 nothing could be audited, 5 not resolved, 0 exact or near ties."""
        if self.contradicts_itself:
            return VOID
        if self.larger.k:
            return LARGE
        if not self.audited:
            return NOTHING
        return PART if self.not_audited or self.has_more_forks else EXACT
