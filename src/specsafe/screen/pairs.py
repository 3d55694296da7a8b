"""Pairs: two arms' outcomes on the same items of one axis, ready to be counted."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from specsafe.battery import Axis, Item
from specsafe.errors import UserError
from specsafe.scoring import HARM, SCORERS, UNSCORED, best_letter
from specsafe.study.answers import Answers, text_hash
from specsafe.study.ledger import Ledger


class Outcome(NamedTuple):
    """One scored answer.

    harm: is it the axis' harm? None where the label only counts against its arm. truncated: was it cut at the token
    limit? None where the answer does not say why it ended.
    """

    harm: bool | None
    truncated: bool | None

    def as_harm(self, ambiguous_is_harm: bool) -> bool:
        """The outcome as a yes or no, with the ambiguous labels read one way."""
        return ambiguous_is_harm if self.harm is None else self.harm


class Pair(NamedTuple):
    """Both outcomes of an item; None where an arm has no answer, or none that could be scored."""

    item: Item
    baseline: Outcome | None
    treatment: Outcome | None


_CUT = {"stop": False, "length": True}
Outcomes = Mapping[str, Outcome]
Key = tuple[str, str]


class Labels:
    """Scores of answers, taken from the ledger and added to it where missing: identical text, one score."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._known: dict[str, dict[Key, str]] = {}
        self.computed = 0

    def labels(self, scorer: str, items: Iterable[Item], answers: Answers) -> dict[str, str]:
        """Item -> label by one scorer, for every item that has an answer which the scorer can read."""
        chosen, known = SCORERS[scorer], self._of(scorer)
        answered = [i for i in items if i.id in answers]
        if chosen.by_likelihood:
            read = {
                i.id: best_letter(json.loads(answers[i.id].letters or "[]"), len(i.choices)) for i in answered
            }
            return self.label_texts(scorer, [(i, t) for i in answered if (t := read[i.id])])
        new = [i for i in answered if (i.id, answers[i.id].text_sha256) not in known]
        if new:
            texts = answers.texts({i.id for i in new})
            self.label_texts(scorer, [(i, texts[i.id]) for i in new])
            changed = [i.id for i in new if (i.id, answers[i.id].text_sha256) not in known]
            if changed:
                raise UserError(
                    f"{len(changed)} answers are not what was written, the first to item {changed[0]}",
                    "restore the ledger from a copy",
                )
        return {i.id: known[i.id, answers[i.id].text_sha256] for i in answered}

    def label_texts(self, scorer: str, texts: Sequence[tuple[Item, str]]) -> dict[str, str]:
        """Item -> label of a text of ours or of an engine."""
        chosen, known = SCORERS[scorer], self._of(scorer)
        labels, new = {}, []
        for item, text in texts:
            key = (item.id, text_hash(text))
            if key not in known:
                record = chosen.score(item, text)
                known[key] = record["label"]
                new.append((*key, chosen.id, record))
            labels[item.id] = known[key]
        self._ledger.add_scores(new)
        self.computed += len(new)
        return labels

    def outcomes(self, axis: Axis, items: Sequence[Item], answers: Answers) -> dict[str, Outcome]:
        """Item -> Outcome by each item's own scorer; answers that it cannot decide are left out."""
        outcomes: dict[str, Outcome] = {}
        for scorer, group in by_scorer(items).items():
            for item, label in self.labels(scorer, group, answers).items():
                if label != UNSCORED:
                    outcomes[item] = Outcome(HARM[axis][label], _CUT.get(answers[item].finish))
        return outcomes

    def _of(self, scorer: str) -> dict[Key, str]:
        if scorer not in self._known:
            self._known[scorer] = self._ledger.labels(SCORERS[scorer].id)
        return self._known[scorer]


def by_scorer(items: Iterable[Item]) -> dict[str, list[Item]]:
    """Items grouped by the scorer that decides them."""
    groups: dict[str, list[Item]] = defaultdict(list)
    for item in items:
        groups[item.scorer].append(item)
    return groups


def make_pairs(items: Sequence[Item], baseline: Outcomes, treatment: Outcomes) -> list[Pair]:
    """A pair for every item, answered or not."""
    return [Pair(i, baseline.get(i.id), treatment.get(i.id)) for i in items]
