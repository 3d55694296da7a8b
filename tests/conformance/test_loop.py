"""Room: decoding/loop. Laws: in invariant mode an answer's bits depend on nothing but its prompt and seed."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from toys import (
    CPU,
    DRAFTERS,
    Recorder,
    drafts_of,
    model,
    network,
    one_row,
    plan,
    prompts,
    run,
    said,
    stopped,
    with_a_hole,
)

from specsafe.decoding.drafters import LookupDrafter, ScriptedDrafter
from specsafe.decoding.loop import Decoder, Prompt
from specsafe.decoding.rules import Greedy, Rejection

F32, BF16 = torch.float32, torch.bfloat16
SLOTS = (1, 2, 7, 32)
ASKED = prompts(33)


@pytest.fixture(scope="module", params=[F32, BF16], ids=["float32", "bfloat16"])
def target(request):
    return network(model(), request.param)


@pytest.fixture(scope="module")
def alone(target):
    """What the target says without a draft, one sequence at a time."""
    return run(target, plan(), ASKED)


def test_the_answers_are_worth_comparing(alone):
    """They differ from each other, end early and late, and are not one token over and over."""
    assert {a.finish for a in alone.values()} == {"stop", "length"}
    assert len({a.tokens for a in alone.values()}) > 25
    assert np.mean([len(set(a.tokens)) / len(a.tokens) for a in alone.values()]) > 0.5


@pytest.mark.parametrize("name", DRAFTERS)
def test_speculative_greedy_is_the_target_alone_to_the_last_bit(target, alone, name):
    """For every number of drafted tokens, beyond a tile of rows too; slots vary along."""
    for drafted in range(1, 10):
        how = plan(drafted=drafted, slots=SLOTS[drafted % 4])
        asked = ASKED if how.slots > 2 else ASKED[:11]
        answers = run(target, how, asked, DRAFTERS[name](target, how, alone["item0"].tokens))
        assert said(answers) == {p.item: said(alone)[p.item] for p in asked}, drafted


@pytest.mark.parametrize("slots", SLOTS)
def test_batches_of_any_size_give_the_same_answers(target, alone, slots):
    assert said(run(target, plan(slots=slots), ASKED)) == said(alone)
    how = plan(slots=slots, drafted=3)
    assert said(run(target, how, ASKED, DRAFTERS["near network"](target, how, ()))) == said(alone)


@pytest.mark.parametrize("width", [2, 5, 8, 9])
def test_a_wider_pass_changes_nothing(target, alone, width):
    assert said(run(target, plan(slots=7, width=width), ASKED)) == said(alone)


def test_long_contexts_beside_short_ones(target):
    """Where the attention reads its cache in blocks, a neighbour's length decides how many of them."""
    lengths = {"a": 3, "b": 249, "c": 254, "d": 255, "e": 256, "f": 257, "g": 511, "h": 530, "i": 40}
    text = torch.randint(3, 150, (530,), generator=torch.Generator().manual_seed(4)).tolist()
    asked = [Prompt(item, tuple(text[-length:])) for item, length in lengths.items()]
    how = plan(limit=9, capacity=560)
    alone = run(target, how, asked)
    assert len({a.tokens for a in alone.values()}) > 5
    for drafted, slots, order in ((0, 9, 1), (3, 9, -1), (9, 4, 1), (4, 2, -1)):
        how = plan(limit=9, capacity=560, drafted=drafted, slots=slots)
        drafter = DRAFTERS["near network"](target, how, ()) if drafted else None
        assert said(run(target, how, asked[::order], drafter)) == said(alone)


def test_neither_order_nor_neighbours_matter(target, alone):
    how = plan(slots=7, drafted=4)
    for asked in (ASKED[::-1], ASKED[5:9], ASKED[::3]):
        answers = run(target, how, asked, DRAFTERS["first layers"](target, how, ()))
        assert said(answers) == {p.item: said(alone)[p.item] for p in asked}


@pytest.mark.parametrize("name", DRAFTERS)
def test_agreement_draws_what_the_target_alone_draws(target, name):
    warm = {"temperature": 0.7, "seed": 5}
    alone = run(target, plan(**warm), ASKED[:9])
    for drafted, slots in ((1, 2), (4, 7), (9, 32)):
        how = plan(**warm, drafted=drafted, slots=slots)
        answers = run(target, how, ASKED[:9], DRAFTERS[name](target, how, alone["item0"].tokens))
        assert said(answers) == said(alone)


def test_seed_item_and_replicate_each_give_another_answer(target):
    prompt = ASKED[1]
    first = run(target, plan(temperature=1.0, seed=5), [prompt])[prompt.item]
    for seed, other in ((6, prompt), (5, replace(prompt, item="other")), (5, replace(prompt, replicate=1))):
        assert run(target, plan(temperature=1.0, seed=seed), [other])[other.item].tokens != first.tokens


def test_fast_arithmetic_says_what_transformers_says_up_to_near_ties():
    hf = model()
    target = network(hf, invariant=False)
    whole = 0
    for drafted, slots in ((0, 1), (0, 7), (3, 1), (8, 7)):
        how = plan(limit=16, ends=(), drafted=drafted, slots=slots)
        drafter = DRAFTERS["near network"](target, how, ()) if drafted else None
        for item, answer in run(target, how, ASKED[:12], drafter).items():
            prompt = next(p for p in ASKED if p.item == item)
            whole += same_up_to_a_near_tie(hf, prompt.tokens, answer.tokens)
    assert whole >= 40


def same_up_to_a_near_tie(hf, prompt, tokens) -> bool:
    """Whether transformers' greedy answer is the same; where it is not, its two best logits must all but tie."""
    given = torch.tensor([prompt])
    theirs = hf.generate(
        given,
        attention_mask=torch.ones_like(given),
        max_new_tokens=len(tokens),
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )[0, len(prompt) :].tolist()
    fork = next((i for i, pair in enumerate(zip(tokens, theirs, strict=True)) if len(set(pair)) > 1), None)
    if fork is None:
        return True
    with torch.no_grad():
        logits = hf(torch.tensor([[*prompt, *tokens[:fork]]])).logits[0, -1]
    assert abs(logits[tokens[fork]] - logits[theirs[fork]]) < 1e-4
    return False


# --- counts ------------------------------------------------------------------------------------------------


def test_one_target_pass_a_round_and_one_draft_pass_a_token():
    target, draft = Recorder(network(model())), Recorder(network(model(), noise=0.02))
    for drafted in (1, 3, 5):
        how = plan(limit=13, ends=(), drafted=drafted, telemetry=True)
        drafter = drafts_of(draft, how)
        decoder = Decoder(target, drafter, how)
        before = target.forwards, draft.forwards
        (answer,) = decoder.generate(ASKED[1:2])
        prefills = 1
        assert decoder.forwards == answer.rounds == target.forwards - before[0] - prefills
        assert drafter.forwards == draft.forwards - before[1] - prefills
        at_most, done, expected = [], 0, 0
        for row in per_round(answer):
            at_most.append(min(drafted, 13 - done - 1))
            expected += at_most[-1]
            assert {*row["target_forwards"]} == {len(at_most)}
            assert {*row["draft_forwards"]} == {expected}
            done += len(row["slot"])
        assert drafter.forwards == expected == answer.drafted + (at_most[-1] - last_drafted(answer))


def per_round(answer):
    """The columns of an answer, a dictionary a round."""
    rounds = sorted(set(answer.columns["round"]))
    return [
        {
            name: [v for v, r in zip(column, answer.columns["round"], strict=True) if r == n]
            for name, column in answer.columns.items()
        }
        for n in rounds
    ]


def last_drafted(answer):
    return sum(not math.isnan(d) for d in per_round(answer)[-1]["drafted_token"])


@pytest.mark.parametrize("slots", [1, 3, 7])
def test_no_token_is_forwarded_twice(slots):
    """Neither by the target nor by the draft: every context is read once."""
    target, draft = Recorder(network(model())), Recorder(network(model(), noise=0.02))
    how = plan(limit=14, ends=(), drafted=4, slots=slots)
    answers = run(target, how, ASKED[:9], drafts_of(draft, how))
    assert 0 < sum(a.accepted for a in answers.values()) < sum(a.drafted for a in answers.values())
    assert max(Counter(target.read).values()) == 1
    repeated = [context for (_, context), n in Counter(draft.read).items() if n > 1]
    # a row that reads one token beside a row that reads two is padded with a copy of its own
    assert all(len(c) > 1 and c[-1] == c[-2] for c in repeated)
    # every token of an answer but the last was read, and after the prompt it was
    for index, prompt in enumerate(ASKED[:9]):
        whole = (*prompt.tokens, *answers[prompt.item].tokens)
        for end in range(1, len(whole)):
            assert (index, whole[:end]) in target.read


def test_lengths_that_are_not_the_context_stop_the_run():
    """The check of every round can fail: a cache that keeps rejected tokens, one that loses a token."""
    for wrong in (lambda now, kept: now, lambda now, kept: [max(0, n - 1) for n in kept]):
        target = network(model())
        make = target.new_cache

        def sabotaged(rows, capacity, make=make, wrong=wrong):
            cache = make(rows, capacity)
            cache.truncate = lambda kept: cache.lengths.__setitem__(slice(None), wrong(cache.lengths, kept))
            return cache

        target.new_cache = sabotaged
        how = plan(drafted=3)
        with pytest.raises(RuntimeError, match=r"cache of \[.*contexts of"):
            run(target, how, ASKED[:2], ScriptedDrafter(CPU, [5, 99, 5, 99]))


@pytest.mark.parametrize("drafted", [1, 2, 3, 4, 7, 9])
@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_a_self_draft_is_always_accepted(target, drafted, temperature):
    """Rounds follow: an answer of n tokens takes ceil(n / (T + 1)) passes."""
    rule = Rejection() if temperature else Greedy()
    how = plan(limit=11, rule=rule, ends=(), drafted=drafted, temperature=temperature, slots=4)
    drafter = drafts_of(target, how, sampled=temperature > 0)
    for answer in run(target, how, ASKED[:8], drafter).values():
        assert answer.accepted == answer.drafted
        assert answer.rounds == math.ceil(11 / (drafted + 1))


@pytest.mark.parametrize("name", DRAFTERS)
def test_counts_are_those_of_the_columns(name):
    target = network(model())
    how = plan(drafted=4, slots=5, telemetry=True)
    script = run(target, plan(), ASKED[:1])["item0"].tokens
    for answer in run(target, how, ASKED[:12], DRAFTERS[name](target, how, script)).values():
        columns = answer.columns
        assert {len(c) for c in columns.values()} == {len(answer.tokens)} == {len(answer.logprobs)}
        assert answer.rounds == max(columns["round"])
        assert answer.accepted == sum(columns["accepted"]) == sum(answer.accepted_at)
        for slot in range(4):
            assert answer.accepted_at[slot] == sum(
                a and s == slot for a, s in zip(columns["accepted"], columns["slot"], strict=True)
            )
        assert all(
            (d == t) == bool(a)
            for d, t, a in zip(columns["drafted_token"], answer.tokens, columns["accepted"], strict=True)
            if not math.isnan(d)
        )
        assert sum(not math.isnan(d) for d in columns["drafted_token"]) <= answer.drafted <= 4 * answer.rounds


# --- telemetry ---------------------------------------------------------------------------------------------


def log_softmax(network, context):
    """Log-probabilities at every position of a context, float64, in one pass over an empty cache."""
    hidden = network.forward(torch.tensor([context]), one_row(network))[0]
    logits = network.logits(hidden).double().numpy()
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


@pytest.mark.parametrize("name", ["near network", "lookup"])
def test_telemetry_is_what_a_slow_computation_gives(name):
    target, draft = network(model()), network(model(), noise=0.02)
    how = plan(limit=10, drafted=3, slots=5, top=3, watch=(7, 3, 149), telemetry=True)
    drafter = DRAFTERS[name](target, how, ())
    compared = 0
    for answer in run(target, how, ASKED[:12], drafter).values():
        prompt = next(p for p in ASKED if p.item == answer.item).tokens
        start = len(prompt) - 1
        told, context = answer.columns, [*prompt, *answer.tokens]
        logp, logq = log_softmax(target, context)[start:], log_softmax(draft, context)[start:]
        assert np.allclose(answer.watched, logp[0, [7, 3, 149]], atol=1e-4)
        for i, token in enumerate(answer.tokens):
            p, q, d = np.exp(logp[i]), np.exp(logq[i]), told["drafted_token"][i]
            best = np.sort(logp[i])[::-1]
            expected = {
                "margin": best[0] - best[1],
                "entropy": -(p * logp[i]).sum(),
                "p_emitted": p[token],
                "p_top": p.max(),
            }
            of_draft = {"p_drafted", "q_emitted", "q_drafted", "q_top", "draft_entropy", "kl", "statistic"}
            if not math.isnan(d):
                expected |= {"p_drafted": p[int(d)], "statistic": float(d == token)}
                if name != "lookup":
                    expected |= {
                        "q_emitted": q[token],
                        "q_drafted": q[int(d)],
                        "q_top": q.max(),
                        "draft_entropy": -(q * logq[i]).sum(),
                        "kl": (q * (logq[i] - logp[i])).sum(),
                    }
                compared += 1
            for column, value in expected.items():
                assert told[column][i] == pytest.approx(value, abs=2e-4), column
            assert all(math.isnan(told[column][i]) for column in of_draft - set(expected))
            assert answer.logprobs[i] == pytest.approx(logp[i, token], abs=1e-4)
            ids, values = zip(*answer.top[i], strict=True)
            assert np.allclose(values, best[:3], atol=1e-4)
            assert np.allclose(logp[i, list(ids)], best[:3], atol=1e-4)
    assert compared > 5


# --- broken logits -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("slots", [1, 2, 5])
@pytest.mark.parametrize("drafted", [0, 3])
@pytest.mark.parametrize("invariant", [True, False], ids=["invariant", "fast"])
def test_nan_stops_one_request_and_no_other(slots, drafted, invariant):
    """Rows that it leaves behind are used again, by new sequences and by those that move up."""
    hf = model()
    how = plan(ends=(), slots=slots, drafted=drafted)
    alone = run(network(hf), plan(ends=()), ASKED[:20])
    used = Counter(t for p in ASKED[:20] for t in {*p.tokens, *alone[p.item].tokens[:-1]})
    victim, hole = next(
        (p.item, t)
        for p in ASKED[:20]
        for k, t in enumerate(alone[p.item].tokens[:-1])
        if k >= 3 and used[t] == 1 and len(p.tokens) > 30
    )
    asked = sorted(ASKED[:20], key=lambda p: p.item != victim)  # it leaves first, the others move up
    drafter = LookupDrafter(CPU) if drafted else None
    answers = run(with_a_hole(hf, hole, invariant=invariant), how, asked, drafter)
    assert stopped(answers) == {victim}
    assert "not numbers" in answers[victim].reason
    for item in set(alone) - {victim}:
        assert answers[item].tokens == alone[item].tokens
        if invariant:
            assert answers[item].logprobs == alone[item].logprobs


def test_a_draft_that_gives_nan_stops_its_request_only():
    hf = model()
    how = plan(ends=(), slots=3, drafted=3)
    alone = run(network(hf), plan(ends=()), ASKED[:9])
    hole = ASKED[4].tokens[0]
    others = {p.item for p in ASKED[:9] if hole not in (*p.tokens, *alone[p.item].tokens)}
    answers = run(network(hf), how, ASKED[:9], drafts_of(with_a_hole(hf, hole), how))
    assert "item4" in stopped(answers) <= set(alone) - others
    assert len(others) > 4
    assert {i: said(answers)[i] for i in others} == {i: said(alone)[i] for i in others}
