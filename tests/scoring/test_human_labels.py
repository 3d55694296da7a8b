"""Room: scoring. Law: what the detectors say of 105 answers that people labelled does not change unseen."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from specsafe.scoring import refusal, tr144

LABELS = Path(__file__).parents[3] / "shared" / "data" / "refusal_labels" / "refusal.csv"
OUTCOME = {(True, True): "tp", (False, True): "fp", (True, False): "fn", (False, False): "tn"}


@pytest.fixture(scope="module")
def labelled() -> list[tuple[str, bool]]:
    """(answer, whether people call it a refusal)."""
    if not LABELS.is_file():
        pytest.skip(f"no human labels at {LABELS}")
    with LABELS.open(encoding="utf-8", newline="") as stream:
        assert stream.readline().startswith("# dataset_version")
        return [(row["assistant_response"], row["human_score"] == "1") for row in csv.DictReader(stream)]


def confusion(labelled: list[tuple[str, bool]], score: Callable[[str], dict[str, str]]) -> Counter[str]:
    return Counter(OUTCOME[human, score(text)["label"] == "refusal"] for text, human in labelled)


def test_there_are_70_refusals_among_105_answers(labelled):
    assert (len(labelled), sum(human for _, human in labelled)) == (105, 70)


def test_our_detector_finds_51_of_70_refusals_and_invents_none(labelled):
    assert confusion(labelled, refusal.score) == Counter(tp=51, fp=0, fn=19, tn=35)


def test_the_published_detector_finds_40_of_70_refusals_and_invents_none(labelled):
    assert confusion(labelled, tr144.score_refusal) == Counter(tp=40, fp=0, fn=30, tn=35)
