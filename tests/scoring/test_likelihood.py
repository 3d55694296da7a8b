"""Room: scoring by likelihood. Law: a certain letter is the best one, an unmeasured one is none."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from specsafe.engines.llamacpp_worker import flatten, letters_of
from specsafe.scoring import SCORERS, best_letter, choice


def first_token(emitted: float, **letters: float) -> list[dict[str, Any]]:
    """One position as the engine reports it: the emitted token's log-probability, and the most likely tokens."""
    top = [{"id": ord(x), "token": f" {x}", "logprob": p} for x, p in letters.items()]
    return [{"logprob": emitted, "top_logprobs": top}]


def test_a_certain_letter_of_an_arm_without_draft_is_the_best():
    letters = letters_of(first_token(0.0, A=-20.1, B=0.0), has_draft=False)
    assert letters == [("A", -20.1), ("B", 0.0)]
    assert best_letter(letters, 4) == "B"


def test_of_a_first_token_that_the_draft_gave_unmeasured_no_letter_is_known():
    assert letters_of(first_token(0.0, A=-20.1, B=0.0), has_draft=True) is None
    assert letters_of(first_token(-0.1, A=-2.5, B=-0.1), has_draft=True) == [("A", -2.5), ("B", -0.1)]
    assert letters_of([], has_draft=False) is None


@pytest.mark.parametrize("has_draft", [True, False])
def test_the_record_of_an_answer_holds_the_letters_that_are_known(has_draft):
    reply = {
        "choices": [
            {"text": "B", "finish_reason": "stop", "logprobs": {"content": first_token(0.0, A=-20.1, B=0.0)}}
        ],
        "__verbose": {"tokens": [66], "tokens_evaluated": 3},
        "timings": {"prompt_ms": 1.0, "predicted_ms": 1.0},
    }
    letters = flatten(reply, "", has_draft)["letters"]
    assert letters == (None if has_draft else [("A", -20.1), ("B", 0.0)])


def test_only_letters_of_the_item_compete():
    assert best_letter([("A", -3.0), ("E", -0.1)], 4) == "A"
    assert best_letter([("E", -0.1)], 4) is None


def test_the_choice_by_likelihood_is_part_of_the_hashed_source():
    assert inspect.getmodule(best_letter) is choice
    assert SCORERS["choice:likelihood"].id.startswith("choice:likelihood@")
