"""Passes as tables: a row a number, the long ones folded."""

from __future__ import annotations

from collections.abc import Sequence

from specsafe.analysis.result import Line, PassResult
from specsafe.report.blocks import Block, Fold, Para, Row, Table
from specsafe.report.studies.words import about, between, mark, method, named, of, on, p_of, value
from specsafe.words import plural

SHOWN = 12  # rows of a pass that are shown without being asked for
HEAD = ("of", "on", "number", "value", "interval", "k of n", "p", "what follows", "method")


def pass_blocks(p: PassResult) -> list[Block]:
    """One pass: its lines, or why it has none."""
    caption = f"{p.number}. {p.title}"
    if p.state != "done":
        return [Para(f"{caption}: {p.state}, {named(p.reason)}.", "note")]
    table = Table(caption=caption, head=HEAD, rows=rows(p.lines), numbers=False)
    if len(table.rows) <= SHOWN:
        return [table]
    return [Fold(f"{caption}: {plural(len(table.rows), 'number')}", (table,))]


def rows(lines: Sequence[Line]) -> tuple[Row, ...]:
    """A row a number; what follows stands beside the first of a line."""
    return tuple(
        Row(
            (
                about(x),
                on(x),
                named(e.name),
                value(e),
                between(e),
                of(e),
                p_of(e),
                named(x.reading) if n == 0 else "",
                method(e),
            ),
            mark(x.reading) if n == 0 else "plain",
        )
        for x in lines
        for n, e in enumerate(x.estimates)
    )
