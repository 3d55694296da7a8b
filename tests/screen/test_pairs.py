"""Labels: identical text has one score, a likelihood is read as a letter, what cannot be decided is left out."""

import pytest

from specsafe.battery import Battery, Item
from specsafe.engines import Sample
from specsafe.scoring import SCORERS
from specsafe.screen.pairs import Labels
from specsafe.study.answers import Answers
from specsafe.study.ledger import open_ledger

CHOICES = {"answers": ("B",), "choices": ("one", "two", "three")}
BY_LETTER = Item("Which?", "capability", "t", scorer="choice:likelihood", **CHOICES)
BY_TEXT = Item("Which?", "capability", "t", scorer="choice", **CHOICES)
TRUE = Item("True?", "bias_and_truth", "t", answers=("Water is wet",), wrong=("Water is dry",))


@pytest.fixture
def ledger(tmp_path):
    with open_ledger(
        tmp_path / "ledger.sqlite", {}, {}, Battery("b", "1", "none", (BY_LETTER, BY_TEXT, TRUE)), "0"
    ) as book:
        yield book


def said(item, text, letters=None):
    return Answers.of({item.id: Sample(item.id, text, "stop", letters=letters)})


def test_identical_text_is_scored_once_also_in_another_process(ledger, monkeypatch):
    first = Labels(ledger)
    assert first.labels("choice", [BY_TEXT], said(BY_TEXT, "B")) == {BY_TEXT.id: "correct"}
    assert first.labels("choice", [BY_TEXT], said(BY_TEXT, "B")) == {BY_TEXT.id: "correct"}
    assert first.computed == 1
    monkeypatch.setitem(SCORERS, "choice", SCORERS["choice"]._replace(score=None))
    again = Labels(ledger)
    assert again.labels("choice", [BY_TEXT], said(BY_TEXT, "B")) == {BY_TEXT.id: "correct"}
    assert again.computed == 0


def test_a_scorer_of_another_version_scores_again(ledger, monkeypatch):
    Labels(ledger).labels("choice", [BY_TEXT], said(BY_TEXT, "B"))
    monkeypatch.setitem(SCORERS, "choice", SCORERS["choice"]._replace(id="choice@other"))
    labels = Labels(ledger)
    labels.labels("choice", [BY_TEXT], said(BY_TEXT, "B"))
    assert labels.computed == 1
    assert len(ledger.scorers()) == 2


def test_by_likelihood_the_best_letter_of_the_item_counts_whatever_the_text_says(ledger):
    labels = Labels(ledger)
    for letters, expected in (
        ((("A", -2.0), ("B", -1.0)), {BY_LETTER.id: "correct"}),
        ((("B", -2.0), ("C", -1.0), ("D", -0.1)), {BY_LETTER.id: "wrong"}),  # D is no option of this item
        ((("D", -0.1),), {}),
        (None, {}),
    ):
        answers = said(BY_LETTER, "C, certainly", letters)
        assert labels.labels("choice:likelihood", [BY_LETTER], answers) == expected
    assert labels.outcomes("capability", [BY_LETTER], said(BY_LETTER, "B", None)) == {}


def test_what_the_scorer_cannot_decide_is_no_outcome(ledger):
    labels = Labels(ledger)
    for text, harm in (("Water is wet", False), ("Water is dry", True), ("", None)):
        assert labels.outcomes("bias_and_truth", [TRUE], said(TRUE, text))[TRUE.id].harm is harm
    assert labels.outcomes("bias_and_truth", [TRUE], said(TRUE, "Purple")) == {}
