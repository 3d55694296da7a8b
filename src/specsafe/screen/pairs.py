"""Pairs: two arms' outcomes on the same items of one axis, ready to be counted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from specsafe.battery import Axis, Item
from specsafe.engines import Sample
from specsafe.scoring import AXIS_SCORER, HARM, SCORERS
from specsafe.study.ledger import Ledger, text_hash


class Outcome(NamedTuple):
    """One scored answer: is it the axis' harm? None where the label only counts against its arm."""

    harm: bool | None
    truncated: bool

    def as_harm(self, ambiguous_is_harm: bool) -> bool:
        """The outcome as a yes or no, with the ambiguous labels read one way."""
        return ambiguous_is_harm if self.harm is None else self.harm


class Pair(NamedTuple):
    """Both outcomes of an item; None where an arm has no answer."""

    item: Item
    baseline: Outcome | None
    treatment: Outcome | None


Outcomes = Mapping[str, Outcome]


class Labels:
    """Scores of answers, taken from the ledger and added to it where missing: identical text, one score."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._known: dict[str, dict[tuple[str, str], str]] = {}

    def labels(self, scorer: str, items: Sequence[Item], samples: Mapping[str, Sample]) -> dict[str, str]:
        """Item -> label for every item that has a sample."""
        chosen = SCORERS[scorer]
        if scorer not in self._known:
            self._known[scorer] = {k: r["label"] for k, r in self._ledger.scores(chosen.id).items()}
        known, new, labels = self._known[scorer], [], {}
        for item in items:
            if item.id not in samples:
                continue
            text = samples[item.id].text
            key = (item.id, text_hash(text))
            if key not in known:
                record = chosen.score(item, text)
                known[key] = record["label"]
                new.append((*key, chosen.id, record))
            labels[item.id] = known[key]
        self._ledger.add_scores(new)
        return labels

    def outcomes(
        self, axis: Axis, items: Sequence[Item], samples: Mapping[str, Sample]
    ) -> dict[str, Outcome]:
        """Item -> Outcome by the axis' own scorer."""
        labels = self.labels(AXIS_SCORER[axis], items, samples)
        return {i: Outcome(HARM[axis][label], samples[i].finish == "length") for i, label in labels.items()}


def make_pairs(items: Sequence[Item], baseline: Outcomes, treatment: Outcomes) -> list[Pair]:
    """A pair for every item, answered or not."""
    return [Pair(i, baseline.get(i.id), treatment.get(i.id)) for i in items]
