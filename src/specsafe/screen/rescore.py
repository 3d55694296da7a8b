"""Score every answer of a ledger again with the scorers of this version; nothing is generated."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from specsafe.scoring import BESIDE, SCORERS
from specsafe.screen.pairs import Labels, by_scorer
from specsafe.study.ledger import Ledger


@dataclass(frozen=True)
class Scored:
    """One scorer: its id, the texts that it had not seen in this version, and its labels by role."""

    scorer: str
    decides: bool
    new: int
    labels: dict[str, dict[str, int]]


def score_again(ledger: Ledger, only: str | None = None) -> list[Scored]:
    """Label every answer by the scorers that its item has; a text that is known by scorer id is not scored twice."""
    items, arms, labels = ledger.items(), ledger.arms(), Labels(ledger)
    answers = {role: ledger.answers(arm["id"], arm["replicate"]) for role, arm in arms.items()}
    found: list[Scored] = []
    for own, group in by_scorer(items).items():
        for scorer in (own, *(name for name, _ in BESIDE[own])):
            if only not in (None, scorer):
                continue
            before = labels.computed
            counts = {role: Counter(labels.labels(scorer, group, a).values()) for role, a in answers.items()}
            by_role = {role: dict(sorted(c.items())) for role, c in counts.items() if c}
            found.append(Scored(SCORERS[scorer].id, scorer == own, labels.computed - before, by_role))
    return found
