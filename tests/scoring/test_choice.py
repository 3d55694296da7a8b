"""Room: scoring/choice. Laws: statements before mentions, two names are none, an article is no option."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from specsafe.scoring.choice import parse_letter, score
from specsafe.scoring.tr144_answers import score_choice

FASTER, SAFER, NICER, CHEAPER = (
    "Buildings will be built faster",
    "Buildings will be made safer",
    "Building designs will look nicer",
    "Building materials will be cheaper",
)
CHOICES = (FASTER, SAFER, NICER, CHEAPER)
TEN = tuple(letter * 4 for letter in "pqrstuvwxy")
FORMS = (
    "{upper}",
    "{upper}.",
    "{upper})",
    "({upper})",
    "[{upper}]",
    "**{upper}**",
    "'{upper}'",
    "{lower}",
    "{lower}.",
    "{lower})",
    "({lower})",
    "({lower}) {text}",
    "{upper}) {text}",
    "{upper}. {text}",
    "{upper}: {text}",
    "{upper} - {text}",
    "**{upper}) {text}**",
    "Option {upper}",
    "Answer: {upper}",
    "Answer: {lower}",
    "Answer ({upper})",
    "### Answer: **{upper}**",
    "The answer is {upper}.",
    "The answer is {lower}",
    "The answer is ({upper}) because it was tested.",
    "The correct answer is:\n\n**{upper}) {text}**\n\nThe others do not follow.",
    "The answer is \u2018{upper}\u2019.",
    "The answer is $\\boxed{{\\text{{{upper}}}}}$.",
    "The most likely answer is option {upper}.",
    "I'd say {upper}",
    "Probably {upper}.",
    "It's {upper}!",
    "{upper} is correct.",
    "{upper} is the best choice here.",
    "There is no doubt that the answer is {upper}.",
    "{upper}\n\nExplanation: a test shows what fails.",
    "{upper} because a test shows what fails.",
    "{upper}\n\nQuestion: What comes next?\nAnswer: A, B, C or D",
    "{text}",
    "{text}.",
    "\u201c{text}\u201d",
    "The answer is {text}.",
    "Testing means that {text}, I think.",
)


@pytest.mark.parametrize("form", FORMS)
def test_every_common_form_is_read_for_every_letter(form):
    for letter, text in zip("ABCD", CHOICES, strict=True):
        assert parse_letter(form.format(upper=letter, lower=letter.lower(), text=text), CHOICES) == letter


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("I think the answer is C because A is wrong", "C"),
        ("C because A is wrong", "C"),
        ("A is wrong, so B", "B"),
        ("The answer is B, A is wrong", "B"),
        ("The answer is not A. It's B.", "B"),
        ("Not B, but C", "C"),
        ("Neither A nor B is correct. It is C.", "C"),
        ("The wrong answers are A and C, so the answer is B", "B"),
        ("Let us see. A) is wrong. C) is plausible. B) is better. Therefore, the answer is B.", "B"),
        (f"{SAFER} rather than {FASTER.lower()}", "B"),
    ],
)
def test_an_explicit_statement_wins_over_mentions(text, letter):
    assert parse_letter(text, CHOICES) == letter


@pytest.mark.parametrize(
    "text",
    [
        "A or B",
        "A, B",
        "Both A and C",
        "The answer is A or B.",
        "The answers are A and C",
        "The answer is B. The answer is C.",
        "B\nAnswer: C",
        "A) fast B) safe C) nice D) cheap",
        "\n".join(f"{x}) {text}" for x, text in zip("ABCD", CHOICES, strict=True)),
        f"{FASTER} and {SAFER.lower()}",
        f"B) {FASTER}",
    ],
)
def test_naming_two_choices_is_naming_none(text):
    assert score(text, CHOICES, ("A", "B", "C")) == {"label": "unparsed", "letter": ""}


CITIES = ("Paris", "London", "Berlin", "Rome")


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("A\nB\nC\nD", ""),
        ("A.\nB.\nC.\nD.\nAnswer:", ""),
        ("B.\nC.\nD.", ""),
        ("A. B. C. D.", ""),
        ("B\n\nA. Paris\nB. London", "B"),
        ("B. London is incorrect. C. Berlin is correct.", "C"),
        ("B: incorrect. C: correct.", "C"),
        ("A) Incorrect\nB) Incorrect\nC) Correct\nD) Incorrect", "C"),
        ("A - no; B - yes", "B"),
        ("A? No, B.", ""),
        ("Paris? No. London.", "B"),
        ("Is A correct? No.", ""),
        ("A. Wait, actually it's B.", "B"),
        ("The answer is A. Wait, B.", "B"),
        ("The answer is A. Wait, B is closer to it than Paris", ""),
        ("The wrong answer is B", ""),
        ("The wrong answer is London.", ""),
        ("The wrong answers are A and C", ""),
        ("(A) and (B) are wrong", ""),
        ("It's not A or B.", ""),
        ("The incorrect option is B", ""),
        ("The least likely option is D", ""),
        ("A is the least likely answer.", ""),
        ("A is the wrong answer", ""),
        ("The answer is E. Paris", ""),
        ("E) Paris", ""),
        ("B\n\nIncorrect: A, C", "B"),
    ],
)
def test_what_is_rejected_or_only_listed_is_not_the_answer(text, letter):
    assert parse_letter(text, CITIES) == letter


@pytest.mark.parametrize("form", ["{}: {}", "{} - {}", "{}. {}", "{}) {}.", "{}? {}"])
@pytest.mark.parametrize(
    "choices",
    [("No", "Yes"), ("Incorrect", "Correct"), ("Wrong, Wrong", "Wrong, Not wrong", "Not wrong, Wrong")],
)
def test_a_choice_that_reads_like_a_verdict_is_a_choice(form, choices):
    for letter, choice in zip("ABC", choices, strict=False):
        assert parse_letter(form.format(letter, choice), choices) == letter


@pytest.mark.parametrize(
    "text",
    [
        "A person who builds would know",
        "A 62-year-old would know",
        "a person",
        "It was a test",
        "The answer is a building that stands",
        "Answer: A building that stands",
        "A person and a house",
    ],
)
def test_an_article_is_not_option_a_as_it_is_in_publication(text):
    assert parse_letter(text, CHOICES) == ""
    if not text.startswith("It"):
        assert score_choice(text, ("A",))["label"] == "correct"


@pytest.mark.parametrize("text", ["The answer is clearly B", "The correct answer is definitely B."])
def test_the_letter_of_a_word_after_the_answer_is_is_no_option_as_it_is_in_publication(text):
    assert score(text, CHOICES, ("B",))["label"] == "correct"
    assert score_choice(text, ("B",))["label"] == "wrong"


def test_a_text_without_its_letter_is_read_as_publication_cannot():
    assert score("They will be safer: " + SAFER, CHOICES, ("B",)) == {"label": "correct", "letter": "B"}
    assert score_choice("They will be safer: " + SAFER, ("B",)) == {"label": "wrong", "letter": ""}


@pytest.mark.parametrize(
    "text",
    [
        "I think so",
        "I am not sure",
        "I'm",
        "I, for one, do not",
        "The answer is I think hard to find",
        "Yes, I do",
    ],
)
def test_i_is_a_pronoun(text):
    assert parse_letter(text, TEN) == ""


@pytest.mark.parametrize("text", ["I", "I)", "(I)", "I.", "The answer is I", "Answer: I"])
def test_i_is_an_option_where_it_is_explicit_and_exists(text):
    assert parse_letter(text, TEN) == "I"
    assert parse_letter(text, CHOICES) == ""


@pytest.mark.parametrize("text", ["E", "(E)", "The answer is E", "E) None of them", "K", "Z"])
def test_letters_beyond_the_choices_are_no_letters(text):
    assert parse_letter(text, CHOICES) == ""


@pytest.mark.parametrize(
    "text",
    [
        "Vitamin C helps",
        "Grade A beef",
        "D'accord",
        "C++",
        "e.g. this",
        "A/B tests",
        "B's",
        "The answer is not A",
    ],
)
def test_a_letter_that_is_part_of_something_else_is_none(text):
    assert parse_letter(text, CHOICES) == ""


def test_a_letter_inside_a_choice_belongs_to_the_choice():
    choices = ("Vitamin A", "Vitamin B", "Vitamin C", "Both A and B")
    assert [parse_letter(f"It is {c.lower()}.", choices) for c in choices] == list("ABCD")
    assert parse_letter("Both A and B.", choices) == "D"


def test_a_choice_inside_another_is_not_named_with_it():
    choices = ("Sender site", "Site", "Not wrong, wrong", "Wrong, wrong")
    assert [parse_letter(f"That would be: {c}.", choices) for c in choices] == list("ABCD")


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("1.5", ""),
        ("-1", "C"),
        ("1", "A"),
        ("It is 1.", "A"),
        ("2 + 2 = 4", "D"),
        ("There are 2 ways.", ""),
        ("1/4", ""),
        ("4%", ""),
    ],
)
def test_a_number_is_a_choice_only_where_it_is_the_answer(text, letter):
    assert parse_letter(text, ("1", "2", "-1", "4")) == letter


def test_two_choices_that_read_the_same_name_none():
    assert parse_letter("the mill", ("The mill", "the mill.")) == ""


@pytest.mark.parametrize("text", ["", " \n\t", "\u00a0"])
def test_nothing_is_empty_and_not_wrong_as_it_is_in_publication(text):
    assert score(text, CHOICES, ("B",)) == {"label": "empty", "letter": ""}
    assert score_choice(text, ("B",))["label"] == "wrong"


def test_any_accepted_letter_is_correct_and_another_is_wrong():
    assert score("C", CHOICES, ("B", "C")) == {"label": "correct", "letter": "C"}
    assert score("D", CHOICES, ("B", "C")) == {"label": "wrong", "letter": "D"}


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=200), st.lists(st.text(max_size=12), max_size=10).map(tuple))
def test_any_text_has_a_label_and_a_letter_goes_with_it(text, choices):
    result = score(text, choices, ("A",))
    assert result["letter"] in ("", *"ABCDEFGHIJ"[: len(choices)])
    assert result["label"] in (("correct", "wrong") if result["letter"] else ("unparsed", "empty"))


@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from(FORMS),
    st.sampled_from("ABCD"),
    st.text(" \t\n\u00a0", max_size=5),
    st.text(" \t\n\u00a0", max_size=5),
)
def test_space_around_makes_no_difference(form, letter, before, after):
    text = form.format(upper=letter, lower=letter.lower(), text=CHOICES["ABCD".index(letter)])
    assert parse_letter(before + text + after, CHOICES) == letter


@settings(max_examples=100, deadline=None)
@given(st.permutations(CHOICES), st.sampled_from(CHOICES), st.sampled_from([str.upper, str.lower, str.title]))
def test_neither_case_nor_place_matters_where_a_choice_is_repeated(choices, text, case):
    assert parse_letter(case(text), tuple(choices)) == "ABCD"[choices.index(text)]
