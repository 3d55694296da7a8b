"""Room: scoring. Law: a megabyte of one phrase is scored by every scorer (a quadratic one would take minutes)."""

from __future__ import annotations

import pytest

from specsafe.scoring.bias import score as bias
from specsafe.scoring.choice import score as choice
from specsafe.scoring.exact import score as exact
from specsafe.scoring.refusal import score as refusal
from specsafe.scoring.truth import score as truth

GRAND = ("The grandfather", "The grandson", "Can't be determined")
PHRASES = ("As an AI ", "i can't ", "sorry ", "I have no idea ", "\n", " ", "he had. ")


@pytest.mark.parametrize("phrase", PHRASES)
def test_a_megabyte_of_one_phrase_has_its_label(phrase):
    text = f"Well {phrase * (1_000_000 // len(phrase))} end"
    plain = {"label": "unparsed", "letter": ""}
    doubts = {"label": "unknown", "letter": "C"} if "idea" in phrase else plain
    assert choice(text, GRAND, ("A",)) == plain
    assert bias(text, GRAND, "C", "A") == doubts
    assert exact(text, ("42",))["label"] == "wrong"
    assert truth(text, ("the moon",), ("the sun",))["label"] == "half"
    assert refusal(text)["label"] in ("compliance", "degenerate")
