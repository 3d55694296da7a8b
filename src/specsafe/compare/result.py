"""The one result of a comparison: typed, and all that its report reads."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict

from specsafe.stats import PairedDifference, Proportion, Ratio


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Otherwise(_Frozen):
    """A contrast under the opposite reading of answers that nobody can call safe or harmful: as no harm.

    holm: after Holm over the same methods, all read so.
    """

    worse: int
    better: int
    p: float
    holm: float


class Contrast(_Frozen):
    """A method against a baseline on one axis, over the items that both answered.

    worse, better: items harmed under one alone; an answer that is empty, degenerate or unlabelled counts as harm, and
    otherwise tells what becomes of the counts where it does not. difference: Tango's 95 % interval; clustered: the same with n divided by
    the design effect; bootstrap: percentiles of whole clusters drawn again, None where there is one cluster. p: exact
    McNemar; holm: p after Holm over the methods of this baseline and axis. mde: the difference that this many
    items would show with 80 % power at this discordance, two-sided at 5 % before Holm; None where no pair differs.
    """

    baseline: str
    axis: str
    worse: int
    better: int
    n: int
    missing: int
    clusters: int
    design_effect: float
    difference: PairedDifference
    clustered: PairedDifference
    bootstrap: tuple[float, float] | None
    p: float
    holm: float
    mde: float | None
    otherwise: Otherwise


class MethodResult(_Frozen):
    """One method.

    asr_strict: of the harmful requests answered, those whose answer the guard calls unsafe (without a guard: that were not
    refused). asr_lenient: controversial answers count as half (without a guard: empty or degenerate ones); it is a sum, no
    count, so it has no interval. refusal: refused, of the same, by the guard's own Refusal line. over_refusal: refused, of
    harmless requests. controversial: of harmful requests answered (only a guard says so). unusable: empty or degenerate,
    unlabelled: the guard said nothing that can be read; both of all answers.
    words: mean length. union, modes_differ: of tokens with a controller. tokens_a_second: an answer's own, others
    beside it. atgr: seconds a token over vanilla's (Ratio of the first baseline). forwards: target passes a token, 0 where
    the draft answers alone.
    """

    row: str
    method: str
    about: str
    config: dict[str, Any]
    fingerprint: dict[str, Any]
    depends_on_lookahead: bool
    answered: int
    failed: int
    asr_strict: Proportion
    asr_lenient: float
    refusal: Proportion
    over_refusal: Proportion
    controversial: Proportion
    unusable: Proportion
    unlabelled: Proportion
    truncated: Proportion
    words: float
    union: Ratio | None
    modes_differ: Ratio | None
    tokens_a_second: Ratio
    atgr: float | None
    forwards: Ratio
    acceptance: Ratio | None
    same_as_baseline: Proportion
    contrasts: tuple[Contrast, ...]


class Guard(_Frozen):
    """The guard model behind the labels.

    config: its arm. texts: distinct answers that it was to label; unlabelled: how many of them it did not, by reason.
    """

    config: dict[str, Any]
    texts: int
    unlabelled: dict[str, int]


class PublishedDifference(_Frozen):
    """What a published pair of counts could show at best: McNemar's p if no item had changed the other way.

    best_holm: after Holm over the methods that the publication holds against this baseline.
    """

    source: str
    method: str
    baseline: str
    harmful: int
    baseline_harmful: int
    n: int
    best_p: float
    best_holm: float

    @property
    def resolvable(self) -> bool:
        """Whether it could have been shown, had no item been lost on the way and after Holm."""
        return self.best_holm < 0.05


class Ablation(_Frozen):
    """What becomes of a method when parts of it are changed, on the tuning prompts alone.

    varied: the part, such as "control weights" or "gate.threshold". methods: one a setting, `row` is its name.
    """

    name: str
    method: str
    varied: str
    methods: tuple[MethodResult, ...]


class Calibration(_Frozen):
    """A number of a row that was measured, not chosen.

    key: such as "control.tau". rule: how, in words. n: tokens that it was measured on. source: the row whose answers
    they are. on: "tuning", or "evaluation" (a share that a control copies; no label is looked at).
    """

    row: str
    key: str
    value: float
    rule: str
    n: int
    source: str
    on: str


class Tuning(_Frozen):
    """What was measured on prompts that no number of the comparison comes from.

    items: by axis. compared: pairs of a tuning and an evaluation prompt that were held against each other, none nearly
    equal.
    """

    items: dict[str, int]
    compared: int
    ablations: tuple[Ablation, ...]


class ComparisonResult(_Frozen):
    """All methods, in the order of the file.

    scorer: what labelled the answers; stand_in: it is no guard model; guard: what is known of it if it is one.
    """

    version: str
    name: str
    items: dict[str, int]
    scorer: str
    stand_in: bool
    baselines: tuple[str, ...]
    methods: tuple[MethodResult, ...]
    published: tuple[PublishedDifference, ...]
    guard: Guard | None = None
    calibrations: tuple[Calibration, ...] = ()
    tuning: Tuning | None = None
