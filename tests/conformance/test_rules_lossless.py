"""Room: decoding/rules. Laws: lossless rules emit the target's distribution, and accept as much as theory says.

Whole rounds are simulated on a toy pair of models whose logits depend on the last two tokens through random
tables, 40,000 answers at once, each from its own stream of numbers. Wrong rules must be caught by the same test.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from rounds import ROWS, SAMPLING, Case, Toy, first_slots
from scipy.stats import binomtest
from torch import Tensor

from specsafe.decoding.randomness import sample
from specsafe.decoding.rules import (
    RULES,
    Acceptance,
    AcceptanceRule,
    Agreement,
    Block,
    Greedy,
    OneHotRejection,
    Proposal,
    Rejection,
    Target,
    Typical,
)


@pytest.mark.parametrize("rule", SAMPLING, ids=lambda rule: type(rule).__name__)
@pytest.mark.parametrize("slots", [1, 2, 4])
@pytest.mark.parametrize("deterministic", [False, True], ids=["drawn", "deterministic"])
@pytest.mark.parametrize("stop", [False, True], ids=["full", "ragged"])
def test_sampling_rules_emit_the_targets_distribution(
    rule: AcceptanceRule, slots: int, deterministic: bool, stop: bool
) -> None:
    assert rule.lossless
    assert Toy(slots, deterministic=deterministic, stop=stop).p_value(rule) > 1e-3


def test_every_rule_that_claims_to_be_lossless_is_proved_here() -> None:
    claimed = {rule for rule in RULES.values() if rule.lossless}
    assert claimed == {type(rule) for rule in SAMPLING} | {Greedy}


@dataclass(frozen=True)
class RecoversFromP(Rejection):
    """Wrong: after a refusal draws from p instead of the residual."""

    def accept(self, target: Target, proposal: Proposal, accept_u: Tensor, token_u: Tensor) -> Acceptance:
        got = super().accept(target, proposal, accept_u, token_u)
        return got._replace(token=target.own_token(got.accepted, token_u))


@dataclass(frozen=True)
class ResidualWithoutMax(Rejection):
    """Wrong: |p - q| in place of max(p - q, 0)."""

    def accept(self, target: Target, proposal: Proposal, accept_u: Tensor, token_u: Tensor) -> Acceptance:
        got = super().accept(target, proposal, accept_u, token_u)
        assert proposal.q is not None
        rows, last = torch.arange(len(got.accepted)), proposal.tokens.shape[1] - 1
        p = target.probabilities[rows, got.accepted]
        wrong = sample(
            (p - proposal.q[rows, got.accepted.clamp(max=last)]).abs(), token_u[rows, got.accepted]
        )
        return got._replace(token=got.token.where(got.accepted > last, wrong))


@dataclass(frozen=True)
class BlockThatStopsAtFirstRefusal(Block):
    """Wrong: takes the block's chances one by one."""

    def accept(self, target: Target, proposal: Proposal, accept_u: Tensor, token_u: Tensor) -> Acceptance:
        chances = super().accept(target, proposal, accept_u, token_u).statistic
        broken = (accept_u[:, :-1] >= chances).long().cumsum(1) > 0
        return super().accept(target, proposal, torch.nn.functional.pad(broken.double(), (0, 1)), token_u)


@dataclass(frozen=True)
class BlockWithOldNumbers(Block):
    """Wrong: reads numbers of later positions that the next round will read again."""

    looks_ahead: ClassVar[bool] = False


@pytest.mark.parametrize(
    "wrong",
    [RecoversFromP(), ResidualWithoutMax(), BlockThatStopsAtFirstRefusal(), BlockWithOldNumbers(), Typical()],
    ids=lambda rule: type(rule).__name__,
)
def test_the_chi_square_catches_wrong_rules(wrong: AcceptanceRule) -> None:
    assert Toy(4).p_value(wrong) < 1e-6


def test_block_needs_new_numbers_in_the_drafter_too() -> None:
    assert Toy(4, old_drafts=True).p_value(Block()) < 1e-6
    assert Toy(4, old_drafts=True).p_value(Rejection()) > 1e-3


@pytest.mark.parametrize("deterministic", [False, True])
def test_agreement_says_what_the_target_alone_says_with_the_same_numbers(deterministic: bool) -> None:
    alone = Toy(0).answers(Agreement(), 5_000)
    for slots in (1, 2, 4):
        assert torch.equal(Toy(slots, deterministic=deterministic).answers(Agreement(), 5_000), alone)


# ---- rejection, one-hot, block: how much they accept


def test_first_slot_of_rejection_is_accepted_as_often_as_p_and_q_overlap() -> None:
    p, q = torch.tensor([0.1, 0.2, 0.3, 0.35, 0.05]), torch.tensor([0.3, 0.3, 0.1, 0.05, 0.25])
    accepted = first_slots(Rejection(), p, q, 1).accepted
    overlap = float(torch.minimum(p, q).sum())
    assert binomtest(int(accepted.sum()), ROWS, overlap).pvalue > 1e-3


def expected_lengths(p: Tensor, q: Tensor, slots: int) -> tuple[float, float]:
    """Mean accepted of Rejection and of Block, by going through every draft."""
    token_wise = block = 0.0
    for draft in itertools.product(range(len(p)), repeat=slots):
        weight, product, chance = 1.0, 1.0, float(torch.prod(q[list(draft)].double()))
        for d in draft:
            ratio = float(p[d]) / float(q[d])
            weight, product = min(1.0, weight * ratio), product * min(1.0, ratio)
            block += chance * weight
            token_wise += chance * product
    return token_wise, block


def test_block_accepts_what_theory_says_and_never_less_than_rejection() -> None:
    generator = torch.Generator().manual_seed(8)
    for pair in range(12):
        p, q = torch.randn(2, 3, generator=generator).softmax(-1)
        for rule, mean in zip((Rejection(), Block()), expected_lengths(p, q, 3), strict=True):
            accepted = first_slots(rule, p, q, 3, seed=pair).accepted.double()
            assert abs(accepted.mean() - mean) < 4 * accepted.std() / ROWS**0.5
        token_wise, block = expected_lengths(p, q, 3)
        assert block >= token_wise - 1e-9


def test_the_published_example_of_block_verification() -> None:
    """Sun et al. 2024, section 2: 10/9 tokens accepted one by one, 11/9 as a block."""
    p, q = torch.tensor([1 / 3, 2 / 3]), torch.tensor([2 / 3, 1 / 3])
    assert expected_lengths(p, q, 2) == pytest.approx((10 / 9, 11 / 9), abs=1e-6)
    means = [float(first_slots(rule, p, q, 2).accepted.double().mean()) for rule in (Rejection(), Block())]
    assert means == pytest.approx([10 / 9, 11 / 9], abs=0.02)


def test_one_hot_is_rejection_without_q() -> None:
    target, proposal, accept_u, token_u = Case().inputs
    bare = proposal._replace(q=None)
    one_hot = OneHotRejection().accept(target, proposal, accept_u, token_u)
    rejection = Rejection().accept(target, bare, accept_u, token_u)
    assert all(
        torch.equal(a.nan_to_num(-1), b.nan_to_num(-1))
        for a, b in zip(one_hot[:3], rejection[:3], strict=True)
    )
    refused = one_hot.accepted < proposal.lengths
    at = one_hot.accepted.clamp(max=3)[:, None]
    assert (one_hot.token != proposal.tokens.gather(1, at)[:, 0])[refused].all()
