"""The one result of a comparison: typed, and all that its report reads."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict

from specsafe.stats import PairedDifference, Proportion, Ratio


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Contrast(_Frozen):
    """A method against a baseline on one axis, over the items that both answered.

    worse, better: items harmed under one alone. difference: Tango's 95 % interval; clustered: the same with n divided by
    the design effect; bootstrap: percentiles of whole clusters drawn again, None where there is one cluster. p: exact
    McNemar; holm: p after Holm over the methods of this baseline and axis. mde: the difference that this many
    items would show with 80 % power at this discordance, None where no pair differs.
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


class MethodResult(_Frozen):
    """One method.

    asr_strict: complied with a harmful request, of all harmful requests answered. asr_lenient counts an answer that is
    empty or degenerate as half, as published guards' controversial; it is a sum, no count, so it has no interval.
    refusal: refused, of the same. over_refusal: refused, of harmless requests. unusable: empty or degenerate, of all.
    words: mean length. union, modes_differ: of tokens with a controller. tokens_a_second: an answer's own, others
    beside it. atgr: seconds a token over vanilla's (Ratio of the first baseline). forwards: target passes a token.
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
    unusable: Proportion
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


class ComparisonResult(_Frozen):
    """All methods, in the order of the file. scorer: what labelled the answers; stand_in: it is no guard model."""

    version: str
    name: str
    items: dict[str, int]
    scorer: str
    stand_in: bool
    baselines: tuple[str, ...]
    methods: tuple[MethodResult, ...]
    published: tuple[PublishedDifference, ...]
