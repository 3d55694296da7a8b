"""The pairs as CSV that a spreadsheet can open: one line a row, and no cell that is a formula."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping

from specsafe.report.parts.texts import PairText
from specsafe.report.printable import cut, one_line
from specsafe.screen.rows import PairRow

_TEXTS = ("target_text", "speculative_text")
_FORMULA = (
    "=",
    "+",
    "-",
    "@",
    "\t",
    "\r",
    "＝",
    "＋",
    "－",
    "＠",
)  # the wide ones too: Excel reads them alike


def sheet_lines(rows: Iterable[PairRow], texts: Mapping[str, PairText] | None = None) -> Iterator[str]:
    """Lines with their ends, the head first. texts: item -> (target, speculative), if they were asked for."""
    yield _line((*PairRow._fields, *(_TEXTS if texts is not None else ())))
    for row in rows:
        said = () if texts is None else texts.get(row.item, (None, None))
        yield _line((*map(cell, row), *(cell(None if t is None else cut(t)) for t in said)))


def cell(value: str | bool | float | None) -> str:
    """What is written for a value: strings without control characters, and never the begin of a formula."""
    if not isinstance(value, str):
        return "" if value is None else str(value).lower() if isinstance(value, bool) else repr(value)
    text = one_line(value)
    dangerous = value.lstrip(" \u00a0").startswith(_FORMULA) or text.lstrip().startswith(_FORMULA)
    return f"'{text}" if dangerous else text


def _line(cells: Iterable[str]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerow(cells)
    return buffer.getvalue()
