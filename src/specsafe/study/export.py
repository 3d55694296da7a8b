"""The tables of a study as Parquet files, for DuckDB and data frames. Text stays in the ledger unless asked for."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

from specsafe.errors import UserError
from specsafe.study.ledger import Ledger, connect_to_read
from specsafe.study.reading import cells_of

# Columns from which what was asked or said could be read.
TEXTS = {
    "item": ("prompt", "answers", "choices", "wrong"),
    "sample": ("text", "token_ids", "top", "columns"),
    "score": (),
    "failure": (),
    "arm": (),
    "event": (),
}
# What is left of a column of which a part could quote an answer: what a guard said, and what people note.
_PLAIN = {"record": "json_remove(record, '$.said', '$.note')"}
_ROWS = 20_000  # of a batch: memory stays bounded whatever the size of the study


def export_parquet(ledger: Ledger, folder: Path, *, include_text: bool = False) -> dict[Path, int]:
    """Write a file a table and one of the cells -> rows of each. Raises UserError without pyarrow.

    Files are written beside themselves and then renamed, so what is there is whole.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise UserError("Parquet needs pyarrow", "pip install 'specsafe[parquet]'") from error
    folder.mkdir(parents=True, exist_ok=True)
    kinds = {"TEXT": pa.string(), "INTEGER": pa.int64(), "REAL": pa.float64()}
    written: dict[Path, int] = {}
    with closing(connect_to_read(ledger.path)) as db:
        for table, hidden in TEXTS.items():
            columns = {
                name: kinds[kind]
                for _, name, kind, *_ in db.execute(f"PRAGMA table_info({table})")
                if include_text or name not in hidden
            }
            schema = pa.schema(list(columns.items()))
            target, part = folder / f"{table}.parquet", folder / f".{table}.part"
            count = 0
            with pq.ParquetWriter(part, schema, compression="zstd") as writer:
                plain = {} if include_text else _PLAIN
                for rows in _batches(db, table, {name: plain.get(name, name) for name in columns}):
                    writer.write_table(pa.Table.from_pylist(rows, schema=schema))
                    count += len(rows)
            written[part.replace(target)] = count
    cells = [
        {**asdict(c), "replicates": list(c.replicates), "items": list(c.items)} for c in cells_of(ledger)
    ]
    part = folder / ".cells.part"
    pq.write_table(pa.Table.from_pylist(cells), part, compression="zstd")
    written[part.replace(folder / "cells.parquet")] = len(cells)
    return written


def _batches(db: sqlite3.Connection, table: str, columns: dict[str, str]) -> Iterator[list[dict[str, Any]]]:
    """Rows of a table. columns: name -> the expression that is read."""
    cursor = db.execute(f"SELECT {', '.join(columns.values())} FROM {table}")  # noqa: S608
    while rows := cursor.fetchmany(_ROWS):
        yield [dict(zip(columns, row, strict=True)) for row in rows]
