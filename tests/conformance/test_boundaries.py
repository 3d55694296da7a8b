"""Room: decoding/loop. Where an answer ends, at every position of a draft, and what counts as drafted there.

The target counts: after token t it says t + 1, so every expected answer can be read off.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from toys import CPU, Chain, letter, network, plan, run, stopped
from toys import model as tiny

from specsafe.decoding.drafters import LookupDrafter, ScriptedDrafter
from specsafe.decoding.loop import Decoder, Prompt, Stopped
from specsafe.decoding.stopping import Emitted, StopRule, cut

T = 4
START = 9
RIGHT = list(range(START + 1, START + 41))
WRONG = 55
ASKED = [Prompt("a", (3, START))]


def answer(script=RIGHT, asked=ASKED, limit=20, **changes):
    """One answer of the counting target, drafted by a script."""
    how = plan(**{"limit": limit, "ends": (), "drafted": T} | changes)
    return run(Chain(), how, asked, ScriptedDrafter(CPU, script))["a"]


def with_wrong(*places):
    """The right script with wrong tokens at some places."""
    return [WRONG if i in places else token for i, token in enumerate(RIGHT)]


def counts(a):
    return a.rounds, a.drafted, a.accepted, list(a.accepted_at)


def at_each(*rounds):
    """accepted_at of rounds that accepted so many."""
    return [sum(r > slot for r in rounds) for slot in range(T)]


@pytest.mark.parametrize("before", [0, 1, 2])
@pytest.mark.parametrize("j", range(T + 1))
def test_end_of_text_at_each_position_of_a_draft(before, j):
    """After whole rounds; slot T is the bonus token's."""
    place = before * (T + 1) + j
    a = answer(ends=[RIGHT[place]])
    last = min(T, j + 1)
    assert (list(a.tokens), a.finish) == (RIGHT[: place + 1], "stop")
    assert counts(a) == (before + 1, before * T + last, before * T + last, at_each(*[T] * before, last))
    assert len(a.logprobs) == len(a.tokens)


@pytest.mark.parametrize("j", range(T))
def test_end_of_text_that_the_target_puts_in_place_of_a_draft_token(j):
    a = answer(with_wrong(j), ends=[RIGHT[j]])
    assert (list(a.tokens), a.finish) == (RIGHT[: j + 1], "stop")
    assert counts(a) == (1, j + 1, j, at_each(j))


@pytest.mark.parametrize("j", range(T))
def test_end_of_text_proposed_too_early_is_refused(j):
    script = [WRONG if i == j else token for i, token in enumerate(RIGHT)]
    a = answer(script, ends=[WRONG], limit=8)
    assert (list(a.tokens), a.finish) == (RIGHT[:8], "length")
    assert a.accepted_at[j:] == answer(script, limit=8).accepted_at[j:]


@pytest.mark.parametrize("before", [0, 1])
@pytest.mark.parametrize("j", range(T + 1))
def test_limit_at_each_position_of_a_draft(before, j):
    """Nothing is drafted for places past the limit, nor for its last token, which is the target's own."""
    limit = before * (T + 1) + j + 1
    a = answer(limit=limit)
    assert (list(a.tokens), a.finish) == (RIGHT[:limit], "length")
    assert counts(a) == (before + 1, before * T + j, before * T + j, at_each(*[T] * before, j))


def test_the_last_token_of_the_limit_may_be_the_end_of_text():
    assert answer(limit=3, ends=[RIGHT[2]]).finish == "stop"
    assert answer(limit=2, ends=[RIGHT[2]]).finish == "length"


@pytest.mark.parametrize("width", [1, 2, 3, 6])
@pytest.mark.parametrize("last", range(5, 12))
def test_stop_string_completed_at_each_position(last, width):
    """Of one or more tokens, in one round or over two (a round is five tokens)."""
    string = b"".join(map(letter, RIGHT[last - width + 1 : last + 1])).decode()
    a = answer(stop=StopRule(frozenset(), ("no such", string), 20, letter))
    assert (list(a.tokens), a.finish) == (RIGHT[: last + 1], "stop")
    in_round = last % (T + 1) + 1
    assert a.drafted == a.accepted == (last // (T + 1)) * T + min(T, in_round)


@pytest.mark.parametrize("last", range(2, 12))
def test_stop_string_with_a_character_split_between_tokens(last):
    """The bytes of "€" come in three tokens, wherever those lie in a draft."""
    euro = dict(zip(RIGHT[last - 2 : last + 1], "€".encode(), strict=True))
    a = answer(stop=StopRule(frozenset(), ("€",), 20, lambda t: bytes([euro[t]]) if t in euro else b"x"))
    assert (list(a.tokens), a.finish) == (RIGHT[: last + 1], "stop")


def test_stop_string_inside_one_token_and_over_the_prompt():
    """What the prompt said completes nothing."""
    inside = StopRule(frozenset(), ("END",), 20, lambda t: b"an END of it" if t == RIGHT[3] else b"x")
    assert list(answer(stop=inside).tokens) == RIGHT[:4]
    over = StopRule(frozenset(), (letter(START).decode() + letter(START + 1).decode(),), 6, letter)
    assert answer(stop=over).finish == "length"
    assert cut("one, two, three", ["three", "two"]) == "one, "


def test_a_stop_string_is_found_wherever_tokens_divide_it():
    """Also after a near miss: "aab" in "aaab"."""
    for pieces in (["aa", "ab"], ["a", "a", "a", "b"], ["aaab"], ["aaa", "b"]):
        rule = StopRule(frozenset(), ("zzzz", "aab"), 9, lambda t, pieces=pieces: pieces[t].encode())
        emitted = Emitted(rule)
        assert [emitted.push(i) for i in range(len(pieces))] == [False] * (len(pieces) - 1) + [True]


@pytest.mark.parametrize("j", range(T))
def test_refused_at_each_position(j):
    """The next round starts with the token that the target put there."""
    a = answer(with_wrong(j), limit=j + 1 + T + 1)
    assert list(a.tokens) == RIGHT[: j + T + 2]
    assert counts(a) == (2, 2 * T, j + T, at_each(j, T))


def test_all_accepted_and_none_accepted():
    assert counts(answer(limit=20)) == (4, 16, 16, [4] * T)
    a = answer([WRONG] * 40, limit=20)
    assert list(a.tokens) == RIGHT[:20]
    # three places before the limit the draft gets shorter: 16 rounds of 4, then 3, 2, 1, 0
    assert counts(a) == (20, 16 * T + 3 + 2 + 1, 0, [0] * T)


@pytest.mark.parametrize("length", range(12))
def test_a_draft_that_ends_first(length):
    """After the end of its script nothing is drafted, and the target goes on alone."""
    a = answer(RIGHT[:length], limit=12)
    # five tokens a round while the script lasts; the bonus token takes a place of the script
    drafted = sum(max(0, min(T, length - start)) for start in (0, 5, 10) if start <= length)
    assert list(a.tokens) == RIGHT[:12]
    assert a.drafted == a.accepted == min(drafted, sum(a.accepted_at))
    whole, rest = divmod(length, 5)
    alone = 12 - whole * 5 - (rest + 1)
    assert a.rounds == whole + 1 + alone
    assert a.drafted == whole * T + min(rest, 12 - 1 - whole * 5)


def test_a_look_up_that_finds_little_or_nothing():
    """Drafts of different length in one batch: none at all, and one that reaches the end of what is known."""
    asked = [Prompt("nothing", (3, START)), Prompt("some", (START, START + 1, START + 2, 3, START))]
    answers = run(Chain(), plan(limit=6, ends=(), drafted=T, slots=2), asked, LookupDrafter(CPU))
    assert [list(answers[i].tokens) for i in ("nothing", "some")] == [RIGHT[:6]] * 2
    assert answers["nothing"].drafted == 0
    # after START it proposes START + 1, START + 2, and wrongly 3, START
    assert counts(answers["some"])[1:] == (4, 2, [1, 1, 0, 0])
    drafter = LookupDrafter(CPU)
    assert drafter.lookup([1, 2, 3, 1, 2], 2) == [3, 1]
    assert drafter.lookup([1, 2, 1, 5, 1], 9) == [5, 1]
    assert drafter.lookup([1, 1], 9) == [1]
    assert drafter.lookup([1], 9) == drafter.lookup([1, 2, 3], 9) == drafter.lookup([1, 1], 0) == []


@pytest.mark.parametrize("drafted", [0, 1, T])
def test_one_token_and_a_prompt_of_one_token(drafted):
    a = answer(limit=1, drafted=drafted, asked=[Prompt("a", (START,))])
    assert (list(a.tokens), a.finish, counts(a)) == (RIGHT[:1], "length", (1, 0, 0, [0] * drafted))
    assert answer(limit=1, ends=RIGHT[:1]).finish == "stop"
    assert list(answer(limit=7, drafted=drafted, asked=[Prompt("a", (START,))]).tokens) == RIGHT[:7]


def test_impossible_prompts_are_named_and_the_rest_goes_on():
    asked = [
        Prompt("empty", ()),
        Prompt("long", (3,) * 11),
        Prompt("fits", (3,) * 10),
        Prompt("empty too", ()),
        *ASKED,
    ]
    for slots in (1, 2, 4):
        answers = run(
            Chain(),
            plan(limit=6, ends=(), drafted=T, slots=slots, capacity=16),
            asked,
            ScriptedDrafter(CPU, RIGHT),
        )
        assert stopped(answers) == {"empty", "empty too", "long"}
        assert answers["empty"] == Stopped("empty", "the prompt has no token")
        assert "11 prompt tokens and 6 of answer pass the context of 16" in answers["long"].reason
        assert list(answers["a"].tokens) == RIGHT[:6]
        assert list(answers["fits"].tokens) == [4, 5, 6, 7, 8, 9]
    assert run(Chain(), plan(), []) == {}


def test_requests_that_wait_are_taken_as_places_come_free():
    """`take` is asked to wait only when nothing is in flight."""
    waited = []
    asked = iter([Prompt("a", (START,)), None, Prompt("b", (START,)), None, None])

    def take(wait):
        waited.append(wait)
        return next(asked, None)

    done = list(Decoder(Chain(), None, plan(limit=2, ends=(), slots=2)).run(take))
    assert [a.item for a in done] == ["a", "b"]
    assert waited[0] is True
    assert waited[1] is waited[2] is False


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_same_ends_on_a_real_network(dtype):
    """For each place of an answer: its token as end of text, the limit, and the text up to it as stop string."""
    target, prompt = network(tiny(), dtype), Prompt("a", (8, 90, 17))
    long = run(target, plan(limit=11, ends=()), [prompt])["a"].tokens
    for place in range(11):
        text = b"".join(map(letter, long[: place + 1])).decode()
        for stop in (
            StopRule(frozenset({long[place]}), (), 11, letter),
            StopRule(frozenset(), (), place + 1, letter),
            StopRule(frozenset(), (text,), 11, letter),
        ):
            alone = run(target, plan(stop=stop), [prompt])["a"]
            drafter = ScriptedDrafter(CPU, long)
            a = run(target, replace(plan(stop=stop), drafted=T), [prompt], drafter)["a"]
            assert (a.tokens, a.finish, a.logprobs) == (alone.tokens, alone.finish, alone.logprobs)
            assert a.tokens == long[: len(a.tokens)]
            assert a.accepted == a.drafted <= len(a.tokens)


class Hollow(Chain):
    """After the token WRONG it gives NaN."""

    def forward(self, tokens, cache, first=0):
        hidden = super().forward(tokens, cache, first)
        return hidden.masked_fill((tokens == WRONG)[..., None], float("nan"))


@pytest.mark.parametrize("j", range(T))
def test_logits_that_are_no_numbers_matter_only_where_a_token_was_emitted(j):
    """After a draft token that was refused they stop nothing."""
    how = plan(limit=9, ends=(), drafted=T)
    a = run(Hollow(), how, ASKED, ScriptedDrafter(CPU, with_wrong(j)))["a"]
    assert list(a.tokens) == RIGHT[:9]
    broken = run(Hollow(), how, [Prompt("b", (WRONG,))], ScriptedDrafter(CPU, RIGHT))["b"]
    assert broken == Stopped("b", "the logits after 0 tokens are not numbers (NaN or infinite)")
