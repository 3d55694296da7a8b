"""Room: decoding/rules. Laws of every rule: greedy at temperature 0, blind to padding and neighbours, made by name."""

from __future__ import annotations

import pytest
import torch
from rounds import SAMPLING, Case, Toy, real, tables

from specsafe.decoding.rules import (
    RULES,
    AcceptanceRule,
    Agreement,
    Block,
    Greedy,
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
from specsafe.errors import UserError

PARAMETERS: dict[str, dict[str, float]] = {
    "threshold": {"threshold": 0.2},
    "accumulated": {"threshold": 0.1},
    "relaxed": {"top_k": 2, "delta": 0.3},
    "lenient": {"beta": 0.5},
    "leak": {"rate": 0.3},
}
EVERY = {name: make_rule(name, **PARAMETERS.get(name, {})) for name in RULES}


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
