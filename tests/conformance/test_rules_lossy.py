"""Room: decoding/rules. Laws: lossy rules follow their formulas, written again in numpy, and their limits."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from rounds import ROWS, Case, first_slots, real
from scipy.stats import binomtest
from torch import Tensor

from specsafe.decoding.randomness import sample
from specsafe.decoding.rules import (
    AcceptanceRule,
    Agreement,
    Leak,
    Lenient,
    Proposal,
    Rejection,
    Relaxed,
    Target,
    Threshold,
    Typical,
    make_rule,
)


def softmax(logits: Tensor, temperature: float) -> np.ndarray:
    scaled = logits.numpy().astype(np.float64) / temperature
    weights = np.exp(scaled - scaled.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def drafted(p: np.ndarray, proposal: Proposal) -> np.ndarray:
    return np.take_along_axis(p[:, :-1], proposal.tokens.numpy()[..., None], -1)[..., 0]


def prefix(passes: np.ndarray, proposal: Proposal) -> np.ndarray:
    """Length of the leading run of passes, the slow way."""
    rows = [[*row[:n], False] for row, n in zip(passes, proposal.lengths.tolist(), strict=True)]
    return np.array([row.index(False) for row in rows])


@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("posterior", [0.5, 1.0, 2.0])
@pytest.mark.parametrize(("epsilon", "delta"), [(0.09, 0.3), (0.3, 0.6), (0.9, 1.5)])
def test_typical_is_its_formula(temperature: float, posterior: float, epsilon: float, delta: float) -> None:
    target, proposal, *numbers = Case(temperature, ties=False).inputs
    got = Typical(epsilon, delta, posterior).accept(target, proposal, *numbers)
    p = softmax(target.logits, posterior)
    entropy = -(p[:, :-1] * np.log(p[:, :-1] + 1e-5)).sum(-1)
    margin = drafted(p, proposal) - np.minimum(epsilon, delta * np.exp(-entropy))
    clear = (np.abs(margin) > 1e-5).all(1)
    assert clear.mean() > 0.99
    assert np.array_equal(got.accepted.numpy()[clear], prefix(margin > 0, proposal)[clear])
    assert torch.equal(got.token, own(target, numbers[1]).gather(1, got.accepted[:, None])[:, 0])
    inside = real(proposal).numpy()
    assert np.allclose(got.statistic.numpy()[inside], margin[inside], atol=1e-5)


def own(target: Target, token_u: Tensor) -> Tensor:
    if target.temperature == 0:
        return target.logits.argmax(-1)
    return sample((target.logits / target.temperature).softmax(-1), token_u)


def test_typical_is_strict_at_its_bound() -> None:
    """Two equal words: p = 1/2 exactly, and ε = 1/2 refuses it."""
    target = Target(torch.zeros(1, 2, 2), 0)
    inputs = (target, Proposal(torch.ones(1, 1).long(), torch.ones(1).long()), *torch.zeros(2, 1, 2).double())
    assert Typical(epsilon=0.5, delta=9).accept(*inputs).accepted.item() == 0
    assert Typical(epsilon=0.4999, delta=9).accept(*inputs).accepted.item() == 1


@pytest.mark.parametrize(
    "ladder",
    [
        [Typical(epsilon=e, delta=9) for e in (0.9, 0.5, 0.2, 0.09, 0.01)],
        [Typical(epsilon=0.9, delta=d) for d in (2, 0.8, 0.3, 0.05)],
        [Threshold(t) for t in (1, 0.5, 0.2, 0.01)],
        [Threshold(t, accumulated=True) for t in (1, 0.5, 0.2, 0.01)],
        [Relaxed(k) for k in (1, 2, 4, 7)],
        [Relaxed(7, d) for d in (0.01, 0.2, 0.5, 1)],
        [Lenient(b) for b in (1, 0.7, 0.3, 0.05)],
        [Leak(r) for r in (0, 0.1, 0.6, 1)],
    ],
    ids=lambda ladder: str(ladder[0]),
)
@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_the_looser_the_parameter_the_more_is_accepted(
    ladder: list[AcceptanceRule], temperature: float
) -> None:
    accepted = [rule.accept(*Case(temperature).inputs).accepted for rule in ladder]
    for strict, loose in itertools.pairwise(accepted):
        assert (strict <= loose).all()
        assert (strict < loose).any()


@pytest.mark.parametrize("accumulated", [False, True])
def test_threshold_is_its_formula(accumulated: bool) -> None:
    target, proposal, *numbers = Case(ties=False).inputs
    got = Threshold(0.15, accumulated, 0.7).accept(target, proposal, *numbers)
    value = drafted(softmax(target.logits, 0.7), proposal)
    value = value.cumprod(1) if accumulated else value
    clear = (np.abs(value - 0.15) > 1e-5).all(1)
    assert np.array_equal(got.accepted.numpy()[clear], prefix(value >= 0.15, proposal)[clear])
    named = make_rule(
        "accumulated" if accumulated else "threshold", threshold=0.15, posterior_temperature=0.7
    )
    assert torch.equal(named.accept(target, proposal, *numbers).accepted, got.accepted)


@pytest.mark.parametrize(("top_k", "delta"), [(1, 1.0), (2, 1.0), (3, 0.2), (9, 1.0)])
def test_relaxed_is_its_formula_ties_included(top_k: int, delta: float) -> None:
    target, proposal, *numbers = Case(0.0).inputs
    got = Relaxed(top_k, delta).accept(target, proposal, *numbers)
    order = np.argsort(-target.logits[:, :-1].numpy(), axis=-1, kind="stable")
    rank = (order == proposal.tokens.numpy()[..., None]).argmax(-1)
    p = softmax(target.logits, 1)
    near = drafted(p, proposal) >= p[:, :-1].max(-1) - delta
    assert np.array_equal(got.accepted.numpy(), prefix((rank < top_k) & near, proposal))
    assert np.array_equal(got.statistic.numpy()[real(proposal).numpy()], rank[real(proposal).numpy()])


def test_lenient_with_beta_1_is_rejection_token_for_token() -> None:
    inputs = Case().inputs
    lenient, rejection = Lenient(1).accept(*inputs), Rejection().accept(*inputs)
    assert torch.equal(lenient.accepted, rejection.accepted)
    assert torch.equal(lenient.token, rejection.token)


def test_lenient_accepts_min_1_p_over_beta_q() -> None:
    p, q = torch.tensor([0.1, 0.2, 0.3, 0.35, 0.05]), torch.tensor([0.3, 0.3, 0.1, 0.05, 0.25])
    accepted = first_slots(Lenient(0.5), p, q, 1).accepted
    assert binomtest(int(accepted.sum()), ROWS, float(torch.minimum(p / 0.5, q).sum())).pvalue > 1e-3


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_leak_at_its_ends(temperature: float) -> None:
    inputs = Case(temperature).inputs
    none, agreement, all_ = (rule.accept(*inputs) for rule in (Leak(0), Agreement(), Leak(1)))
    assert torch.equal(none.accepted, agreement.accepted) and torch.equal(none.token, agreement.token)
    assert torch.equal(all_.accepted, inputs[1].lengths)


@pytest.mark.parametrize("rate", [0.02, 0.3, 0.9])
def test_leak_has_its_rate(rate: float) -> None:
    """A script that the target would never say: every acceptance is a leak."""
    logits = torch.tensor([5.0, 0.0, 0.0]).expand(ROWS, 4, 3)
    proposal = Proposal(torch.ones(ROWS, 3).long(), torch.full((ROWS,), 3))
    numbers = torch.rand(2, ROWS, 4, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    got = Leak(rate).accept(Target(logits, 0), proposal, *numbers)
    for i in range(3):
        reached, passed = int((got.accepted >= i).sum()), int((got.accepted > i).sum())
        assert binomtest(passed, reached, rate).pvalue > 1e-3
    assert (got.token == 0).all() and (got.statistic == 0).all()
