"""From a ledger to the tables that every pass reads: rows with their labels, forks, and what ran."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from specsafe.analysis.tables import Earlier, Row, Tables
from specsafe.battery import AXES, Item
from specsafe.engines.base import Json
from specsafe.scoring import HARM, SCORERS, is_guard
from specsafe.screen.controls import stand_ins
from specsafe.screen.forks import compare
from specsafe.screen.pairs import Labels, Outcome, by_scorer
from specsafe.screen.result import Contrast as Forks
from specsafe.study.answers import Answer, Answers
from specsafe.study.cells import Cell
from specsafe.study.ledger import Ledger

_WORD = re.compile(r"\w+")
_OPENING = 5  # words
Made = tuple[str, int]  # arm id, replicate


def read_tables(
    ledger: Ledger,
    cells: Sequence[Cell],
    *,
    margin: float = 0.03,
    alpha: float = 0.05,
    power: float = 0.8,
    draws: int = 2_000,
    tasks: Mapping[str, Sequence[str]] | None = None,
    earlier: tuple[Earlier, ...] = (),
) -> Tables:
    """The tables of a study. Answers are read once an arm and sample, however many cells share them.

    tasks: the protocol's names of tasks -> ids of their items. Scores that are missing are added to the ledger.
    """
    named = {i: task for task, ids in (tasks or {}).items() for i in ids}
    items = {i.id: replace(i, task=named.get(i.id, i.task)) for i in ledger.items()}
    arms, labels = ledger.arms(), Labels(ledger)
    made = {key: ledger.answers(*key) for key in _made(cells, arms)}
    rows = {key: _rows(items, answers, labels) for key, answers in made.items()}
    kept = {c.key: _of_cell(c, arms, rows) for c in cells}
    return Tables(
        items=items,
        cells={c.key: c for c in cells},
        rows=kept,
        margin=margin,
        alpha=alpha,
        power=power,
        draws=draws,
        failed={c.key: _failed(ledger, c, arms) for c in cells},
        arms=arms,
        forks=_forks(items, cells, arms, made),
        stand_ins=_stand_ins(list(items.values()), labels),
        judge={**_labels_of(ledger, "judge"), **_guards(ledger)},
        human=_labels_of(ledger, "human"),
        earlier=earlier,
    )


def _labels_of(ledger: Ledger, kind: str) -> dict[str, dict[tuple[str, str], str]]:
    """Rater -> labels, of the raters of a kind."""
    return {who: ledger.labels(who) for who in ledger.scorers() if who.startswith(f"{kind}:")}


def _guards(ledger: Ledger) -> dict[str, dict[tuple[str, str], str]]:
    """Guard -> what its Refusal lines say, as a judge would."""
    said = {True: "refusal", False: "compliance", None: "unclear"}
    return {
        who.partition("@")[0]: {key: said[record["refusal"]] for key, record in ledger.scores(who).items()}
        for who in ledger.scorers()
        if is_guard(who)
    }


def _made(cells: Iterable[Cell], arms: Mapping[str, Json]) -> list[Made]:
    """(arm id, replicate) of all that the cells look at and that was begun."""
    return list(dict.fromkeys((arms[c.arm]["id"], r) for c in cells if c.arm in arms for r in c.replicates))


def _of_cell(
    cell: Cell, arms: Mapping[str, Json], rows: Mapping[Made, Mapping[str, Row]]
) -> dict[tuple[str, int], Row]:
    if cell.arm not in arms:
        return {}
    arm = arms[cell.arm]["id"]
    return {(i, r): row for r in cell.replicates for i in cell.items if (row := rows[arm, r].get(i))}


def _failed(ledger: Ledger, cell: Cell, arms: Mapping[str, Json]) -> frozenset[tuple[str, int]]:
    if cell.arm not in arms:
        return frozenset()
    arm, mine = arms[cell.arm]["id"], set(cell.items)
    return frozenset((f.item, r) for r in cell.replicates for f in ledger.failures(arm, r) if f.item in mine)


def _rows(items: Mapping[str, Item], answers: Answers, labels: Labels) -> dict[str, Row]:
    """Item -> scored answer of one arm and sample."""
    answered = [items[i] for i in answers if i in items]
    said: dict[str, tuple[str, str]] = {}
    for scorer, group in by_scorer(answered).items():
        chosen = SCORERS[scorer].id
        said |= {i: (label, chosen) for i, label in labels.labels(scorer, group, answers).items()}
    refusing = {i for i, (label, _) in said.items() if label == "refusal"}
    openings = {i: _opening(text) for i, text in answers.texts(refusing).items()} if refusing else {}
    return {
        item.id: _row(item, answers[item.id], *said.get(item.id, ("", "")), openings.get(item.id))
        for item in answered
    }


def _row(item: Item, answer: Answer, label: str, scorer: str, opening: str | None) -> Row:
    return Row(
        harm=HARM[item.axis].get(label),
        label=label,
        scorer=scorer,
        text_sha256=answer.text_sha256,
        tokens_sha256=answer.tokens_sha256,
        tokens=answer.tokens,
        truncated=answer.finish == "length",
        drafted=answer.drafted,
        accepted=answer.accepted,
        rounds=answer.rounds,
        accepted_at=tuple(json.loads(answer.accepted_at)) if answer.accepted_at else None,
        seconds=(answer.prefill_seconds or 0.0) + answer.seconds if answer.seconds else None,
        opening=opening,
    )


def _opening(text: str) -> str:
    """Hash of the first words: nothing of the text leaves the ledger."""
    words = _WORD.findall(text[:400].lower().replace("\u2019", "'"))[:_OPENING]
    return hashlib.sha256(" ".join(words).encode()).hexdigest()[:16]


def _forks(
    items: Mapping[str, Item], cells: Sequence[Cell], arms: Mapping[str, Json], made: Mapping[Made, Answers]
) -> dict[str, Forks]:
    """Forks of every cell of temperature 0 against its baseline, where both tell tokens."""
    by_key = {c.key: c for c in cells}
    found: dict[str, Forks] = {}
    known: dict[tuple[Made, Made, tuple[str, ...]], Forks] = {}
    for cell in cells:
        base = by_key.get(cell.baseline)
        if base is None or cell.temperature > 0 or cell.arm not in arms or base.arm not in arms:
            continue
        one, other = (arms[base.arm]["id"], base.replicates[0]), (arms[cell.arm]["id"], cell.replicates[0])
        place = (one, other, cell.items)
        if place not in known:
            known[place] = compare(cell.part, [items[i] for i in cell.items], made[one], made[other])
        if known[place].compared:
            found[cell.key] = known[place]
    return found


def _stand_ins(items: Sequence[Item], labels: Labels) -> dict[str, Outcome]:
    return {
        i: outcome
        for axis in AXES
        for i, outcome in stand_ins(axis, [x for x in items if x.axis == axis], labels).items()
    }
