"""The ledger: one SQLite file a study, one writer, nothing finished is ever lost.

Key (study, arm, item, replicate); inserting a key twice is a no-op that is counted. WAL with
synchronous=FULL, group commit by the executor. `item`, `arm` and `study` hold all that is needed to
recompute every number without the files that the study began from.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import sqlite3
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any
from urllib.parse import quote

from specsafe.battery import Battery, Item
from specsafe.engines.base import Failure, Json, Sample
from specsafe.errors import UserError
from specsafe.study.answers import Answer, Answers, heavy_part, light_part, read_tokens
from specsafe.study.digest import row_digest, seal, write_manifest
from specsafe.study.schema import begin_or_check, differences, dump

_ANSWER_FIELDS = tuple(f.name for f in fields(Answer))
LEDGER = "ledger.sqlite"
_MANY = 500  # items asked for in one query
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM}
_NO_ROOM_SQLITE = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_PERM}
_IN_USE = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}


class Ledger:
    """An open ledger that this process alone may write. Use `open_ledger`."""

    def __init__(self, connection: sqlite3.Connection, lock: int | None, study: str) -> None:
        self._db, self._lock, self.study = connection, lock, study
        self.duplicates = 0

    def describe_arm(self, role: str, arm: str, replicate: int, config: Json, planned: int) -> None:
        """Record that a role is played by an arm; the same again is a no-op."""
        row = {"role": role, "id": arm, "replicate": replicate, "config": dump(config), "planned": planned}
        self._insert("arm", {**row, "fingerprint": None})
        self.commit()

    def set_fingerprint(self, role: str, fingerprint: Json) -> None:
        """Keep what ran; on a resume it must be what ran before. Raises UserError naming what differs."""
        (kept,) = self._db.execute("SELECT fingerprint FROM arm WHERE role = ?", (role,)).fetchone()
        if kept is not None and json.loads(kept) != fingerprint:
            differing = differences(json.loads(kept), fingerprint)
            raise UserError(
                f"the {role} arm is not what this ledger began with: {differing}",
                "restore it, or start a new --out folder",
            )
        self._db.execute("UPDATE arm SET fingerprint = ? WHERE role = ?", (dump(fingerprint), role))
        seal(self._db, "arm", "role", role)
        self.commit()

    def add(self, arm: str, replicate: int, answer: Sample | Failure) -> None:
        """Insert what was answered (not yet committed). A key that is there already is counted, not replaced."""
        if isinstance(answer, Failure):
            row = {"arm": arm, "item": answer.item, "replicate": replicate}
            self._insert("failure", {**row, "reason": answer.reason, "tries": answer.tries})
            return
        light = light_part(answer)
        kept: Json = {name: getattr(light, name) for name in _ANSWER_FIELDS}
        kept |= {"study": self.study, "arm": arm, "replicate": replicate}
        kept |= {"text": answer.text, "prompt_tokens": answer.prompt_tokens, **heavy_part(answer)}
        self.duplicates += not self._insert("sample", kept)

    def _insert(self, table: str, row: Json) -> bool:
        """Insert a row with its hash unless its key is there -> whether it was inserted."""
        columns, marks = ", ".join(row), ", ".join(f":{c}" for c in row)
        before = self._db.total_changes
        self._db.execute(
            f"INSERT OR IGNORE INTO {table} ({columns}, sha256) VALUES ({marks}, :sha256)",  # noqa: S608
            {**row, "sha256": row_digest(row)},
        )
        return self._db.total_changes > before

    def add_scores(self, rows: Iterable[tuple[str, str, str, Json]]) -> None:
        """Insert (item, text hash, scorer id, record) rows that are not there yet, and commit."""
        if self._lock is None:
            return
        for item, text, scorer, record in rows:
            row = {"item": item, "text_sha256": text, "scorer": scorer, "record": dump(record)}
            self._insert("score", row)
        self.commit()

    def commit(self) -> None:
        """Make everything so far durable."""
        self._db.commit()

    def event(self, what: str) -> None:
        """Append a line to the study's log, with the time in UTC; the same line again is a no-op."""
        made = self._db.execute(
            "INSERT OR IGNORE INTO event (at, what, sha256) VALUES (datetime('now'), ?, '')", (what,)
        )
        if made.rowcount:
            seal(self._db, "event", "number", made.lastrowid)
        self.commit()

    def set_complete(self) -> None:
        """All that was planned is answered or has failed: from now on the study is only analysed."""
        self._db.execute("UPDATE study SET complete = 1")
        seal(self._db, "study", "id", self.study)
        write_manifest(self._db)
        self.commit()

    @property
    def path(self) -> Path:
        """The file."""
        return Path(self._db.execute("PRAGMA database_list").fetchone()[2])

    @property
    def complete(self) -> bool:
        """Whether nothing is left to be asked."""
        return bool(self._db.execute("SELECT complete FROM study").fetchone()[0])

    def events(self) -> list[str]:
        """All events in order."""
        return [what for (what,) in self._db.execute("SELECT what FROM event ORDER BY number")]

    def config(self) -> Json:
        """The configuration that the study was asked for."""
        return dict(json.loads(self._db.execute("SELECT config FROM study").fetchone()[0]))

    @property
    def created(self) -> str:
        """When the study began, in UTC."""
        return str(self._db.execute("SELECT created FROM study").fetchone()[0])

    def battery_sha256(self) -> str:
        """Hash of the battery that the study began with."""
        return str(self._db.execute("SELECT battery FROM study").fetchone()[0])

    def resolved(self) -> Json:
        """What was decided at the start (threads, slots, …) and is used again on a resume."""
        return dict(json.loads(self._db.execute("SELECT resolved FROM study").fetchone()[0]))

    def add_resolved(self, more: Json) -> None:
        """Keep something that was decided later; what is there already stays."""
        kept = {**more, **self.resolved()}
        self._db.execute("UPDATE study SET resolved = ?", (dump(kept),))
        seal(self._db, "study", "id", self.study)
        self.commit()

    def items(self) -> tuple[Item, ...]:
        """The battery's items as the study keeps them."""
        rows = self._db.execute(
            "SELECT prompt, axis, task, category, cluster, answers, choices, wrong, published, scorer, id "
            "FROM item ORDER BY place"
        )
        return tuple(
            Item(p, a, t, k, c, _list(yes), _list(options), _list(no), published, scorer, i)
            for p, a, t, k, c, yes, options, no, published, scorer, i in rows
        )

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

    def settled(self, arm: str, replicate: int) -> set[str]:
        """Ids of the items that an arm has answered in a replicate, or has failed on for good."""
        rows = self._db.execute(
            "SELECT item FROM sample WHERE study = ?1 AND arm = ?2 AND replicate = ?3 "
            "UNION SELECT item FROM failure WHERE arm = ?2 AND replicate = ?3",
            (self.study, arm, replicate),
        )
        return {item for (item,) in rows}

    def failures(self, arm: str, replicate: int) -> list[Failure]:
        """Items that an arm could not answer in a replicate, by id."""
        rows = self._db.execute(
            "SELECT item, reason, tries FROM failure WHERE arm = ? AND replicate = ? ORDER BY item",
            (arm, replicate),
        )
        return [Failure(*row) for row in rows]

    def answers(self, arm: str, replicate: int) -> Answers:
        """What an arm answered in a replicate: the light part of every answer, the rest on demand."""
        query = (
            f"SELECT {', '.join(_ANSWER_FIELDS)} FROM sample WHERE study = ? AND arm = ? AND replicate = ?"  # noqa: S608
        )
        light = {row[0]: Answer(*row) for row in self._db.execute(query, (self.study, arm, replicate))}
        return Answers(
            light,
            lambda items: {
                item: read_tokens(ids, logprobs, top)
                for item, ids, logprobs, top in self._of(
                    arm, replicate, items, "item, token_ids, logprobs, top"
                )
                if ids is not None
            },
            lambda items: dict(self._of(arm, replicate, items, "item, text")),
        )

    def columns(
        self, arm: str, replicate: int, names: Collection[str]
    ) -> dict[str, dict[str, list[float | None]]]:
        """Item -> telemetry of these names, a value a token; a name that an arm does not tell is left out."""
        query = "SELECT item, columns FROM sample WHERE study = ? AND arm = ? AND replicate = ? AND columns NOT NULL"
        told = {i: json.loads(c) for i, c in self._db.execute(query, (self.study, arm, replicate))}
        return {item: {n: c[n] for n in names if n in c} for item, c in told.items()}

    def _of(
        self, arm: str, replicate: int, items: Collection[str], columns: str
    ) -> Iterator[tuple[Any, ...]]:
        wanted = sorted(items)
        for start in range(0, len(wanted), _MANY):
            part = wanted[start : start + _MANY]
            marks = ", ".join("?" * len(part))
            query = f"SELECT {columns} FROM sample WHERE study = ? AND arm = ? AND replicate = ? AND item IN ({marks})"  # noqa: S608
            yield from self._db.execute(query, (self.study, arm, replicate, *part))

    def labels(self, scorer: str) -> dict[tuple[str, str], str]:
        """(item, text hash) -> label, for one scorer id."""
        query = "SELECT item, text_sha256, json_extract(record, '$.label') FROM score WHERE scorer = ?"
        return {(item, text): label for item, text, label in self._db.execute(query, (scorer,))}

    def scores(self, scorer: str) -> dict[tuple[str, str], Json]:
        """(item, text hash) -> the whole record, for one scorer id."""
        query = "SELECT item, text_sha256, record FROM score WHERE scorer = ?"
        return {(item, text): json.loads(record) for item, text, record in self._db.execute(query, (scorer,))}

    def scorers(self) -> dict[str, int]:
        """Scorer id -> how many texts it has scored here."""
        return dict(self._db.execute("SELECT scorer, count(*) FROM score GROUP BY scorer ORDER BY scorer"))

    def sizes(self) -> dict[str, int]:
        """Table -> rows, of the tables that answers and what is known of them are in."""
        tables = ("item", "arm", "sample", "failure", "score", "event")
        return {t: self._db.execute(f"SELECT count(*) FROM {t}").fetchone()[0] for t in tables}  # noqa: S608

    def close(self) -> None:
        """Close the file and give the lock back."""
        self._db.close()
        if self._lock is not None:
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
        study = begin_or_check(connection, path, config, resolved, battery, version)
        ledger = Ledger(connection, lock, study)
    except BaseException:
        os.close(lock)
        raise
    try:
        yield ledger
    finally:
        ledger.close()


def ledger_path(given: Path) -> Path:
    """A ledger file as it is, a screen's folder as the ledger in it. Raises UserError if there is none."""
    path = given / LEDGER if given.is_dir() else given
    if not path.is_file():
        raise UserError(f"no ledger at {path}", "name a ledger.sqlite, or the folder of a screen or a study")
    return path


@contextmanager
def read_ledger(path: Path) -> Iterator[Ledger]:
    """Open a ledger for reading alone, also while a screen writes to it or where nothing may be written.

    Scores that are missing are then computed and not kept. Raises UserError if it is no ledger.
    """
    path = ledger_path(path)
    db = connect_to_read(path)
    try:
        known = db.execute("SELECT 1 FROM sqlite_master WHERE name = 'study'").fetchone()
        if not known or not db.execute("SELECT 1 FROM study").fetchone():
            raise UserError(
                f"there is no study in {path}", "name a ledger.sqlite, or the folder of a screen or a study"
            )
        yield Ledger(db, None, begin_or_check(db, path, None, {}, None, ""))
    finally:
        db.close()


def connect_to_read(path: Path) -> sqlite3.Connection:
    """A connection that writes nothing, also where nothing may be written."""
    wal = path.with_name(path.name + "-wal")
    quiet = not (wal.exists() and wal.stat().st_size) and not os.access(path.parent, os.W_OK)
    options = "mode=ro&immutable=1" if quiet else "mode=ro"
    return sqlite3.connect(f"file:{quote(os.fsencode(path.absolute()))}?{options}", uri=True)


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
def storage_errors(folder: Path, ledger: Path | None = None) -> Iterator[None]:
    """Turn what a full, read-only or damaged disk raises into one line for the user.

    ledger: the file that is read, if it is not the one in this folder.
    """
    room = "name a writable --out folder or make room, then run the same command: committed answers are kept"
    try:
        yield
    except (sqlite3.DatabaseError, UnicodeDecodeError) as error:  # SQLite quotes damaged names in its errors
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF  # the rest of it is detail
        if code in _NO_ROOM_SQLITE:
            raise UserError(f"cannot use {folder}: {error}", room) from error
        hint = (
            "another program is using it: wait for it" if code in _IN_USE else "it cannot be read as a ledger"
        )
        raise UserError(f"cannot use {ledger or folder / LEDGER}: {error}", hint) from error
    except OSError as error:
        hint = room if error.errno in _NO_ROOM else "name another folder"
        raise UserError(f"cannot use {folder}: {error}", hint) from error


def _lock(path: Path) -> int:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(handle)
        raise UserError(f"another run is writing to {path}", "wait for it, or use another folder") from error
    return handle


def _list(value: str) -> tuple[str, ...]:
    return tuple(json.loads(value))
