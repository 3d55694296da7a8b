"""The ledger: one SQLite file a study, one writer, nothing finished is ever lost.

Key (study, arm, item, replicate); inserting a key twice is a no-op that is counted. WAL with
synchronous=FULL, group commit by the executor. `item`, `arm` and `study` hold all that is needed to
recompute every number without the files that the study began from.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from specsafe.battery import Battery, Item
from specsafe.engines.base import Json, Sample
from specsafe.errors import UserError

FORMAT = 1
_SCHEMA = """
CREATE TABLE study (id TEXT PRIMARY KEY, format INTEGER NOT NULL, created TEXT NOT NULL,
  version TEXT NOT NULL, config TEXT NOT NULL, resolved TEXT NOT NULL, battery TEXT NOT NULL) STRICT;
CREATE TABLE item (id TEXT PRIMARY KEY, place INTEGER NOT NULL, prompt TEXT NOT NULL, axis TEXT NOT NULL,
  task TEXT NOT NULL, category TEXT NOT NULL, cluster TEXT NOT NULL, answers TEXT NOT NULL) STRICT;
CREATE TABLE arm (role TEXT PRIMARY KEY, id TEXT NOT NULL, replicate INTEGER NOT NULL, config TEXT NOT NULL,
  planned INTEGER NOT NULL, fingerprint TEXT) STRICT;
CREATE TABLE sample (study TEXT NOT NULL, arm TEXT NOT NULL, item TEXT NOT NULL, replicate INTEGER NOT NULL,
  text TEXT NOT NULL, text_sha256 TEXT NOT NULL, finish TEXT NOT NULL, token_ids TEXT, logprobs TEXT, top TEXT,
  drafted INTEGER, accepted INTEGER, prompt_tokens INTEGER, prefill_seconds REAL, seconds REAL,
  PRIMARY KEY (study, arm, item, replicate)) STRICT;
CREATE TABLE score (item TEXT NOT NULL, text_sha256 TEXT NOT NULL, scorer TEXT NOT NULL, record TEXT NOT NULL,
  PRIMARY KEY (item, text_sha256, scorer)) STRICT;
CREATE TABLE event (number INTEGER PRIMARY KEY, at TEXT NOT NULL, what TEXT NOT NULL) STRICT;
"""
_JSON_FIELDS = ("token_ids", "logprobs", "top")
_SAMPLE_FIELDS = tuple(f.name for f in fields(Sample))


class Ledger:
    """An open ledger that this process alone may write. Use `open_ledger`."""

    def __init__(self, connection: sqlite3.Connection, lock: int, study: str) -> None:
        self._db, self._lock, self.study = connection, lock, study
        self.duplicates = 0

    def describe_arm(self, role: str, arm: str, replicate: int, config: Json, planned: int) -> None:
        """Record that a role is played by an arm; the same again is a no-op."""
        self._db.execute(
            "INSERT OR IGNORE INTO arm VALUES (?, ?, ?, ?, ?, NULL)",
            (role, arm, replicate, _dump(config), planned),
        )
        self.commit()

    def set_fingerprint(self, role: str, fingerprint: Json) -> None:
        """Keep what ran; on a resume it must be what ran before. Raises UserError naming what differs."""
        (kept,) = self._db.execute("SELECT fingerprint FROM arm WHERE role = ?", (role,)).fetchone()
        if kept is not None and json.loads(kept) != fingerprint:
            differing = _differences(json.loads(kept), fingerprint)
            raise UserError(
                f"the {role} arm is not what this ledger began with: {differing}",
                "restore it, or start a new --out folder",
            )
        self._db.execute("UPDATE arm SET fingerprint = ? WHERE role = ?", (_dump(fingerprint), role))
        self.commit()

    def add(self, arm: str, replicate: int, sample: Sample) -> None:
        """Insert a sample (not yet committed). A key that is there already is counted, not replaced."""
        row: dict[str, Any] = asdict(sample)
        for name in _JSON_FIELDS:
            row[name] = None if row[name] is None else _dump(row[name])
        row |= {
            "study": self.study,
            "arm": arm,
            "replicate": replicate,
            "text_sha256": text_hash(sample.text),
        }
        columns = ", ".join(row)
        marks = ", ".join(f":{c}" for c in row)
        before = self._db.total_changes
        self._db.execute(f"INSERT OR IGNORE INTO sample ({columns}) VALUES ({marks})", row)  # noqa: S608
        self.duplicates += self._db.total_changes == before

    def add_scores(self, rows: Iterable[tuple[str, str, str, Json]]) -> None:
        """Insert (item, text hash, scorer id, record) rows that are not there yet, and commit."""
        self._db.executemany(
            "INSERT OR IGNORE INTO score VALUES (?, ?, ?, ?)",
            [(item, text, scorer, _dump(record)) for item, text, scorer, record in rows],
        )
        self.commit()

    def commit(self) -> None:
        """Make everything so far durable."""
        self._db.commit()

    def event(self, what: str) -> None:
        """Append a line to the study's log, with the time in UTC."""
        self._db.execute("INSERT INTO event (at, what) VALUES (datetime('now'), ?)", (what,))
        self.commit()

    def events(self) -> list[str]:
        """All events in order."""
        return [what for (what,) in self._db.execute("SELECT what FROM event ORDER BY number")]

    def config(self) -> Json:
        """The configuration that the study was asked for."""
        return dict(json.loads(self._db.execute("SELECT config FROM study").fetchone()[0]))

    def battery_sha256(self) -> str:
        """Hash of the battery that the study began with."""
        return str(self._db.execute("SELECT battery FROM study").fetchone()[0])

    def resolved(self) -> Json:
        """What was decided at the start (threads, slots, …) and is used again on a resume."""
        return dict(json.loads(self._db.execute("SELECT resolved FROM study").fetchone()[0]))

    def items(self) -> tuple[Item, ...]:
        """The battery's items as the study keeps them."""
        rows = self._db.execute(
            "SELECT prompt, axis, task, category, cluster, answers, id FROM item ORDER BY place"
        )
        return tuple(Item(p, a, t, k, c, tuple(json.loads(s)), i) for p, a, t, k, c, s, i in rows)

    def arms(self) -> dict[str, Json]:
        """Role -> {id, replicate, config, planned, fingerprint}."""
        rows = self._db.execute(
            "SELECT role, id, replicate, config, planned, fingerprint FROM arm ORDER BY rowid"
        )
        return {
            role: {
                "id": arm,
                "replicate": replicate,
                "config": json.loads(config),
                "planned": planned,
                "fingerprint": json.loads(seen) if seen else None,
            }
            for role, arm, replicate, config, planned, seen in rows
        }

    def answered(self, arm: str, replicate: int) -> set[str]:
        """Ids of the items that an arm has answered in a replicate."""
        rows = self._db.execute("SELECT item FROM sample WHERE arm = ? AND replicate = ?", (arm, replicate))
        return {item for (item,) in rows}

    def samples(self, arm: str, replicate: int) -> dict[str, Sample]:
        """Item -> Sample of an arm in a replicate."""
        columns = ", ".join(_SAMPLE_FIELDS)
        query = f"SELECT {columns} FROM sample WHERE arm = ? AND replicate = ?"  # noqa: S608 (our own columns)
        rows = self._db.execute(query, (arm, replicate))
        return {sample.item: sample for sample in map(_sample, rows)}

    def scores(self, scorer: str) -> dict[tuple[str, str], Json]:
        """(item, text hash) -> record, for one scorer id."""
        rows = self._db.execute("SELECT item, text_sha256, record FROM score WHERE scorer = ?", (scorer,))
        return {(item, text): json.loads(record) for item, text, record in rows}

    def close(self) -> None:
        """Close the file and give the lock back."""
        self._db.close()
        os.close(self._lock)


@contextmanager
def open_ledger(
    path: Path, config: Json | None, resolved: Json, battery: Battery | None, version: str
) -> Iterator[Ledger]:
    """Open the ledger at `path` for writing, creating it if it is not there.

    config None: continue whatever the ledger holds. Otherwise config and battery must equal what the
    ledger began with. Raises UserError where they do not, where another process writes to it, and where
    the folder cannot be written.
    """
    lock = _lock(path)
    try:
        connection = sqlite3.connect(path, isolation_level="DEFERRED", check_same_thread=False)
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        study = _begin_or_check(connection, path, config, resolved, battery, version)
        ledger = Ledger(connection, lock, study)
    except BaseException:
        os.close(lock)
        raise
    try:
        yield ledger
    finally:
        ledger.close()


def has_study(path: Path) -> bool:
    """Whether a study was begun in this file. Raises sqlite3.DatabaseError if it is no SQLite file."""
    if not path.exists():
        return False
    db = sqlite3.connect(path)
    try:
        return db.execute("SELECT 1 FROM sqlite_master WHERE name = 'study'").fetchone() is not None
    finally:
        db.close()


@contextmanager
def storage_errors(folder: Path) -> Iterator[None]:
    """Turn what a full, read-only or damaged disk raises into one line for the user."""
    try:
        yield
    except (sqlite3.DatabaseError, OSError) as error:
        raise UserError(
            f"cannot use {folder}: {error}",
            "name a writable --out folder or make room, then run the same command: committed answers are kept",
        ) from error


def study_id(config: Json, battery: Battery) -> str:
    """The id of a study: hash of its configuration and its battery, 16 hex digits."""
    return hashlib.sha256(_dump([config, battery.sha256]).encode()).hexdigest()[:16]


def text_hash(text: str) -> str:
    """SHA-256 of an answer's UTF-8 bytes, as hex."""
    return hashlib.sha256(text.encode()).hexdigest()


def _lock(path: Path) -> int:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(handle)
        raise UserError(
            f"another screen is writing to {path}", "wait for it, or name another --out folder"
        ) from error
    return handle


def _begin_or_check(
    db: sqlite3.Connection,
    path: Path,
    config: Json | None,
    resolved: Json,
    battery: Battery | None,
    version: str,
) -> str:
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
            f"{path} belongs to another configuration: {_differences(json.loads(kept_config), config)}",
            "run it as it began, or name another --out folder",
        )
    return str(study)


def _begin(db: sqlite3.Connection, config: Json, resolved: Json, battery: Battery, version: str) -> None:
    study = study_id(config, battery)
    db.execute("BEGIN IMMEDIATE")  # tables and study row are there together or not at all
    for statement in filter(str.strip, _SCHEMA.split(";")):
        db.execute(statement)
    db.execute(
        "INSERT INTO study VALUES (?, ?, datetime('now'), ?, ?, ?, ?)",
        (study, FORMAT, version, _dump(config), _dump(resolved), battery.sha256),
    )
    db.executemany(
        "INSERT INTO item VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        [
            (i.id, n, i.prompt, i.axis, i.task, i.category, i.cluster, _dump(i.answers))
            for n, i in enumerate(battery.items)
        ],
    )
    db.commit()


def _battery_changes(db: sqlite3.Connection, battery: Battery) -> str:
    kept = {i for (i,) in db.execute("SELECT id FROM item")}
    new = {i.id for i in battery.items}
    return (
        f"{len(new - kept)} items are new, {len(kept - new)} are gone"
        if new != kept
        else "items were edited under the same ids"
    )


def _differences(kept: Json, given: Json, prefix: str = "") -> str:
    found: list[str] = []
    for key in sorted(set(kept) | set(given)):
        a, b = kept.get(key), given.get(key)
        if isinstance(a, dict) and isinstance(b, dict) and a != b:
            found.append(_differences(a, b, f"{prefix}{key}."))
        elif a != b:
            found.append(f"{prefix}{key} was {_short(a)}, is {_short(b)}")
    return "; ".join(found)


def _short(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "…"


def _sample(row: tuple[Any, ...]) -> Sample:
    values = dict(zip(_SAMPLE_FIELDS, row, strict=True))
    for name in _JSON_FIELDS:
        values[name] = None if values[name] is None else _tuples(json.loads(values[name]))
    return Sample(**values)


def _tuples(value: Any) -> Any:
    return tuple(_tuples(v) for v in value) if isinstance(value, list) else value


def _dump(value: object) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
