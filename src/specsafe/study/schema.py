"""The tables of a ledger, and how a study begins in one or is found to be the same on a resume."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from pathlib import Path

from specsafe.battery import Battery, Item
from specsafe.engines.base import Json
from specsafe.errors import UserError
from specsafe.study.digest import row_digest, seal
from specsafe.words import plural

FORMAT = 5
_TOLD = 5  # differences that one line of an error names
# What is small and always read comes before what is large and read for single items: SQLite then never
# touches the overflow pages of the latter.
SCHEMA = """
CREATE TABLE study (id TEXT PRIMARY KEY, format INTEGER NOT NULL, created TEXT NOT NULL,
  version TEXT NOT NULL, config TEXT NOT NULL, resolved TEXT NOT NULL, battery TEXT NOT NULL,
  complete INTEGER NOT NULL, sha256 TEXT NOT NULL) STRICT;
CREATE TABLE item (id TEXT PRIMARY KEY, place INTEGER NOT NULL, prompt TEXT NOT NULL, axis TEXT NOT NULL,
  task TEXT NOT NULL, category TEXT NOT NULL, cluster TEXT NOT NULL, answers TEXT NOT NULL,
  choices TEXT NOT NULL, wrong TEXT NOT NULL, published TEXT NOT NULL, scorer TEXT NOT NULL,
  sha256 TEXT NOT NULL) STRICT;
CREATE TABLE arm (role TEXT PRIMARY KEY, id TEXT NOT NULL, replicate INTEGER NOT NULL, config TEXT NOT NULL,
  planned INTEGER NOT NULL, fingerprint TEXT, sha256 TEXT NOT NULL) STRICT;
CREATE TABLE sample (study TEXT NOT NULL, arm TEXT NOT NULL, item TEXT NOT NULL, replicate INTEGER NOT NULL,
  text_sha256 TEXT NOT NULL, tokens_sha256 TEXT, tokens INTEGER, finish TEXT NOT NULL, drafted INTEGER,
  accepted INTEGER, rounds INTEGER, accepted_at TEXT, letters TEXT, prompt_tokens INTEGER,
  prefill_seconds REAL, seconds REAL, proved INTEGER NOT NULL, failed_attempts TEXT, sha256 TEXT NOT NULL,
  text TEXT NOT NULL, token_ids TEXT, logprobs TEXT, top TEXT, columns TEXT,
  PRIMARY KEY (study, arm, item, replicate)) STRICT;
CREATE TABLE failure (arm TEXT NOT NULL, item TEXT NOT NULL, replicate INTEGER NOT NULL, reason TEXT NOT NULL,
  tries INTEGER NOT NULL, sha256 TEXT NOT NULL, PRIMARY KEY (arm, item, replicate)) STRICT;
CREATE TABLE score (item TEXT NOT NULL, text_sha256 TEXT NOT NULL, scorer TEXT NOT NULL, record TEXT NOT NULL,
  sha256 TEXT NOT NULL, PRIMARY KEY (item, text_sha256, scorer)) STRICT;
CREATE TABLE event (number INTEGER PRIMARY KEY, at TEXT NOT NULL, what TEXT NOT NULL UNIQUE,
  sha256 TEXT NOT NULL) STRICT;
CREATE TABLE manifest (name TEXT PRIMARY KEY, rows INTEGER NOT NULL, sha256 TEXT NOT NULL) STRICT;
"""


def study_id(config: Json, battery: Battery) -> str:
    """The id of a study: hash of its configuration and its battery, 16 hex digits."""
    return hashlib.sha256(dump([config, battery.sha256]).encode()).hexdigest()[:16]


def begin_or_check(
    db: sqlite3.Connection,
    path: Path,
    config: Json | None,
    resolved: Json,
    battery: Battery | None,
    version: str,
) -> str:
    """Begin a study in an empty file, or check that the one there is the one asked for -> study id."""
    if not db.execute("SELECT 1 FROM sqlite_master WHERE name = 'study'").fetchone():
        if config is None or battery is None:
            raise UserError(f"there is no study in {path}", "start one without --resume")
        _begin(db, config, resolved, battery, version)
    study, kept_format, kept_config, kept_battery = db.execute(
        "SELECT id, format, config, battery FROM study"
    ).fetchone()
    if kept_format != FORMAT:
        raise UserError(
            f"{path} has ledger format {kept_format}, this specsafe writes {FORMAT}",
            "use the version that began it, or a new --out folder",
        )
    if battery is not None and battery.sha256 != kept_battery:
        raise UserError(
            f"the battery changed since this ledger began: {_battery_changes(db, battery)}",
            "restore it, or start a new --out folder",
        )
    if config is not None and json.loads(kept_config) != config:
        raise UserError(
            f"{path} belongs to another configuration: {_few(differences(json.loads(kept_config), config))}",
            "run it as it began, or name another --out folder",
        )
    return str(study)


def _begin(db: sqlite3.Connection, config: Json, resolved: Json, battery: Battery, version: str) -> None:
    study = study_id(config, battery)
    db.execute("BEGIN IMMEDIATE")  # tables and study row are there together or not at all
    for statement in filter(str.strip, SCHEMA.split(";")):
        db.execute(statement)
    db.execute(
        "INSERT INTO study VALUES (?, ?, datetime('now'), ?, ?, ?, ?, 0, '')",
        (study, FORMAT, version, dump(config), dump(resolved), battery.sha256),
    )
    seal(db, "study", "id", study)
    rows = [_item_row(i, n) for n, i in enumerate(battery.items)]
    names = ", ".join(rows[0])
    marks = ", ".join(f":{name}" for name in rows[0])
    db.executemany(
        f"INSERT INTO item ({names}, sha256) VALUES ({marks}, :sha256)",  # noqa: S608
        [{**row, "sha256": row_digest(row)} for row in rows],
    )
    db.commit()


def _item_row(item: Item, place: int) -> Json:
    """An item as its table keeps it: lists as JSON."""
    plain = ("id", "prompt", "axis", "task", "category", "cluster", "published", "scorer")
    lists = {name: dump(getattr(item, name)) for name in ("answers", "choices", "wrong")}
    return {**{name: getattr(item, name) for name in plain}, **lists, "place": place}


def _battery_changes(db: sqlite3.Connection, battery: Battery) -> str:
    kept = {i for (i,) in db.execute("SELECT id FROM item")}
    new = {i.id for i in battery.items}
    return (
        f"{plural(len(new - kept), 'item is', 'items are')} new, {plural(len(kept - new), 'is', 'are')} gone"
        if new != kept
        else "items were edited under the same ids"
    )


def differences(kept: Json, given: Json, prefix: str = "") -> str:
    """Which keys of two configurations differ, and how, in one line."""
    found: list[str] = []
    for key in sorted(set(kept) | set(given)):
        a, b = kept.get(key), given.get(key)
        if isinstance(a, dict) and isinstance(b, dict) and a != b:
            found.append(differences(a, b, f"{prefix}{key}."))
        elif a != b:
            found.append(f"{prefix}{key} was {_short(a)}, is {_short(b)}")
    return "; ".join(found)


def _few(told: str) -> str:
    """The first differences; a configuration that is wholly another one differs in everything."""
    parts = told.split("; ")
    more = [f"and {len(parts) - _TOLD} more"] if len(parts) > _TOLD else []
    return "; ".join([*parts[:_TOLD], *more])


def _short(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "…"


def dump(value: object) -> str:
    """Canonical JSON: equal values give equal bytes."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
