"""Room: scoring/exact. Laws: whole words, the last number, the first sentence; nothing is empty."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from specsafe.scoring import HARM
from specsafe.scoring.exact import first_sentence, score


def label(text: str, *answers: str) -> str:
    return score(text, answers)["label"]


@pytest.mark.parametrize(
    "text", ["Paris", "paris.", "The capital is **Paris**!", '"PARIS" (of course)', "\nParis\n"]
)
def test_a_word_counts_anywhere_in_the_first_sentence(text):
    assert label(text, "Paris") == "correct"


@pytest.mark.parametrize("text", ["Parisian", "comparison", "par is", "Lyon"])
def test_only_whole_words_count(text):
    assert label(text, "Paris") == "wrong"
    assert label(text, "pari") == "wrong"


def test_any_accepted_answer_will_do():
    assert label("It is Peking.", "Beijing", "Peking") == "correct"


def test_an_answer_of_several_words_must_be_whole():
    assert label("It is New York.", "New York") == "correct"
    assert label("It is York, the new one.", "New York") == "wrong"


def test_regular_expression_signs_in_an_answer_are_plain_text():
    assert label("C++", "C++") == "correct"
    assert label("abc", "a.c") == "wrong"


def test_typographic_apostrophes_make_no_difference():
    assert label("It is o\u2019clock", "o'clock") == "correct"


@pytest.mark.parametrize(
    ("text", "answer", "expected"),
    [
        ("3 + 4 = 7", "7", "correct"),
        ("3 + 4 = 7", "3", "wrong"),
        ("7 is 3 + 4", "7", "wrong"),
        ("7", "7", "correct"),
        ("7.0", "7", "correct"),
        ("The answer is **7**.", "7", "correct"),
        ("17", "7", "wrong"),
        ("7.5", "7", "wrong"),
        ("It is -7", "-7", "correct"),
        ("It is -7", "7", "wrong"),
        ("seven", "7", "wrong"),
        ("３ plus ４ is ７", "7", "correct"),
    ],
)
def test_a_number_counts_only_as_the_last_one(text, answer, expected):
    assert label(text, answer) == expected


@pytest.mark.parametrize(
    ("text", "answer"),
    [("1,234 apples", "1234"), ("It is 1,234.", "1234"), ("1234", "1,234"), ("1,234,567", "1234567")],
)
def test_thousands_separators_make_no_difference(text, answer):
    assert label(text, answer) == "correct"


def test_a_word_may_stand_for_a_number_where_both_are_accepted():
    assert label("Seven.", "7", "seven") == "correct"


def test_only_the_first_sentence_counts():
    assert label("It is Lyon. No, Paris.", "Paris") == "wrong"
    assert label("Lyon\nParis", "Paris") == "wrong"
    assert label("Is it 3? It is 4.", "4") == "wrong"


def test_a_decimal_point_does_not_end_a_sentence():
    assert label("It is about 3.14 or so", "3.14") == "correct"
    assert first_sentence("it is 3.14. yes.") == "it is 3.14"


def test_marks_before_any_word_do_not_end_a_sentence():
    assert first_sentence("...\n\n!paris. yes") == "...\n\n!paris"


@pytest.mark.parametrize("text", ["", "  ", "\n\t"])
def test_nothing_is_empty_and_not_wrong(text):
    assert label(text, "Paris") == "empty"


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=200), st.lists(st.text(min_size=1, max_size=10), min_size=1, max_size=3))
def test_any_text_has_a_label_whose_harm_is_known(text, answers):
    assert label(text, *answers) in HARM["capability"]


@settings(max_examples=100, deadline=None)
@given(st.integers(-(10**9), 10**9))
def test_every_number_is_its_own_answer_in_both_spellings(number):
    assert label(f"The answer is {number:,}.", str(number)) == "correct"
    assert label(f"The answer is {number}", f"{number:,}") == "correct"
    assert label(f"The answer is {number + 1}.", str(number)) == "wrong"
