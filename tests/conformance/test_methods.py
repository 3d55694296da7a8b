"""Room: decoding/safety. Laws of every method of the table, on tiny networks: what an answer may depend on, and on what not."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from toys import CPU, Recorder, drafts_of, model, network, plan, prompts, stopped, with_a_hole

from specsafe.decoding.drafters import NetworkDrafter, fitted
from specsafe.decoding.loop import Answer, Decoder, Plan, Prompt, Stopped
from specsafe.decoding.rules import Agreement
from specsafe.decoding.safety import decider as deciding
from specsafe.decoding.safety import views
from specsafe.decoding.safety.decider import DECIDED, MethodDecider
from specsafe.decoding.safety.methods import METHODS, find
from specsafe.decoding.safety.parts import Choice, Fixed, Method, Score
from specsafe.decoding.safety.signals import Openings, distances, trie
from specsafe.decoding.stack import Stack
from specsafe.models.network import LlamaNetwork, Network

VOCABULARY = 150
PAIRS = [name for name, m in METHODS.items() if m.who == "pair"]
ALIKE = [name for name in PAIRS if not METHODS[name].depends_on_lookahead]
ENDS = range(3, 150, 31)


@cache
def target():
    return network(model())


@cache
def near():
    """A draft that often agrees with the target."""
    return network(model(), noise=0.004)


def asked(count: int = 7) -> list[Prompt]:
    """Draft prompts differ from the target's, as with system prompts of their own."""
    return [
        replace(p, draft_tokens=(7, *p.tokens), user=(1, 1 + len(p.tokens)))
        for p in prompts(count, 138, longest=20)
    ]


def openings(words: int = VOCABULARY) -> Openings:
    """Words of one or two tokens, and sentences that end with token 40."""
    return trie(
        lambda text: [len(text) % 13 + 3, len(text) % 7 + 3][: 1 + len(text) % 2], [(40, b".")], words, CPU
    )


def decode(
    method: Method,
    drafted: int = 3,
    slots: int = 7,
    *,
    draft: Network | None = None,
    of: Network | Recorder | None = None,
    telemetry: bool = False,
    limit: int = 24,
    count: int = 7,
    ends: Iterable[int] = ENDS,
) -> dict[str, Answer | Stopped]:
    of = of or target()
    rule = {"temperature": 1.0, "rule": Agreement()} if method.sampled else {}
    p = plan(limit, ends=ends, drafted=drafted, slots=slots, telemetry=telemetry, **rule)
    drafter = NetworkDrafter(
        draft or near(),
        slots,
        p.capacity + drafted + 1,
        CPU,
        temperature=0.0,
        sampled=False,
        vocabulary=of.vocabulary,
    )
    decider = MethodDecider(
        method,
        openings(of.vocabulary),
        words=min(of.vocabulary, (draft or near()).vocabulary),
        telemetry=telemetry,
    )
    drafter.guess, drafter.heard = decider.guess, decider.heard if decider.gated else None
    return {a.item: a for a in Decoder(of, drafter, p, decider).generate(asked(count))}


def greedy(of: Network, *, as_draft: bool = False) -> dict[str, tuple[int, ...]]:
    texts = [Prompt(p.item, p.read_by_draft if as_draft else p.tokens) for p in asked()]
    return said({a.item: a for a in Decoder(of, None, Plan(**vars(plan(24, ends=ENDS)))).generate(texts)})


def said(answers: dict[str, Answer]) -> dict[str, tuple[int, ...]]:
    return {item: a.tokens for item, a in answers.items()}


def test_the_two_models_agree_often_and_not_always() -> None:
    """Otherwise the laws below would say little."""
    answers = decode(METHODS["vanilla"]).values()
    accepted, drafted = sum(a.accepted for a in answers), sum(a.drafted for a in answers)
    assert 0.2 < accepted / drafted < 0.95


NOTHING_OF_THE_DRAFT = pytest.mark.parametrize(
    "method",
    [
        METHODS["vanilla"],
        find("ssd", {"intersection.alpha": 0.0, "union.alpha": 0.0, "control.alpha_floor": 0.0}),
        find("ssd-crs", {"intersection.alpha": 0.0, "union.alpha": 0.0}),
        find("continuous", {"control.high": 0.0}),
        find("safedecoding", {"until": 0}),
    ],
    ids=["vanilla", "ssd", "ssd-crs", "continuous", "safedecoding"],
)


@NOTHING_OF_THE_DRAFT
def test_alpha_0_is_greedy_decoding_of_the_target(method: Method) -> None:
    assert said(decode(method)) == greedy(target())


@cache
def stammering(dtype: torch.dtype) -> LlamaNetwork:
    """Every word comes twice, so that each logit is there twice; the lower id is the one that is said."""
    hf = model()
    with torch.no_grad():
        hf.lm_head.weight[75:] = hf.lm_head.weight[:75]
    return network(hf, dtype)


@NOTHING_OF_THE_DRAFT
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_alpha_0_is_greedy_where_logits_tie(method: Method, dtype: torch.dtype) -> None:
    of = stammering(dtype)
    expected = greedy(of)
    assert max(t for tokens in expected.values() for t in tokens) < 75
    for draft in (network(model(), dtype, noise=0.004), of.with_layers(range(2))):
        assert said(decode(method, of=of, draft=draft)) == expected


def test_the_draft_alone_is_union_at_alpha_1() -> None:
    method = Method("", union=Choice("union", 1.0), control=Fixed(1))
    assert said(decode(method)) == greedy(near(), as_draft=True)


@pytest.mark.parametrize("name", ALIKE)
def test_answers_do_not_depend_on_drafted_tokens_or_neighbours(name: str) -> None:
    method = METHODS[name]
    first = said(decode(method, 3, 7))
    assert len(set(first.values())) == len(first)
    for drafted, slots in ((1, 7), (2, 2), (6, 1), (4, 3)):
        assert said(decode(method, drafted, slots)) == first, (drafted, slots)


def test_bins_that_are_looked_at_where_rounds_end_depend_on_drafted_tokens() -> None:
    method = find("ssd-seed", {"union.alpha": 1.0})
    answers = [said(decode(method, drafted, limit=60)) for drafted in (1, 2, 3, 5)]
    assert any(a != answers[0] for a in answers)
    assert METHODS["ssd-seed"].depends_on_lookahead


def reference(method: Method, prompt: Prompt, limit: int) -> list[int]:
    """The method without cache, batch, drafted tokens or closed forms: every token from the two whole contexts."""
    chosen: list[int] = []
    mode, log, theta, alpha, scores = 0, [], 0.6, method.intersection.alpha, []
    node, words = np.zeros(1, int), openings()
    while len(chosen) < limit:
        lt, ld = (
            last_logits(n, [*c, *chosen])
            for n, c in ((target(), prompt.tokens), (near(), prompt.read_by_draft))
        )
        p, q = lt.softmax(0), ld.softmax(0)
        if method.until is not None and len(chosen) >= method.until:
            token = int(lt.argmax())
        elif mode == 0:
            token = scanned(lt, ld, p, q, method.intersection, alpha)
        else:
            both = set(best(lt, method.union.count)) | set(best(ld, method.union.count))
            token = max(
                both,
                key=lambda v: float(p[v].double() + method.union.alpha * (q[v].double() - p[v].double())),
            )
        matched = token == int(ld.argmax())
        if isinstance(method.control, Score):
            far = distances(*(x[None] for x in (lt, ld, p, q)))
            c, mass = method.control, float(words.mass(q[words.words].numpy()[None], node)[0])
            kl = 1 - math.exp(-float(far.kl) / c.kl_scale)
            scores.append(
                c.mismatch * (not matched) + c.kl * kl + c.entropy_gap * float(far.gap) + c.openings * mass
            )
            mode = int(sum(scores[-3:]) / len(scores[-3:]) > c.tau)
        elif not isinstance(method.control, Fixed):
            log.append(matched)
            if len(log) % 7 == 0:
                new = int(sum(log[-7:]) / 7 < theta)
                if new == mode:
                    theta = max(theta - 0.1, 0.0) if theta - 0.1 > 1e-10 else 0.0
                    alpha = max(alpha - 0.15, 0.3) if new == 0 else alpha
                else:
                    theta, alpha = 0.6, method.intersection.alpha
                mode = new
        node = words.step(node, np.array([token]))
        chosen.append(token)
        if token in ENDS:
            break
    return chosen


def best(logits: torch.Tensor, count: int) -> list[int]:
    return sorted(range(len(logits)), key=lambda v: (-float(logits[v]), v))[:count]


def scanned(lt, ld, p, q, choice: Choice, alpha: float) -> int:
    ours, theirs = best(lt, len(lt)), best(ld, len(ld))
    k = next(
        k for k in range(choice.count, len(lt) + 1) if len(set(ours[:k]) & set(theirs[:k])) >= choice.count
    )
    inside = set(ours[:k]) & set(theirs[:k])
    if choice.guard and ours[0] not in inside:
        return ours[0]
    return max(inside, key=lambda v: float(p[v].double() + alpha * (q[v].double() - p[v].double())))


def last_logits(of: Network, tokens: list[int]) -> torch.Tensor:
    cache_ = of.new_cache(1, len(tokens))
    cache_.add_row()
    return of.logits(of.forward(torch.tensor([tokens]), cache_)[0, -1:])[0]


@pytest.mark.parametrize("name", ["ssd", "ssd-crs", "ssd-crs-best", "safedecoding", "always-intersection"])
def test_answers_are_those_of_a_plain_loop_over_whole_contexts(name: str) -> None:
    method = replace(METHODS[name], openings="trie")
    answers = decode(method)
    for prompt in asked(4):
        assert list(answers[prompt.item].tokens) == reference(method, prompt, 24), prompt.item


@pytest.mark.parametrize("words", [140, 160])
def test_vocabularies_of_different_size_share_what_both_have(words: int) -> None:
    other = network(model(0, vocab_size=words))
    shared = min(words, VOCABULARY)
    for name in ("ssd", "ssd-crs", "continuous", "always-union"):
        answers = decode(METHODS[name], draft=other)
        assert max(t for a in answers.values() for t in a.tokens) < shared
    assert fitted(torch.zeros(2, words), VOCABULARY).shape == (2, VOCABULARY)
    assert fitted(torch.zeros(1, 140), 150)[0, 140:].isneginf().all()


@pytest.mark.parametrize("limit", range(1, 9))
def test_limits_inside_a_round(limit: int) -> None:
    whole = said(decode(METHODS["ssd"], 4))
    for item, answer in decode(METHODS["ssd"], 4, limit=limit).items():
        assert answer.tokens == whole[item][:limit]
        assert answer.rounds <= len(answer.tokens)


@pytest.mark.parametrize(
    "name", ["ssd", "ssd-crs", "ssd-crs-zero-lag", "continuous", "aasd-decay", "aasd-frozen", "safedecoding"]
)
def test_an_end_of_text_inside_a_round_ends_the_answer_there(name: str) -> None:
    """Tokens that were drafted and accepted after it are no part of the answer; neighbours go on."""
    whole = said(decode(METHODS[name], 5, ends=(), limit=30))
    ends = {tokens[5 + 2 * n] for n, tokens in enumerate(whole.values())}
    inside = 0
    for item, answer in decode(METHODS[name], 5, ends=ends, limit=30, telemetry=True).items():
        first = next(n for n, t in enumerate(whole[item]) if t in ends)
        assert (answer.tokens, answer.finish) == (whole[item][: first + 1], "stop")
        assert answer.accepted <= answer.drafted <= 5 * answer.rounds
        inside += answer.columns["accepted"][-1] == 1 and answer.columns["slot"][-1] < 4
    assert inside


@pytest.mark.parametrize(
    "name", ["ssd", "ssd-crs", "continuous", "aasd-frozen", "safedecoding-seed", "drawn again"]
)
@pytest.mark.parametrize("telemetry", [False, True])
def test_answers_do_not_depend_on_how_long_the_lists_are_at_first(
    name: str, telemetry: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A draft that has nothing to do with the target shares little with it, so that short lists have to grow."""
    frozen = METHODS["aasd-frozen"]
    # the second check draws from the union's set, in intersection too
    twice = replace(
        frozen, prior=None, sampled=False, recheck=0.9, union=replace(frozen.union, kind="min_k", count=20)
    )
    method = twice if name == "drawn again" else METHODS[name]
    other, lengths = network(model(5)), []
    whole = decode(method, draft=other, telemetry=telemetry)
    monkeypatch.setattr(views, "listed", lambda *choices: 12)
    monkeypatch.setattr(deciding, "longer", lambda *given: lengths.append(given[3]) or views.longer(*given))
    again = decode(method, draft=other, telemetry=telemetry)
    assert said(again) == said(whole)
    assert {i: str(a.columns) for i, a in again.items()} == {i: str(a.columns) for i, a in whole.items()}
    assert bool(lengths) == (name in ("ssd", "ssd-crs", "continuous", "drawn again"))


@pytest.mark.parametrize("broken", ["target", "draft"])
@pytest.mark.parametrize(
    "name", ["ssd", "ssd-crs", "ssd-crs-gated", "continuous", "aasd-decay", "aasd-frozen", "safedecoding"]
)
def test_logits_that_are_no_numbers_stop_one_request_and_no_other(name: str, broken: str) -> None:
    whole, hole = Recorder(target()), asked()[4].tokens[0]
    alone = said(decode(METHODS[name], slots=3, of=whole))
    reading = {
        sequence for sequence, context in whole.read if context[-1] == hole
    }  # drafts that were refused too
    others = {p.item for n, p in enumerate(asked()) if n not in reading}
    of = with_a_hole(model(), hole) if broken == "target" else target()
    draft = with_a_hole(model(), hole, noise=0.004) if broken == "draft" else near()
    answers = decode(METHODS[name], slots=3, of=of, draft=draft)
    assert "item4" in stopped(answers) <= set(alone) - others
    assert "not numbers" in answers["item4"].reason
    assert len(others) > 3
    assert {i: answers[i].tokens for i in others} == {i: alone[i] for i in others}


class Letters:
    """A tokenizer that remembers what it was asked for; a token a letter."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def chat(self, text: str, system: str, prefill: str, reply: str | None) -> list[int]:
        self.asked.append(text)
        return [1, *map(ord, system), 2, *map(ord, text), 3]


@pytest.mark.parametrize("name", ["ssd", "ssd-crs-gated", "ssd-crs-user-gate"])
def test_only_a_gate_over_the_users_words_asks_where_they_stand(name: str) -> None:
    ours, theirs = Letters(), Letters()
    config = {"system": "Help.", "draft_system": "Refuse.", "chat_template": "on", "prefill": ""}
    stack = Stack(config, ours, target(), near(), {}, Agreement(), {}, theirs, METHODS[name])  # type: ignore[arg-type]
    prompt = stack.prompt("a", "Why?")
    assert prompt.tokens == (1, *map(ord, "Help."), 2, *map(ord, "Why?"), 3)
    assert prompt.draft_tokens == (1, *map(ord, "Refuse."), 2, *map(ord, "Why?"), 3)
    gated = name == "ssd-crs-user-gate"
    assert (ours.asked, theirs.asked) == (["Why?"], ["Why?", ""] if gated else ["Why?"])
    assert prompt.user == ((9, 13) if gated else None)


def test_columns_tell_what_was_chosen() -> None:
    for name in ("ssd", "ssd-crs-zero-lag", "continuous", "always-union"):
        for answer in decode(METHODS[name], telemetry=True).values():
            c = answer.columns
            assert set(DECIDED) <= set(c)
            assert all(len(v) == len(answer.tokens) for v in c.values())
            for n, token in enumerate(answer.tokens):
                assert c["modes_differ"][n] == (c["intersection_token"][n] != c["union_token"][n])
                assert c["matched"][n] == (token == c["draft_token"][n])
                assert token == c["union_token" if c["mode"][n] == 1 else "intersection_token"][n]


def test_a_gate_hears_the_perplexity_of_the_prompt() -> None:
    """The surprisals that decide come from the prefill; computed here from the whole prompt again."""
    asking = asked(5)
    drafter = drafts_of(near(), plan(8, drafted=3, slots=5))
    drafter.heard = []
    drafter.join([p.read_by_draft for p in asking])
    for prompt, heard in zip(asking, drafter.heard, strict=True):
        tokens = torch.tensor(prompt.read_by_draft)
        cache_ = near().new_cache(1, len(tokens))
        cache_.add_row()
        logits = near().logits(near().forward(tokens[None, :-1], cache_)[0])
        expected = torch.nn.functional.cross_entropy(logits, tokens[1:], reduction="none")
        assert torch.equal(heard, expected)
    always = decode(find("ssd-crs-gated", {"gate.threshold": 1.0, "control.tau": 9.0}), telemetry=True)
    never = decode(find("ssd-crs-gated", {"gate.threshold": 1e9, "control.tau": 9.0}), telemetry=True)
    assert all(a.columns["mode"][0] == 1 and not any(a.columns["mode"][1:]) for a in always.values())
    assert not any(any(a.columns["mode"]) for a in never.values())
    held = decode(find("ssd-crs-user-gate", {"gate.threshold": 1.0, "control.tau": 9.0}), telemetry=True)
    assert all(all(a.columns["mode"][:7]) and not any(a.columns["mode"][7:]) for a in held.values())
