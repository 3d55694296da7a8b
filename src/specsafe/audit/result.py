"""The typed result of an audit: counts with their intervals, and where answers leave the target. No text of any."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict

from specsafe.stats import Proportion

THRESHOLD = 1.0  # nats, as in screen.forks: rounding moves a log-probability by a fraction of this
EXACT, LARGE, NOTHING, PART = 0, 3, 4, 5


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
    exact: Proportion
    near_ties: Proportion
    larger: Proportion
    retokenized: Proportion
    forks: list[AuditFork]
    not_audited: list[NotAudited]

    @property
    def exit_code(self) -> int:
        """0 exact or near ties, 3 a larger gap, 4 nothing could be audited, 5 a part could not be."""
        if self.larger.k:
            return LARGE
        if not self.audited:
            return NOTHING
        return PART if self.not_audited else EXACT
