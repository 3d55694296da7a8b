"""Is a ledger what was written? Every row, the configuration and the manifest, held against their hashes."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from typing import Any

from specsafe.battery import Battery
from specsafe.study.answers import text_hash
from specsafe.study.digest import MANIFEST, row_digest, table_digest
from specsafe.study.ledger import Ledger, connect_to_read
from specsafe.study.schema import SCHEMA, study_id

# What names a row of a table to a reader.
_KEYS = {
    "study": ("id",),
    "item": ("id",),
    "arm": ("role",),
    "sample": ("arm", "item", "replicate"),
    "failure": ("arm", "item", "replicate"),
    "score": ("item", "scorer"),
    "event": ("number",),
}
# Columns of a sample that have a hash of their own, by which a change can be placed.
_TOLD = {"text": "text_sha256", "token_ids": "tokens_sha256"}


def verify(ledger: Ledger) -> list[str]:
    """What does not match its hash, a line each; empty if all of the ledger is what was written.

    Costs one reading of the whole file. Bytes that SQLite does not use (free pages) are not looked at.
    """
    try:
        with closing(connect_to_read(ledger.path)) as db:
            db.text_factory = bytes  # a flipped byte may be no UTF-8 any more
            problems = list(_tables(db))
            if not problems:
                problems = [*_file(db), *(p for table in _KEYS for p in _rows(db, table)), *_manifest(db)]
        return problems or list(_study(ledger))
    except (sqlite3.DatabaseError, UnicodeDecodeError) as error:  # SQLite quotes damaged names in its errors
        return [f"the file is damaged: {error}"]


def _file(db: sqlite3.Connection) -> Iterator[str]:
    for (line,) in db.execute("PRAGMA integrity_check"):
        if line != b"ok":
            yield f"SQLite: {_text(line)}"


def _tables(db: sqlite3.Connection) -> Iterator[str]:
    """Tables that are not declared as this version declares them; their rows cannot be read for what they are."""
    declared = {_text(sql) for (sql,) in db.execute("SELECT sql FROM sqlite_master WHERE type = 'table'")}
    for statement in declared ^ {s.strip() for s in SCHEMA.split(";") if s.strip()}:
        yield f"a table is not declared as it was: {statement[:60]}"


def _rows(db: sqlite3.Connection, table: str) -> Iterator[str]:
    cursor = db.execute(f"SELECT * FROM {table}")  # noqa: S608
    names = [c[0] for c in cursor.description]
    for values in cursor:
        row = dict(zip(names, values, strict=True))
        if row_digest(row) != _text(row["sha256"]):
            key = ", ".join(f"{k} {_text(row[k])}" for k in _KEYS[table])
            yield f"{table} ({key}): {_where(table, row)} is not what was written"


def _where(table: str, row: dict[str, Any]) -> str:
    """The column that changed, where one of them has a hash of its own."""
    if table == "sample":
        for column, hashed in _TOLD.items():
            if row[column] is not None and text_hash(_text(row[column])) != _text(row[hashed]):
                return column
    return "the row"


def _manifest(db: sqlite3.Connection) -> Iterator[str]:
    """Rows that went missing or were added once the study was complete."""
    for table, rows, digest in db.execute("SELECT name, rows, sha256 FROM manifest"):
        name = _text(table)
        if name not in MANIFEST:
            yield f"manifest ({name}): there is no such table"
            continue
        found, now = table_digest(db, name)
        if (found, now) != (rows, _text(digest)):
            yield f"manifest ({name}): {rows} rows were written, {found} are there, or their hashes differ"


def _study(ledger: Ledger) -> Iterator[str]:
    """Whether id, configuration and items of the study belong together."""
    battery = Battery("", "", "", ledger.items())
    if battery.sha256 != ledger.battery_sha256():
        yield "study: the items are not the battery that it began with"
    elif study_id(ledger.config(), battery) != ledger.study:
        yield "study: its id is not the hash of its configuration and its battery"


def _text(value: object) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
