"""Room: plugin. However vLLM puts requests together, each is decided as our engine decides it alone, bit for bit."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from specsafe.decoding.drafters import Clock, Draft
from specsafe.decoding.loop import Prompt, RuleDecider
from specsafe.decoding.randomness import slot_positions
from specsafe.decoding.records import Acceptance, Proposal
from specsafe.decoding.rules import Agreement
from specsafe.decoding.safety.decider import MethodDecider
from specsafe.decoding.safety.signals import Openings, first_tokens, trie
from specsafe.plugin.setting import setting
from specsafe.plugin.windows import NOTHING, Row, Step, by_method, by_rule, new_row, tokens_of, window

torch.set_num_threads(1)
CPU = torch.device("cpu")
V, T = 300, 4
RULES = ["agreement", "one_hot", "rejection", "block", "typical", "typical:epsilon=0.01,delta=0.03"]
RULES += ["threshold:threshold=0.05", "accumulated:threshold=0.02", "relaxed:top_k=3,delta=0.4"]
RULES += ["lenient:beta=0.4", "leak:rate=0.5"]
METHODS = ["ssd", "ssd-crs", "ssd-crs-zero-lag", "ssd-crs-trie", "continuous", "random-mode", "vanilla"]
METHODS += ["composite:union.alpha=0.75", "always-union"]


class Round:
    """One step of some requests: logits of target and draft that often agree, and what the draft proposes."""

    def __init__(self, seed: int, counts: Sequence[int]) -> None:
        g = torch.Generator().manual_seed(seed)
        self.counts = list(counts)
        rows = [torch.randn(n + 1, V, generator=g) * 3 for n in counts]
        self.logits = [r.bfloat16() for r in rows]
        self.draft = [(r[:-1] + torch.randn(r[:-1].shape, generator=g)).bfloat16() for r in rows]
        self.tokens = [d.argmax(-1) for d in self.draft]

    def step(self, order: Sequence[int], *, known: bool = True) -> Step:
        """As vLLM lays it out, its requests in some order."""
        counts = [self.counts[i] for i in order]
        begin, target_at, bonus_at = 0, [], []
        for n in counts:
            target_at += range(begin, begin + n)
            bonus_at.append(begin + n)
            begin += n + 1
        return Step(
            torch.cat([self.logits[i] for i in order]),
            torch.tensor(target_at, dtype=torch.int32),
            torch.tensor(bonus_at, dtype=torch.int32),
            torch.cat([self.tokens[i] for i in order]).int(),
            counts,
            torch.cat([self.draft[i] for i in order]) if known else None,
        )


def alone(rule: str, temperature: float, made: Round, i: int, row: Row, done: int, *, sampled: bool):
    """What our engine's own decider says of one request."""
    n = made.counts[i]
    decider = RuleDecider(setting("rule", rule).rule, temperature)
    q = torch.softmax(made.draft[i] / temperature, -1, dtype=torch.float32)[None] if sampled else None
    proposal = Proposal(made.tokens[i][None], torch.tensor([n]), q)
    clock = Clock(
        torch.tensor([row.key]), slot_positions(torch.tensor([done]), n + 1, fresh=decider.looks_ahead)
    )
    return said(decider.decide(made.logits[i].float()[None], Draft(proposal, None), clock), made.tokens[i])


def said(acceptance: Acceptance, drafted: Tensor, *, bonus: bool = True) -> list[int]:
    kept = int(acceptance.accepted[0])
    own = [int(acceptance.token[0])] if bonus or kept < len(drafted) else []
    return drafted[:kept].tolist() + own


def cut(row: Tensor) -> list[int]:
    tokens = row.tolist()
    end = tokens.index(NOTHING) if NOTHING in tokens else len(tokens)
    assert set(tokens[end:]) <= {NOTHING}
    return tokens[:end]


@pytest.mark.parametrize("temperature", [0.0, 0.7])
@pytest.mark.parametrize("rule", RULES)
def test_a_rule_decides_each_request_as_it_does_alone(rule: str, temperature: float):
    counts, seen = [3, 0, 1, 4, 4, 2, 4], 0
    sampled = temperature > 0
    for seed in range(6):
        made = Round(seed, counts)
        rows = [new_row(setting("rule", rule), temperature, 5, range(i, i + 4)) for i in range(len(counts))]
        order = random.Random(seed).sample(range(len(counts)), len(counts))
        chosen = [p for p, i in enumerate(order) if counts[i] and i != 4]  # request 4 is somebody else's
        mine = [rows[order[p]] for p in chosen]
        done = [10 * order[p] + seed for p in chosen]
        seen_rows = window(made.step(order), chosen, mine, done, known=True)
        acceptance = by_rule(setting("rule", rule).rule, temperature, seen_rows, sampled=sampled)
        tokens = tokens_of(acceptance, seen_rows, bonus=True)
        for place, (p, row) in enumerate(zip(chosen, mine, strict=True)):
            i = order[p]
            lone = alone(rule, temperature, made, i, row, 10 * i + seed, sampled=sampled)
            assert cut(tokens[place]) == lone
            seen += len(lone)
    assert seen > 30


def openings(kind: str) -> Openings:
    def encode(text: str) -> list[int]:
        return [len(text) % 13 + 3, len(text) % 7 + 3][: 1 + len(text) % 2]

    return trie(encode, [(40, b".")], V, CPU) if kind == "trie" else first_tokens(encode, V, CPU)


@pytest.mark.parametrize("name", METHODS)
def test_a_methods_state_follows_its_request_through_every_batch(name: str):
    """Requests come, pause (as preempted ones do) and go; rows change places; windows have all lengths."""
    asked = setting("method", name)
    words = openings(asked.method.openings)
    rng = random.Random(name)
    deciders: dict[int, MethodDecider] = {}
    rows: dict[int, Row] = {}
    done: dict[int, int] = {}
    differ = 0
    for step in range(30):
        for new in range(len(rows), min(2 + step // 2, 9)):
            rows[new] = new_row(asked, 0.0, None, [new])
            deciders[new] = MethodDecider(asked.method, words, telemetry=False, words=V)
            deciders[new].join([Prompt(str(new), (1,))])
            done[new] = 1
        here = [r for r in rows if rng.random() < 0.7] or [0]
        rng.shuffle(here)
        counts = [rng.choice([0, 1, 2, 4, 4]) for _ in here]
        chosen = [p for p, n in enumerate(counts) if n]
        if not chosen:
            continue
        made = Round(1000 + step, counts)
        seen = window(
            made.step(range(len(here))),
            chosen,
            [rows[here[p]] for p in chosen],
            [done[here[p]] for p in chosen],
            known=True,
        )
        acceptance, states = by_method(asked.method, words, [rows[here[p]].state for p in chosen], seen)
        tokens = tokens_of(acceptance, seen, bonus=False)
        for place, p in enumerate(chosen):
            r, n = here[p], counts[p]
            rows[r].state = states[place]
            clock = Clock(
                torch.tensor([rows[r].key]), slot_positions(torch.tensor([done[r]]), n, fresh=False)
            )
            draft = Draft(Proposal(made.tokens[p][None], torch.tensor([n])), made.draft[p].float()[None])
            lone = deciders[r].decide(made.logits[p][:n].float()[None], draft, clock)
            expected = said(lone, made.tokens[p], bonus=False)
            assert cut(tokens[place]) == expected
            differ += expected != made.logits[p][: len(expected)].argmax(-1).tolist()
            done[r] += len(expected)
            for key, value in deciders[r]._state.items():
                assert (rows[r].state[key] == value).all(), key
    assert name == "vanilla" or differ


def test_without_distributions_a_models_draft_is_no_draft():
    """Near the end of its context vLLM schedules zeros as drafts: no lossy rule may let them through."""
    made = Round(1, [3, 2])
    rows = [new_row(setting("rule", "leak:rate=1"), 0.0, None, [i]) for i in range(2)]
    step = made.step([0, 1], known=False)
    seen = window(step, [0, 1], rows, [5, 5], known=False)
    own = [[int(x[0].argmax())] for x in made.logits]
    for rule in (setting("rule", "leak:rate=1").rule, Agreement()):
        tokens = tokens_of(by_rule(rule, 0.0, seen, sampled=False), seen, bonus=True)
        assert [cut(t) for t in tokens] == own
    assert [
        cut(t) for t in tokens_of(by_rule(Agreement(), 0.0, seen, sampled=False), seen, bonus=True)
    ] == own
    known = window(step, [0, 1], rows, [5, 5], known=True)  # of n-grams: they have none, and are drafts
    tokens = tokens_of(
        by_rule(setting("rule", "leak:rate=1").rule, 0.0, known, sampled=False), known, bonus=True
    )
    assert [cut(t)[:-1] for t in tokens] == [t.tolist() for t in made.tokens]


def test_a_window_whose_guesses_all_stand_has_no_bonus_under_a_method():
    made = Round(2, [4])
    made.tokens = [made.logits[0][:-1].argmax(-1)]
    asked = setting("method", "vanilla")
    row = new_row(asked, 0.0, None, [1])
    seen = window(made.step([0]), [0], [row], [1], known=True)
    acceptance, _ = by_method(asked.method, openings("first"), [row.state], seen)
    assert cut(tokens_of(acceptance, seen, bonus=False)[0]) == made.tokens[0].tolist()
    assert len(cut(tokens_of(acceptance, seen, bonus=True)[0])) == 5


def test_random_numbers_hang_on_seed_and_prompt_alone():
    asked = setting("rule", "leak:rate=0.5")
    keys = {new_row(asked, t, seed, p).key for t in (0.0, 0.7) for seed in (0, 1) for p in ([1, 2], [12])}
    assert len(keys) == 4  # the temperature alone changes none
    assert new_row(asked, 0.0, None, [1, 2]).key == new_row(asked, 0.0, 0, [1, 2]).key
    drawn = {new_row(asked, 0.7, None, [1, 2]).key for _ in range(20)}
    assert len(drawn) > 1  # as with vLLM's own draws: nobody fixed them
