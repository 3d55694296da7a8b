"""Room: decoding/rules. Laws: lossless rules emit the target's distribution, lossy ones follow their formula.

Whole rounds are simulated on a toy pair of models whose logits depend on the last two tokens through random
tables, 40,000 answers at once, each from its own stream of numbers. Wrong rules must be caught by the same test.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import pytest
import torch
from scipy.stats import binomtest, chisquare
from torch import Tensor

from specsafe.decoding.randomness import Purpose, sample, slot_positions, uniforms
from specsafe.decoding.rules import (
    RULES,
    Acceptance,
    AcceptanceRule,
    Agreement,
    Block,
    Greedy,
    Leak,
    Lenient,
    OneHotRejection,
    Proposal,
    Rejection,
    Relaxed,
    Target,
    Threshold,
    Typical,
    make_rule,
)
from specsafe.errors import UserError

torch.set_num_threads(1)
ROWS, WORDS, WANT = 40_000, 5, 3
SAMPLING = [Agreement(), OneHotRejection(), Rejection(), Block()]
PARAMETERS: dict[str, dict[str, float]] = {
    "threshold": {"threshold": 0.2},
    "accumulated": {"threshold": 0.1},
    "relaxed": {"top_k": 2, "delta": 0.3},
    "lenient": {"beta": 0.5},
    "leak": {"rate": 0.3},
}
EVERY = {name: make_rule(name, **PARAMETERS.get(name, {})) for name in RULES}


def tables(seed: int) -> tuple[Tensor, Tensor]:
    """Logits of target and draft, [V, V, V]: given the last two tokens. The draft knows something."""
    generator = torch.Generator().manual_seed(seed)
    target = torch.randn(WORDS, WORDS, WORDS, generator=generator)
    return target, 0.6 * target + 0.8 * torch.randn(WORDS, WORDS, WORDS, generator=generator)


@dataclass(frozen=True)
class Toy:
    """Two models and how they are run.

    stop: a draft ends after its first token 0 (a ragged batch). old_drafts: the drafter's numbers belong to the
    answer position even where the rule looks ahead.
    """

    slots: int
    temperature: float = 0.8
    deterministic: bool = False
    stop: bool = False
    old_drafts: bool = False
    seed: int = 5

    def answers(self, rule: AcceptanceRule, rows: int = ROWS) -> Tensor:
        """The first WANT tokens of `rows` answers, from as many rounds as it takes."""
        target, draft = tables(self.seed)
        keys = torch.arange(rows) * 7919 + self.seed
        out = torch.zeros(rows, 2 + WANT * (self.slots + 2), dtype=torch.int64)
        start = torch.zeros(rows, dtype=torch.int64)
        for _ in range(WANT):
            at = slot_positions(start, self.slots + 1, fresh=rule.looks_ahead)
            draft_at = slot_positions(start, self.slots, fresh=rule.looks_ahead and not self.old_drafts)
            proposal, logits = self._propose(
                target, draft, out, start, uniforms(keys, draft_at, Purpose.DRAFT)
            )
            numbers = (uniforms(keys, at, purpose) for purpose in (Purpose.ACCEPT, Purpose.TOKEN))
            got = rule.accept(Target(logits, self.temperature), proposal, *numbers)
            slot = torch.arange(self.slots + 1)
            padded = torch.cat([proposal.tokens, got.token[:, None]], dim=1)
            said = padded.where(slot < got.accepted[:, None], got.token[:, None])
            out.scatter_(1, 2 + start[:, None] + slot, said)  # what stands after the token is overwritten
            start = start + got.accepted + 1
        return out[:, 2 : 2 + WANT]

    def _propose(
        self, target: Tensor, draft: Tensor, out: Tensor, start: Tensor, u: Tensor
    ) -> tuple[Proposal, Tensor]:
        rows = torch.arange(len(start))
        one, two = out[rows, start], out[rows, start + 1]
        tokens, qs, logits = [], [], [target[one, two]]
        for i in range(self.slots):
            q = draft[one, two].softmax(-1)
            drawn = q.argmax(-1) if self.deterministic else sample(q, u[:, i])
            one, two = two, drawn
            tokens.append(drawn)
            qs.append(q)
            logits.append(target[one, two])
        drafted = torch.stack(tokens, 1) if tokens else torch.zeros(len(start), 0, dtype=torch.int64)
        lengths = torch.full_like(start, self.slots)
        if self.stop and self.slots:
            lengths = ((drafted != 0).long().cumprod(1).sum(1) + 1).clamp(max=self.slots)
        q_all = None if self.deterministic or not qs else torch.stack(qs, 1)
        return Proposal(drafted, lengths, q_all), torch.stack(logits, 1)

    def p_value(self, rule: AcceptanceRule) -> float:
        """Chi-square of the joint of the first WANT tokens against the target alone."""
        p = (tables(self.seed)[0].double() / self.temperature).softmax(-1).numpy()
        joint = np.einsum("a,ab,abc->abc", p[0, 0], p[0], p).ravel()
        code = (self.answers(rule).numpy() * WORDS ** np.arange(WANT)[::-1]).sum(1)
        counts = np.bincount(code, minlength=WORDS**WANT)
        rare = joint * ROWS < 5
        merged = [np.append(x[~rare], x[rare].sum()) for x in (counts, joint * ROWS)]
        return float(chisquare(*merged).pvalue)


# ---- lossless: the distribution


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


GREEDY_AT_ZERO: list[AcceptanceRule] = [
    *SAMPLING,
    Greedy(),
    Leak(0),
    Relaxed(1),
    Relaxed(3, posterior_temperature=0),
    Typical(posterior_temperature=0),
    Typical(epsilon=1, delta=5, posterior_temperature=0),
    Threshold(1e-9, posterior_temperature=0),
    Threshold(1, accumulated=True, posterior_temperature=0),
    Lenient(0.2, posterior_temperature=0),
]


@pytest.mark.parametrize("rule", GREEDY_AT_ZERO, ids=str)
@pytest.mark.parametrize("deterministic", [False, True])
def test_at_temperature_0_they_are_greedy(rule: AcceptanceRule, deterministic: bool) -> None:
    target = tables(5)[0].argmax(-1)
    a = target[0, 0]
    b = target[0, a]
    sequential = torch.stack([a, b, target[a, b]])
    answers = Toy(3, temperature=0, deterministic=deterministic).answers(rule, 2_000)
    assert (answers == sequential).all()


@pytest.mark.parametrize("rule", GREEDY_AT_ZERO, ids=str)
def test_at_temperature_0_they_accept_what_greedy_accepts(rule: AcceptanceRule) -> None:
    case = Case(temperature=0)
    greedy, got = Greedy().accept(*case.inputs), rule.accept(*case.inputs)
    assert torch.equal(got.accepted, greedy.accepted)
    assert torch.equal(got.token, greedy.token)


def test_greedy_refuses_a_temperature_and_computes_no_probability() -> None:
    with pytest.raises(ValueError, match="temperature 0"):
        Greedy().accept(*Case(temperature=0.7).inputs)
    target, *rest = Case(temperature=0).inputs
    handed_in = Target(torch.full_like(target.logits, torch.nan), 0, target.logits.argmax(-1))
    for rule in (Greedy(), Agreement(), Rejection(), Block(), Leak(0.2)):
        got, expected = rule.accept(handed_in, *rest), rule.accept(target, *rest)
        assert torch.equal(got.token, expected.token)
        assert not {"probabilities", "raw"} & set(vars(handed_in))


# ---- one round on random inputs


@dataclass(frozen=True)
class Case:
    """Random inputs of one round; with `ties` logits and probabilities coincide often."""

    temperature: float = 0.8
    rows: int = 4_000
    slots: int = 4
    words: int = 7
    ties: bool = True
    seed: int = 3
    inputs: tuple[Target, Proposal, Tensor, Tensor] = field(init=False)

    def __post_init__(self) -> None:
        generator = torch.Generator().manual_seed(self.seed)
        logits = 1.5 * torch.randn(self.rows, self.slots + 1, self.words, generator=generator)
        q = (
            0.7 * logits[:, :-1] + torch.randn(self.rows, self.slots, self.words, generator=generator)
        ).softmax(-1)
        numbers = torch.rand(3, self.rows, self.slots + 1, generator=generator, dtype=torch.float64)
        lengths = torch.randint(self.slots + 1, (self.rows,), generator=generator)
        proposal = Proposal(sample(q, numbers[2, :, :-1]), lengths, q)
        target = Target(logits.round() if self.ties else logits, self.temperature)
        object.__setattr__(self, "inputs", (target, proposal, numbers[0], numbers[1]))


def real(proposal: Proposal) -> Tensor:
    return torch.arange(proposal.tokens.shape[1]) < proposal.lengths[:, None]


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("with_q", [True, False])
def test_padding_and_neighbours_change_nothing(name: str, temperature: float, with_q: bool) -> None:
    if name == "greedy" and temperature:
        return
    target, proposal, accept_u, token_u = Case(temperature, rows=40, ties=False).inputs
    inside = real(proposal)
    logits = target.logits.clone()
    logits[:, 1:][~inside] = torch.nan  # never to be looked at
    assert proposal.q is not None
    q = proposal.q.where(inside[..., None], torch.nan) if with_q else None
    padded = Proposal(proposal.tokens.where(inside, -1), proposal.lengths, q)
    together = EVERY[name].accept(Target(logits, temperature), padded, accept_u, token_u)
    assert torch.equal(together.statistic.isnan(), ~inside)
    for row, length in enumerate(proposal.lengths.tolist()):
        one = slice(row, row + 1)
        cut = Proposal(
            proposal.tokens[one, :length], proposal.lengths[one], proposal.q[one, :length] if with_q else None
        )
        alone = EVERY[name].accept(
            Target(logits[one, : length + 1], temperature),
            cut,
            accept_u[one, : length + 1],
            token_u[one, : length + 1],
        )
        assert alone.accepted.item() == together.accepted[row].item() <= length
        assert alone.token.item() == together.token[row].item()
        assert torch.equal(alone.statistic[0], together.statistic[row, :length])


@pytest.mark.parametrize("name", RULES)
def test_types_and_shapes(name: str) -> None:
    target, proposal, accept_u, token_u = Case(0.0, rows=9).inputs
    got = EVERY[name].accept(target, proposal, accept_u, token_u)
    assert (got.accepted.dtype, got.token.dtype, got.statistic.dtype) == (
        torch.int64,
        torch.int64,
        torch.float32,
    )
    assert (got.accepted.shape, got.token.shape, got.statistic.shape) == ((9,), (9,), (9, 4))


# ---- rejection, one-hot, block: how much they accept


def test_first_slot_of_rejection_is_accepted_as_often_as_p_and_q_overlap() -> None:
    p, q = torch.tensor([0.1, 0.2, 0.3, 0.35, 0.05]), torch.tensor([0.3, 0.3, 0.1, 0.05, 0.25])
    accepted = first_slots(Rejection(), p, q, 1).accepted
    overlap = float(torch.minimum(p, q).sum())
    assert binomtest(int(accepted.sum()), ROWS, overlap).pvalue > 1e-3


def first_slots(rule: AcceptanceRule, p: Tensor, q: Tensor, slots: int, seed: int = 1) -> Acceptance:
    """One round of ROWS rows with models that know no context."""
    numbers = torch.rand(
        3, ROWS, slots + 1, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )
    q_all = q.expand(ROWS, slots, -1)
    proposal = Proposal(sample(q_all, numbers[2, :, :-1]), torch.full((ROWS,), slots), q_all)
    return rule.accept(Target(p.log().expand(ROWS, slots + 1, -1), 1.0), proposal, numbers[0], numbers[1])


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


# ---- lossy rules: their formulas, in numpy


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


# ---- the table


@pytest.mark.parametrize("name", RULES)
def test_a_rule_is_made_by_name(name: str) -> None:
    assert type(EVERY[name]) is RULES[name]
    assert EVERY[name] == make_rule(name, **PARAMETERS.get(name, {}))


@pytest.mark.parametrize(
    ("name", "parameters", "words"),
    [
        ("typical_acceptance", {}, "typical, threshold"),
        ("greedy", {"epsilon": 0.1}, "no parameter"),
        ("typical", {"eps": 0.1}, "epsilon, delta, posterior_temperature"),
        ("accumulated", {"threshold": 0.1, "accumulated": False}, "accumulated"),
        ("leak", {}, "needs 'rate'"),
        ("typical", {"epsilon": 0}, "above 0 and at most 1"),
        ("typical", {"epsilon": 1.01}, "1.01"),
        ("typical", {"epsilon": float("nan")}, "nan"),
        ("typical", {"epsilon": "0.1"}, "'0.1'"),
        ("typical", {"delta": 0}, "above 0"),
        ("typical", {"posterior_temperature": -1}, "0 or above"),
        ("threshold", {"threshold": 0}, "above 0"),
        ("relaxed", {"top_k": 0}, "1 or above"),
        ("relaxed", {"top_k": 1.5}, "whole number"),
        ("relaxed", {"top_k": True}, "True"),
        ("lenient", {"beta": 2}, "at most 1"),
        ("leak", {"rate": -0.1}, "between 0 and 1"),
    ],
)
def test_what_a_user_can_get_wrong(name: str, parameters: dict[str, object], words: str) -> None:
    with pytest.raises(UserError) as caught:
        make_rule(name, **parameters)
    assert words in str(caught.value)
    assert caught.value.hint


@pytest.mark.parametrize("temperature", [-0.1, float("nan"), float("inf")])
def test_a_temperature_that_is_none_is_refused(temperature: float) -> None:
    with pytest.raises(ValueError, match="temperature"):
        Target(torch.zeros(1, 1, 2), temperature)
