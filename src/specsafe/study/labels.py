"""What people call the answers of a study, or a judge model that ran elsewhere: a sheet out, labels in."""

from __future__ import annotations

import csv
import hashlib
import io
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from specsafe.errors import UserError
from specsafe.scoring import LABELS, RATERS, REFUSAL_AXES
from specsafe.study.ledger import Ledger
from specsafe.study.reading import cells_of, protocol_of, role_of
from specsafe.words import plural

SHEET = "labels.csv"
COLUMNS = ("answer", "prompt", "text", "label", "note")
_NAME = re.compile(r"\w[\w .-]{0,59}")
Key = tuple[str, str]  # item, hash of the text


class ToLabel(NamedTuple):
    """One distinct answer to an item. id: tells nothing of the arms that gave it, nor of what a scorer says."""

    id: str
    prompt: str
    text: str


class Given(NamedTuple):
    """A file of labels: answer id -> (label, note), and how many of its rows have no label yet."""

    labels: dict[str, tuple[str, str]]
    blank: int


class Added(NamedTuple):
    """Labels that are new, and all of that rater."""

    new: int
    all: int


def answer_id(key: Key) -> str:
    """The name of a distinct answer in a sheet. It begins with a letter: no spreadsheet takes it for a number."""
    return f"a{hashlib.sha256(' '.join(key).encode()).hexdigest()[:16]}"


def to_label(ledger: Ledger) -> list[ToLabel]:
    """Distinct answers on axes of refusals, without the controls, in an order that is chance: any beginning is a sample of all.

    As many as the protocol's `labels.human` says, where it says so.
    """
    prompts = {i.id: i.prompt for i in ledger.items() if i.axis in REFUSAL_AXES}
    found: dict[Key, str] = {}
    roles = {role_of(c.arm, r) for c in cells_of(ledger) if c.part != "control" for r in c.replicates}
    for role, arm in ledger.arms().items():
        if role not in roles:
            continue
        answers = ledger.answers(arm["id"], arm["replicate"])
        keys = {i: (i, a.text_sha256) for i, a in answers.items() if i in prompts}
        texts = answers.texts([i for i, key in keys.items() if key not in found])
        found |= {keys[i]: text for i, text in texts.items()}
    quota = protocol_of(ledger).labels
    rows = sorted(ToLabel(answer_id(key), prompts[key[0]], text) for key, text in found.items())
    return rows[: quota.human] if quota else rows


def _keys(ledger: Ledger) -> Iterator[Key]:
    """Every answer that may be labelled, controls too."""
    items = {i.id for i in ledger.items() if i.axis in REFUSAL_AXES}
    for arm in ledger.arms().values():
        for item, answer in ledger.answers(arm["id"], arm["replicate"]).items():
            if item in items:
                yield item, answer.text_sha256


def read_labels(path: Path) -> Given:
    """The labels of a sheet. Raises UserError for what is no sheet, for an unknown label, and for two labels of one answer."""
    csv.field_size_limit(1 << 30)  # answers may be long
    try:
        text = path.read_text(encoding="utf-8-sig")
        # a spreadsheet saves with what its country parts lists with
        parted = max(",;\t", key=text.partition("\n")[0].count)
        reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=parted)
        missing = [c for c in ("answer", "label") if c not in (reader.fieldnames or ())]
        if missing:
            raise UserError(
                f"{path} has no column {missing[0]}",
                f"write a sheet with specsafe study export FOLDER --sheet; its columns: {', '.join(COLUMNS)}",
            )
        rows = [
            (n, {k: (v or "").strip() for k, v in row.items() if k in COLUMNS})
            for n, row in enumerate(reader, 2)
        ]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"cannot read {path}: {error}", "name a CSV file in UTF-8") from error
    found: dict[str, tuple[str, str]] = {}
    for n, row in rows:
        label = row["label"].lower().replace(" ", "_")
        if not label:
            continue
        if label not in LABELS:
            raise UserError(f"{path}, row {n}: no label {row['label']!r}", f"labels: {', '.join(LABELS)}")
        if found.setdefault(row["answer"], (label, row.get("note", "")))[0] != label:
            raise UserError(f"{path}, row {n}: answer {row['answer']} has two labels", "leave one of them")
    return Given(found, sum(not row["label"] for _, row in rows))


def rater(kind: str, name: str) -> str:
    """The scorer id of who labelled. kind: of RATERS. Raises UserError for a name that is none."""
    if kind not in RATERS or not _NAME.fullmatch(name):
        raise UserError(f"no name of a rater: {name!r}", "use letters, digits, spaces, dots and dashes")
    return f"{kind}:{name}"


def add_labels(ledger: Ledger, who: str, given: Given) -> Added:
    """Keep labels in the ledger under a rater's id, with the time. Labels are added and never changed.

    Raises UserError for an id that is no answer of the study, and where that rater called an answer otherwise before.
    """
    keys = {answer_id(key): key for key in _keys(ledger)}
    unknown = [a for a in given.labels if a not in keys]
    if unknown:
        raise UserError(
            f"{plural(len(unknown), 'id is', 'ids are')} no answer of this study, such as {unknown[0]!r}",
            "name the folder that the sheet was written from",
        )
    kept, at = ledger.labels(who), datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S")
    for a, (label, _) in given.labels.items():
        before = kept.get(keys[a], label)
        if before != label:
            raise UserError(
                f"{who} called {a} {before} before, and {label} now",
                "give a second look a name of its own, such as NAME again",
            )
    new = {a: said for a, said in given.labels.items() if keys[a] not in kept}
    ledger.add_scores(
        (*keys[a], who, {"label": label, "note": note, "at": at}) for a, (label, note) in new.items()
    )
    return Added(len(new), len(kept) + len(new))
