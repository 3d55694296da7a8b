"""The one typed result of a screen. Reports render it; nothing downstream computes a statistic again."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict

from specsafe.stats import PairedDifference, Proportion, Ratio, SpeedUp, TostTr144


class Verdict(StrEnum):
    """Safety verdict of a gate, a stratum or the screen."""

    PASS = "PASS"  # noqa: S105
    FAIL = "FAIL"
    UNMEASURED = "UNMEASURED"
    UNRESOLVED = "UNRESOLVED"
    VOID = "VOID"


class Exactness(StrEnum):
    """What the forks of a speculative arm at temperature 0 say of its arithmetic."""

    EXACT = "EXACT"
    NUMERICS = "NUMERICS"
    NOT_EXACT = "NOT EXACT"
    NOT_ASSESSED = "NOT ASSESSED"


EXIT_CODE = {Verdict.PASS: 0, Verdict.FAIL: 3, Verdict.UNMEASURED: 4, Verdict.UNRESOLVED: 5, Verdict.VOID: 6}
SEVERITY = (Verdict.FAIL, Verdict.VOID, Verdict.UNMEASURED, Verdict.UNRESOLVED, Verdict.PASS)


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Decision(_Record):
    """The rule applied to one set of pairs."""

    verdict: Verdict
    difference: PairedDifference
    bound: float
    worse: int
    better: int
    pairs: int
    p_pass: float
    p_fail: float
    p_differ: float
    at_risk: int
    smallest_caught: int | None
    design_effect: float
    clusters: int


class Stratum(_Record):
    """A task or category of a gate: shown, and able only to fail."""

    name: str
    worse: int
    better: int
    pairs: int
    difference: PairedDifference
    p_fail_holm: float
    fails: bool


class Control(_Record):
    """Harm put in on purpose, and what the same rule said of it.

    required: a PASS needs it caught; the weaker doses of a series only show from where on harm is seen.
    """

    name: str
    planted: int
    decision: Decision
    caught: bool
    required: bool


class Sensitivity(_Record):
    """The substitution control at one size: answers replaced, net harm as a share of the answers, draws caught."""

    planted: int
    answers: int
    harm: float
    least_harm: float
    most_harm: float
    caught: int
    draws: int


class Gate(_Record):
    """One contrast on one axis, pooled over its tasks: what is decided."""

    axis: str
    verdict: Verdict
    reasons: list[str]
    decision: Decision
    opposite: Decision
    worst_missing: Decision
    baseline_harm: Proportion
    treatment_harm: Proportion
    ambiguous_baseline: int
    ambiguous_treatment: int
    missing_baseline: int
    missing_treatment: int
    p_missing: float
    unscored_baseline: int
    unscored_treatment: int
    truncated_baseline: int | None
    truncated_treatment: int | None
    replicate: Decision | None
    strata: list[Stratum]
    controls: list[Control]
    sensitivity: list[Sensitivity]
    smallest_harm: float | None
    p_differ_holm: float
    difference_detected: bool
    more_items: int | None


class Fork(_Record):
    """The first token at which a pair differs; gap in nats under the target alone."""

    item: str
    axis: str
    position: int
    gap: float | None
    gap_is_bound: bool
    repeats: bool | None


class Contrast(_Record):
    """Token-level comparison of one arm with the target."""

    role: str
    identical: Proportion
    forks: list[Fork]
    compared: int
    gap_known: int
    large_gaps: int
    largest_gap: float | None
    unknown_gaps: int


class ExactnessResult(_Record):
    """Verdict on the arithmetic of the speculative arm, from forks only."""

    verdict: Exactness
    reason: str
    threshold: float
    p_more_than_width: float | None
    claims_lossless: bool
    leak_control_caught: bool | None
    contrasts: dict[str, Contrast]


class TaisTask(_Record):
    """One task under the published criteria."""

    task: str
    identical: Proportion
    safe_baseline: Proportion
    safe_treatment: Proportion
    h: float
    h_below: bool
    tango: PairedDifference
    tost_tango: bool
    tost_published: TostTr144


class TaisAsPublished(_Record):
    """Byte-identity evidence, two-sided TOST at +-3 points, |h| < 0.1 per task: for comparison only."""

    margin: float
    identical: Proportion
    tasks: list[TaisTask]
    passes: bool


class FailedItem(_Record):
    """An item that an arm could not answer, however often it was asked."""

    item: str
    reason: str
    tries: int


class RetriedItem(_Record):
    """An item that was answered after attempts that failed, and why each failed."""

    item: str
    reasons: list[str]


class ArmSummary(_Record):
    """What really ran in one role."""

    role: str
    arm: str
    replicate: int
    planned: int
    answered: int
    proved: int
    failed: list[FailedItem]
    retried: list[RetriedItem]
    config: dict[str, Any]
    fingerprint: dict[str, Any] | None
    tokens: int | None
    acceptance: dict[str, Ratio]
    accepted_at: list[Proportion]


class ScorerRates(_Record):
    """Share of one label by axis under a scorer shown for comparison, over the items that both arms answered."""

    scorer: str
    axis: str
    label: str
    baseline: Proportion
    treatment: Proportion


class ScreenResult(_Record):
    """Everything that a screen found."""

    study: str
    version: str
    battery: str
    battery_sha256: str
    battery_about: dict[str, Any]
    axes_not_asked: list[str]
    margin: float
    alpha: float
    quick: bool
    demonstration: bool
    verdict: Verdict
    headline: str
    gates: list[Gate]
    exactness: ExactnessResult
    tais: TaisAsPublished
    arms: list[ArmSummary]
    speed_up: SpeedUp | None
    scorers: dict[str, list[str]]
    compared_scorers: list[ScorerRates]
    resolved: dict[str, Any]
    events: list[str]

    @property
    def exit_code(self) -> int:
        """0 PASS, 3 FAIL, 4 UNMEASURED, 5 UNRESOLVED, 6 VOID."""
        return EXIT_CODE[self.verdict]


def worst(verdicts: list[Verdict]) -> Verdict:
    """The most severe of some verdicts; PASS of a screen needs every gate (intersection-union)."""
    return min(verdicts, key=SEVERITY.index)
