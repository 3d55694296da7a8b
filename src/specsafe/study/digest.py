"""Hashes of rows and of tables: one flipped byte in a ledger, or one row that went missing, can be told."""

from __future__ import annotations

import hashlib
import sqlite3
import struct
from collections.abc import Mapping
from typing import Any

# Tables whose rows are counted and hashed together once a study is complete, and the order of their rows.
MANIFEST = {
    "item": "place",
    "arm": "role",
    "sample": "study, arm, item, replicate",
    "failure": "arm, item, replicate",
}


def row_digest(row: Mapping[str, Any]) -> str:
    """SHA-256 of a row as hex, over the names and values of its columns; `sha256` itself is left out.

    Numbers count as float64, as a REAL column gives them back; texts may be given as their UTF-8 bytes.
    """
    digest = hashlib.sha256()
    for name in sorted(row):
        if name == "sha256":
            continue
        value = row[name]
        if value is None:
            coded = b"0"
        elif isinstance(value, str | bytes):
            text = value.encode() if isinstance(value, str) else value
            coded = b"t%d:%b" % (len(text), text)
        else:
            coded = b"n" + struct.pack(">d", value)
        digest.update(b"%b\x00%b" % (name.encode(), coded))
    return digest.hexdigest()


def seal(db: sqlite3.Connection, table: str, column: str, key: object) -> None:
    """Give the row of a table with this key the hash of what it holds now."""
    cursor = db.execute(f"SELECT * FROM {table} WHERE {column} = ?", (key,))  # noqa: S608
    row = dict(zip([c[0] for c in cursor.description], cursor.fetchone(), strict=True))
    db.execute(f"UPDATE {table} SET sha256 = ? WHERE {column} = ?", (row_digest(row), key))  # noqa: S608


def table_digest(db: sqlite3.Connection, table: str) -> tuple[int, str]:
    """(rows, SHA-256 over their hashes in order) of a table of MANIFEST."""
    digest, count = hashlib.sha256(), 0
    for (own,) in db.execute(f"SELECT sha256 FROM {table} ORDER BY {MANIFEST[table]}"):  # noqa: S608
        digest.update(own if isinstance(own, bytes) else own.encode())
        count += 1
    return count, digest.hexdigest()


def write_manifest(db: sqlite3.Connection) -> None:
    """Keep count and hash of every table of MANIFEST; the caller commits."""
    for table in MANIFEST:
        db.execute("INSERT OR REPLACE INTO manifest VALUES (?, ?, ?)", (table, *table_digest(db, table)))
