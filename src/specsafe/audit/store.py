"""What was audited already: a small SQLite file beside the result, so that a killed audit goes on where it was.

A row belongs to a target arm and to everything that was looked at; a changed answer or target is audited anew.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from specsafe.engines.base import Audited, Failure, Json
from specsafe.study.ledger import storage_errors
from specsafe.study.schema import dump

STORE = "audit.sqlite"
_SCHEMA = """
CREATE TABLE IF NOT EXISTS target (arm TEXT PRIMARY KEY, fingerprint TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS audited (arm TEXT NOT NULL, claim TEXT NOT NULL, tokens INTEGER, retokenized INTEGER,
  fork INTEGER, gap REAL, rank INTEGER, seconds REAL, reason TEXT, PRIMARY KEY (arm, claim)) STRICT;
CREATE TABLE IF NOT EXISTS calibration (arm TEXT NOT NULL, answers TEXT NOT NULL, found TEXT NOT NULL,
  PRIMARY KEY (arm, answers)) STRICT;
"""


class Row(NamedTuple):
    """What is kept of an audited answer; reason: why it could not be audited, the rest is then None."""

    tokens: int | None
    retokenized: bool
    fork: int | None
    gap: float | None
    rank: int | None
    seconds: float | None
    reason: str | None


class Store:
    """The rows of one target arm. Use `open_store`."""

    def __init__(self, db: sqlite3.Connection, arm: str) -> None:
        self._db, self._arm = db, arm

    def fingerprint(self) -> Json | None:
        """What ran when this arm first audited; None if it never did."""
        row = self._db.execute("SELECT fingerprint FROM target WHERE arm = ?", (self._arm,)).fetchone()
        return None if row is None else dict(json.loads(row[0]))

    def set_fingerprint(self, fingerprint: Json) -> None:
        """Keep what runs."""
        self._db.execute("INSERT OR IGNORE INTO target VALUES (?, ?)", (self._arm, dump(fingerprint)))
        self._db.commit()

    def calibration(self, answers: str) -> Json | None:
        """What was found when these answers were asked for; None if it never was."""
        query = "SELECT found FROM calibration WHERE arm = ? AND answers = ?"
        row = self._db.execute(query, (self._arm, answers)).fetchone()
        return None if row is None else dict(json.loads(row[0]))

    def set_calibration(self, answers: str, found: Json) -> None:
        """Keep what a calibration found."""
        self._db.execute(
            "INSERT OR IGNORE INTO calibration VALUES (?, ?, ?)", (self._arm, answers, dump(found))
        )
        self._db.commit()

    def rows(self) -> dict[str, Row]:
        """Claim key -> what is known of it."""
        query = (
            "SELECT claim, tokens, retokenized, fork, gap, rank, seconds, reason FROM audited WHERE arm = ?"
        )
        return {claim: Row(*rest) for claim, *rest in self._db.execute(query, (self._arm,))}

    def add(self, claim: str, found: Audited | Failure) -> None:
        """Keep what was found, durably; what is there already stays."""
        values = (
            (None, None, None, None, None, None, found.reason)
            if isinstance(found, Failure)
            else (found.tokens, found.retokenized, found.fork, found.gap, found.rank, found.seconds, None)
        )
        marks = "?, ?, ?, ?, ?, ?, ?, ?, ?"
        self._db.execute(f"INSERT OR IGNORE INTO audited VALUES ({marks})", (self._arm, claim, *values))  # noqa: S608
        self._db.commit()


@contextmanager
def open_store(folder: Path, arm: str) -> Iterator[Store]:
    """The store in a folder, made if it is not there. Raises UserError where it cannot be used."""
    with storage_errors(folder, folder / STORE):
        folder.mkdir(parents=True, exist_ok=True)
        db = sqlite3.connect(folder / STORE, timeout=30)
        try:
            db.execute("PRAGMA journal_mode=WAL")
            db.execute("PRAGMA synchronous=FULL")
            db.executescript(_SCHEMA)
            yield Store(db, arm)
        finally:
            db.close()
