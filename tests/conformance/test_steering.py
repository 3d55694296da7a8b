"""Room: decoding/safety/steering. Laws: what is added is the formula's; an answer depends on T, and on nothing else new."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from test_methods import ENDS, asked, openings, said, scanned, target
from test_methods import best as likeliest
from test_methods import decode as unsteered
from toys import CPU, model, plan, tensors_of

from specsafe.decoding.drafters import NetworkDrafter
from specsafe.decoding.loop import Answer, Decoder, Prompt
from specsafe.decoding.safety.decider import MethodDecider
from specsafe.decoding.safety.methods import METHODS, find
from specsafe.decoding.safety.parts import Method, Score, Steering
from specsafe.decoding.safety.signals import distances
from specsafe.decoding.safety.steering import Steerer, directions, scales
from specsafe.models.architecture import from_hf_config
from specsafe.models.checkpoint import Checkpoint
from specsafe.models.differentiable import Differentiable
from specsafe.models.invariant import make_invariant
from specsafe.models.network import LlamaNetwork, network_of

HIDDEN, LAYERS = 64, 3
CRS = METHODS["ssd-crs-steering"]
STEERED = [name for name, m in METHODS.items() if m.steering is not None]


@cache
def draft() -> tuple[LlamaNetwork, Differentiable]:
    """A draft that often agrees with the target, for the loop and for whole contexts."""
    hf = model()
    checkpoint = Checkpoint(from_hf_config(hf.config.to_dict()), tensors_of(hf, noise=0.004))
    return make_invariant(network_of(checkpoint, CPU), 640)[0], Differentiable(checkpoint)


def projection(size: float = 1.0) -> torch.Tensor:
    """W whose directions are about as long as `size` says."""
    return size * torch.randn(HIDDEN, HIDDEN, generator=torch.Generator().manual_seed(11))


def decode(
    method: Method,
    drafted: int = 3,
    slots: int = 7,
    *,
    weight: torch.Tensor | None = None,
    limit: int = 24,
    telemetry: bool = False,
) -> dict[str, Answer]:
    assert method.steering is not None
    p = plan(limit, ends=ENDS, drafted=drafted, slots=slots, telemetry=telemetry)
    drafter = NetworkDrafter(draft()[0], slots, p.capacity + drafted + 1, CPU, temperature=0.0, sampled=False)
    decider = MethodDecider(method, openings(), telemetry=telemetry)
    drafter.guess, drafter.heard = decider.guess, decider.heard if decider.gated else None
    weight = projection() if weight is None else weight
    steerer = Steerer(method.steering, weight, target(), draft()[0], lambda: decider.risk)
    drafter.steer = steerer.push
    return {a.item: a for a in Decoder(target(), drafter, p, decider, steerer).generate(asked(7))}


@pytest.mark.parametrize("name", STEERED)
def test_at_scale_0_it_is_the_method_without_steering_to_the_last_bit(name: str) -> None:
    steered, plain = find(name, {"steering.base": 0.0}), replace(METHODS[name], steering=None)
    for drafted in (1, 5):
        off = decode(steered, drafted, weight=projection(100.0), telemetry=True)
        for item, answer in unsteered(plain, drafted, telemetry=True).items():
            assert (off[item].tokens, off[item].logprobs) == (answer.tokens, answer.logprobs)
            assert repr(off[item].columns) == repr(answer.columns)
    assert said(decode(METHODS[name])) != said(unsteered(plain))


@pytest.mark.parametrize("name", STEERED)
def test_answers_depend_on_drafted_tokens_and_say_so(name: str) -> None:
    answers = [said(decode(METHODS[name], drafted)) for drafted in (1, 2, 3, 5)]
    assert all(a != b for n, a in enumerate(answers) for b in answers[:n])
    assert METHODS[name].depends_on_lookahead
    assert not replace(CRS, steering=None).depends_on_lookahead


@pytest.mark.parametrize("name", STEERED)
@pytest.mark.parametrize("drafted", [1, 5])
def test_at_a_fixed_number_of_drafted_tokens_neighbours_change_no_bit(name: str, drafted: int) -> None:
    first = decode(METHODS[name], drafted, 7, telemetry=True)
    assert len({a.tokens for a in first.values()}) == len(first)
    for slots in (1, 3):
        for item, answer in decode(METHODS[name], drafted, slots, telemetry=True).items():
            assert (answer.tokens, answer.logprobs) == (first[item].tokens, first[item].logprobs)
            told = {n for n, values in answer.columns.items() if repr(values) != repr(first[item].columns[n])}
            assert told <= {"target_forwards", "draft_forwards"}, (slots, told)


@torch.inference_mode()
def reference(method: Method, weight: torch.Tensor, prompt: Prompt, drafted: int, limit: int) -> list[int]:
    """SSD-CRS, steered, from whole contexts: no cache, no batch; rounds are there because g is taken at their begin."""
    steering, control = method.steering, method.control
    assert steering is not None and isinstance(control, Score)
    model_ = draft()[1]
    pushes = [torch.zeros(HIDDEN)] * (len(prompt.read_by_draft) - 1)  # what each token was read under
    chosen: list[int] = []
    mode, risk, scores, node = 0, 0.0, [], np.zeros(1, int)
    words = openings()
    while len(chosen) < limit:
        context = [*prompt.tokens, *chosen]
        g = torch.zeros(HIDDEN)
        if len(context) > 1:  # the newest token is not read yet
            state = states(context[:-1])[-1:]
            h = target().final(state)[0]
            g = weight @ (h / h.norm())
        push = steering.base * (1 + steering.amplify * risk) * g
        guesses: list[int] = []
        for _ in range(min(drafted, limit - len(chosen))):
            read = [*prompt.read_by_draft, *chosen, *guesses]
            rows = torch.stack([*pushes, *[push] * (len(read) - len(pushes))])
            first = steering.first_layer(LAYERS)
            ld = model_.logits(model_.read(torch.tensor(read), push=rows, first=first).hidden[-1:])[0]
            lt = target().logits(states([*context, *guesses])[-1:])[0]
            p, q = lt.softmax(0), ld.softmax(0)
            if mode == 0:
                token = scanned(lt, ld, p, q, method.intersection, method.intersection.alpha)
            else:
                both = {*likeliest(lt, method.union.count), *likeliest(ld, method.union.count)}
                token = max(both, key=lambda v: float(p[v] + method.union.alpha * (q[v] - p[v])))
            guess = int(ld.argmax())
            far = distances(*(x[None] for x in (lt, ld, p, q)))
            mass = float(words.mass(q[words.words].numpy()[None], node)[0])
            kl = 1 - float((-far.kl.double() / control.kl_scale).exp())
            parts = (control.mismatch * (token != guess), control.kl * kl)
            scores.append(sum(parts) + control.entropy_gap * float(far.gap) + control.openings * mass)
            risk = sum(scores[-3:]) / len(scores[-3:])
            mode = int(risk > control.tau)
            node = words.step(node, np.array([token]))
            guesses.append(token)
            if token in ENDS or token != guess:
                break
        # all but the newest were read by the draft in this round, under its push
        pushes += [push] * (len(prompt.read_by_draft) + len(chosen) + len(guesses) - 1 - len(pushes))
        chosen += guesses
        if chosen[-1] in ENDS:
            break
    return chosen


def states(tokens: list[int]) -> torch.Tensor:
    kept = target().new_cache(1, len(tokens))
    kept.add_row()
    return target().forward(torch.tensor([tokens]), kept)[0]


@pytest.mark.parametrize(
    ("drafted", "steering"),
    [
        (1, Steering(0.9, 5.0)),
        (3, Steering(0.9, 5.0)),
        (3, Steering(2.0, 0.0, 0.7)),
        (5, Steering(0.2, 20.0, 0.1)),
    ],
)
def test_answers_are_those_of_a_plain_loop_over_whole_contexts(drafted: int, steering: Steering) -> None:
    method = replace(CRS, steering=steering, openings="trie")
    answers = decode(method, drafted)
    others = unsteered(replace(method, steering=None), drafted)
    for prompt in asked(4):
        expected = reference(method, projection(), prompt, drafted, 24)
        assert list(answers[prompt.item].tokens) == expected, prompt.item
    assert said(answers) != said(others)


def test_a_direction_is_of_the_state_alone_not_of_its_length() -> None:
    weight, hidden = projection(), torch.randn(5, HIDDEN)
    wanted = hidden / hidden.norm(dim=1, keepdim=True) @ weight.T
    torch.testing.assert_close(directions(weight, hidden), wanted, atol=1e-5, rtol=0)
    torch.testing.assert_close(directions(weight, 300 * hidden), wanted, atol=1e-5, rtol=0)
    assert directions(weight, torch.zeros(1, HIDDEN)).eq(0).all()
    together = directions(weight, hidden)
    assert all(torch.equal(directions(weight, hidden[n : n + 1])[0], together[n]) for n in range(5))


def test_scales_are_base_times_one_and_amplify_times_the_score() -> None:
    risk = torch.tensor([0.0, 0.2, 1.0], dtype=torch.float64)
    assert scales(Steering(0.5, 4.0), risk, 3).tolist() == pytest.approx([0.5, 0.9, 2.5])
    assert scales(Steering(0.5, 4.0), None, 2).tolist() == [0.5, 0.5]
    assert [Steering(fraction=f).first_layer(30) for f in (1.0, 0.5, 0.04, 0.0)] == [0, 15, 29, 29]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steering.base": -1}, "base of its steering must be between 0 and 1000"),
        ({"steering.amplify": float("nan")}, "amplify of its steering"),
        ({"steering.fraction": 1.5}, "fraction of its steering must be between 0 and 1"),
        ({"steering.depth": 1}, "no part or number 'depth'"),
    ],
)
def test_numbers_outside_their_range_are_named(changes: dict[str, float], message: str) -> None:
    from specsafe.errors import UserError

    with pytest.raises(UserError, match=message):
        find("ssd-crs-steering", changes)
    with pytest.raises(UserError, match="has no steering"):
        find("ssd-crs", {"steering.base": 1.0})


def test_the_published_steering_only_has_bins_that_never_reset() -> None:
    method = METHODS["ssd-steering"]
    assert replace(method.control, forget=False) == METHODS["ssd-seed"].control
    assert method.steering is not None and method.steering.amplify == 0
