"""Pairs, and answers to label, as CSV that a spreadsheet can open: one line a row, and no cell that is a formula."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator, Mapping

from specsafe.report.parts.texts import PairText
from specsafe.report.printable import SHORT, cut, one_line
from specsafe.screen.rows import PairRow
from specsafe.study.labels import COLUMNS, ToLabel

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
# Where a list is parted by semicolons, as in much of Europe, a cell begins at each of them.
_INNER_FORMULA = re.compile(r"(?<=[;\t])(?=[\s\"]*[=+\-@＝＋－＠])")


def sheet_lines(rows: Iterable[PairRow], texts: Mapping[str, PairText] | None = None) -> Iterator[str]:
    """Lines with their ends, the head first. texts: item -> (target, speculative), if they were asked for."""
    yield _line((*PairRow._fields, *(_TEXTS if texts is not None else ())))
    for row in rows:
        said = () if texts is None else texts.get(row.item, (None, None))
        named = (cut(value, SHORT) if isinstance(value, str) else value for value in row)
        yield _line((*map(cell, named), *(cell(None if t is None else cut(t)) for t in said)))


def label_lines(rows: Iterable[ToLabel]) -> Iterator[str]:
    """The same for answers that are to be labelled: their last columns are left to people."""
    yield _line(COLUMNS)
    for row in rows:
        yield _line((row.id, cell(cut(row.prompt)), cell(cut(row.text)), "", ""))


def cell(value: str | bool | float | None) -> str:
    """What is written for a value: strings without control characters, and no begin of a formula anywhere."""
    if not isinstance(value, str):
        return "" if value is None else str(value).lower() if isinstance(value, bool) else repr(value)
    text = _INNER_FORMULA.sub("'", one_line(value))
    dangerous = value.lstrip(" \u00a0").startswith(_FORMULA) or text.lstrip().startswith(_FORMULA)
    return f"'{text}" if dangerous else text


def _line(cells: Iterable[str]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerow(cells)
    return buffer.getvalue()
