"""One prefill tells what decoding would have said: the same choices, the same bits, the first fork."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

# The toys of the loop live beside its laws, which pytest finds only when it runs them.
sys.path.append(str(Path(__file__).parents[1] / "conformance"))

from toys import Chain, letter, model, network, plan, prompts, run, stop_rule

from specsafe.decoding import prefill
from specsafe.decoding import verify as room
from specsafe.decoding.loop import Prompt
from specsafe.decoding.verify import (
    Asked,
    Auditor,
    Question,
    UnfitError,
    claimed_tokens,
    verify,
    verify_together,
)
from specsafe.models.tokenizer import Tokenizer

ENDS = tuple(range(0, 150, 12))
WATCH = (7, 8, 9)


@pytest.fixture(scope="module")
def target():
    return network(model())


@pytest.fixture(scope="module")
def decoded(target):
    """Prompts with what the loop says to them, in a batch."""
    asked = prompts(12)
    answers = run(target, plan(10, ends=ENDS, slots=4, top=3, watch=WATCH), asked)
    assert {a.finish for a in answers.values()} == {"stop", "length"}
    return [(p.tokens, answers[p.item]) for p in asked]


def test_what_was_decoded_is_exact_and_its_numbers_are_those_of_decoding_bit_for_bit(target, decoded):
    for prompt, answer in decoded:
        seen = verify(target, prompt, answer.tokens, top=3, watch=WATCH)
        assert seen.fork is None
        assert seen.broken is None
        assert all(seen.greedy)
        assert len(seen.greedy) == len(answer.tokens)
        assert tuple(seen.logprobs) == answer.logprobs
        assert tuple(map(tuple, seen.top)) == answer.top
        assert tuple(seen.watched) == answer.watched


def test_in_bfloat16_too():
    target = network(model(5), torch.bfloat16)
    for prompt in prompts(4):
        answer = run(target, plan(8), [prompt])[prompt.item]
        seen = verify(target, prompt.tokens, answer.tokens)
        assert (seen.fork, tuple(seen.logprobs)) == (None, answer.logprobs)


@pytest.mark.parametrize("place", ["first", "middle", "last"])
def test_a_replaced_token_is_found_where_it_stands(target, decoded, place):
    for prompt, answer in decoded:
        position = {"first": 0, "middle": len(answer.tokens) // 2, "last": len(answer.tokens) - 1}[place]
        said = list(answer.tokens)
        said[position] = (said[position] + 11) % 150
        seen = verify(target, prompt, said, top=150)
        assert seen.fork.position == position
        assert all(seen.greedy[:position])
        assert not seen.greedy[position]
        told = dict(seen.top[position])
        assert seen.fork.gap == pytest.approx(told[answer.tokens[position]] - told[said[position]], abs=1e-5)
        ahead = sum(p > told[said[position]] for p in told.values())
        assert seen.fork.rank == ahead > 0
        assert seen.logprobs[:position] == list(answer.logprobs[:position])


def test_chunks_change_no_bit(target, decoded, monkeypatch):
    whole = [verify(target, p, a.tokens, top=2, watch=WATCH) for p, a in decoded]
    monkeypatch.setattr(prefill, "PREFILL_CHUNK", 5)
    monkeypatch.setattr(room, "_ROWS", 2)
    assert [verify(target, p, a.tokens, top=2, watch=WATCH) for p, a in decoded] == whole


def test_answers_that_are_read_together_are_told_the_same_bit_for_bit(target, decoded):
    asked = [
        Asked(p, a.tokens[:-1] or a.tokens, ENDS if a.finish == "stop" and len(a.tokens) > 1 else ())
        for p, a in decoded
    ]
    asked[3] = asked[3]._replace(answer=[5, *asked[3].answer[1:]], ends=())
    cache = target.new_cache(len(asked), 110)
    for _ in range(2):
        together = verify_together(target, asked, top=2, watch=WATCH, cache=cache)
        assert cache.lengths == []
        for one, seen in zip(asked, together, strict=True):
            assert verify(target, one.prompt, one.answer, top=2, watch=WATCH, ends=one.ends) == seen
    assert together[3].fork is not None and together[3].fork.position == 0


def test_a_cache_is_used_again_and_an_answer_leaves_nothing_in_it(target, decoded):
    cache = target.new_cache(1, 110)
    for prompt, answer in decoded[:4]:
        assert verify(target, prompt, answer.tokens, cache=cache) == verify(target, prompt, answer.tokens)
        assert cache.lengths == []


def test_an_end_that_followed_is_the_likeliest_and_is_judged(target, decoded):
    prompt, answer = next((p, a) for p, a in decoded if a.finish == "stop" and len(a.tokens) > 1)
    seen = verify(target, prompt, answer.tokens[:-1], ends=ENDS)
    assert (seen.tokens, seen.fork) == (answer.tokens, None)
    early = verify(target, prompt, answer.tokens[:-2], ends=ENDS)
    assert early.fork.position == len(answer.tokens) - 2
    assert early.tokens[-1] in ENDS
    only_end = verify(target, prompt, (), ends=ENDS)
    assert only_end.fork.position == 0


class Level(Chain):
    """Tokens 4, 5 and 9 are equally likely after any other."""

    def logits(self, hidden):
        flat = torch.zeros(hidden.shape[0], self.vocabulary)
        flat[:, [4, 5, 9]] = 2.0
        return flat


def test_of_equal_logits_the_lowest_index_is_the_targets_own():
    seen = verify(Level(), (1,), (4, 9, 5, 0))
    assert seen.greedy == [True, False, False, False]
    assert seen.fork == (1, 0.0, 2)
    assert verify(Level(), (1,), (0,)).fork == (0, 2.0, 3)


class Broken(Chain):
    """After token 7 come no numbers."""

    def logits(self, hidden):
        logits = super().logits(hidden)
        logits[hidden[:, 8] == 1] = torch.nan
        return logits


def test_logits_that_are_no_numbers_are_named():
    assert verify(Broken(), (5,), (6, 7, 8)).broken == 2
    assert verify(Broken(), (5,), (6, 7)).broken is None


def test_impossible_tokens_have_a_number_too():
    class Never(Chain):
        def logits(self, hidden):
            return super().logits(hidden).masked_fill(torch.arange(60) == 50, -torch.inf)

    seen = verify(Never(), (5,), (50,))
    assert seen.broken is None
    assert 1e38 < seen.fork.gap < float("inf")
    assert seen.logprobs[0] == -seen.fork.gap


def test_nothing_is_no_answer():
    for prompt, answer in (((), (1,)), ((1,), ())):
        with pytest.raises(ValueError, match="need a token each"):
            verify(Chain(), prompt, answer)


class Letters:
    """A tokenizer of lower-case letters: a is 0; 26 ends, 27 too. Whatever else is written is dropped."""

    end_ids, vocab_size = frozenset({26, 27}), 28
    bytes_of = staticmethod(letter)

    def encode(self, text: str) -> list[int]:
        return [ord(c) - 97 for c in text if "a" <= c <= "z"]

    def decode(self, ids) -> str:
        return "".join(chr(97 + i) for i in ids if i < 26)


def claimed(text, ids=None, finish="length", stops=(), vocabulary=28):
    tokenizer: Tokenizer = Letters()  # type: ignore[assignment]
    return claimed_tokens(tokenizer, vocabulary, text, ids, finish, stops)


def test_ids_are_taken_where_they_spell_the_text():
    assert claimed("abc", (0, 1, 2)) == ([0, 1, 2], False, False)
    assert claimed("abc", (0, 1, 2, 26), "stop") == ([0, 1, 2, 26], False, False)
    assert claimed("abc", (0, 1, 2), "stop") == ([0, 1, 2], False, True)
    assert claimed("", (26,), "stop") == ([26], False, False)
    assert claimed("a", (0, 1, 2), "stop", stops=("bc",)) == ([0, 1, 2], False, False)
    assert claimed("abc", (0, 1, 3)) == ([0, 1, 2], True, False)


def test_a_text_alone_is_tokenized_again():
    assert claimed("abc") == ([0, 1, 2], True, False)
    assert claimed("abc", None, "stop") == ([0, 1, 2], True, True)
    assert claimed("abc", None, "stop", stops=("x",)) == ([0, 1, 2], True, False)


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"text": ""}, "nothing to audit"),
        ({"text": "", "finish": "stop"}, "nothing to audit"),
        ({"text": "a", "ids": (0, 28)}, "token 28 is not in the target's vocabulary of 28"),
        ({"text": "a", "ids": (-1,)}, "token -1"),
        ({"text": "ab", "ids": (0, 26, 1)}, "go on after an end token"),
        ({"text": "a!"}, "cannot spell"),
        ({"text": "!"}, "cannot spell"),
    ],
)
def test_what_cannot_be_audited_says_why(given, reason):
    with pytest.raises(UnfitError, match=reason):
        claimed(**given)


@pytest.fixture
def auditor(target):
    """An auditor of answers of letters, six at most; "zz" stops."""
    config = {"stops": ("zz",), "context": 40, "num_speculative_tokens": 4, "width": 0, "top": 2}
    return Auditor(
        SimpleNamespace(
            config=config,
            tokenizer=Letters(),
            target=target,
            letters={"A": (0,)},
            stop_rule=lambda: stop_rule(6, (26, 27), ("zz",)),
            letter_logprobs=lambda watched: [("A", watched[0])],
        )
    )


def test_an_exact_answer_is_complete_only_where_the_targets_limits_end_it(auditor, target):
    prompt = (4, 5, 6)
    answer = run(target, plan(6, ends=()), [Prompt("i", prompt)])["i"]
    small = [t % 26 for t in answer.tokens]  # an answer in letters; whether it is exact does not matter below
    found = auditor.audit(
        "i", prompt, {"text": Letters().decode(small), "token_ids": small, "finish": "length"}
    )
    assert found["tokens"] == 6
    assert found["fork"] is None or not found["complete"]
    assert auditor._ends_there(small, "length")
    assert not auditor._ends_there(small, "stop")
    assert not auditor._ends_there(small[:5], "length")
    assert not auditor._ends_there([*small, 1], "length")
    assert auditor._ends_there([1, 26], "stop")
    assert auditor._ends_there([1, 25, 25], "stop")
    assert not auditor._ends_there([1, 25, 25, 3], "length")


def test_an_answer_that_is_unfit_spoils_no_neighbour(auditor):
    fine = {"text": "bcdefg", "token_ids": None, "finish": "length"}
    long = {"text": "abcdefghijk", "token_ids": None, "finish": "length"}
    first, second, third = auditor.together(
        [Question("a", (1,), fine), Question("b", (1,) * 30, long), Question("c", (1, 2), fine)]
    )
    assert (first["item"], third["item"]) == ("a", "c")
    assert isinstance(second, UnfitError)
    assert auditor.audit("a", (1,), fine) == first
    assert auditor.audit("c", (1, 2), fine) == third


def test_an_answer_past_the_context_is_refused(auditor):
    with pytest.raises(UnfitError, match="30 prompt tokens and 11 of answer pass the context of 40"):
        auditor.audit("i", (1,) * 30, {"text": "abcdefghijk", "token_ids": None, "finish": "length"})
