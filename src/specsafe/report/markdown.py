"""The report as Markdown: the same sections, figures as the numbers that they show, every name inert."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from specsafe.report.blocks import (
    Block,
    Chart,
    Document,
    Drawing,
    Facts,
    Figures,
    Fold,
    Para,
    Section,
    Table,
    Verbatim,
)
from specsafe.report.document import make_document
from specsafe.report.printable import one_line
from specsafe.screen.result import ScreenResult

_MARKUP = re.compile(r"[\\`*|~$]|(?<![^\W_])_|_(?![^\W_])|\](?=[\[(:])")
_LINKS = re.compile(
    r"(?<=:)(?=//)|(?<=www)(?=\.)"  # addresses, also after a letter or _
    r"|(?=@[\w-]+\.)|(?<=@)(?=[\w-]+\.)|(?<![a-z0-9_]@)(?<=@)(?=\w)"  # mail and mentions
    r"|(?<=#)(?=\d)|(?<=gh-)(?=\d)",  # issues
    re.IGNORECASE,
)
_BEGINS = re.compile(r"^(\s*(?:\d+)?)([-+=>#.)])")
FIGURES = "figures"  # the folder of drawings beside a Markdown file
_ZERO_WIDTH = "&#8203;"  # parts what a renderer would join to a link, an address or a mention


def render_markdown(result: ScreenResult) -> str:
    """The whole report of a screen, ending with a line break."""
    return as_markdown(make_document(result), ("decided", "verdict", "bound", "on what"))


def as_markdown(document: Document, heads: Sequence[str]) -> str:
    """A whole report, ending with a line break. heads: of the table of its cards."""
    front = document.front
    lines = [
        f"# {inert(front.verdict)}: {inert(front.bound)}",
        paragraph(front.lead),
        *(f"**{inert(flag)}**" for flag in (*front.loud, *front.flags)),
        _table(heads, [(c.title, c.verdict, c.bound, "; ".join(c.lines)) for c in front.cards]),
        *(f"**{inert(term)}.** {inert(text)}" for term, text in front.answers),
        _code(front.headline),
        *(part for section in document.sections for part in _section(section)),
        *(paragraph(line) for line in document.footer),
    ]  # fmt: skip
    return "\n\n".join(lines) + "\n"


def inert(text: str) -> str:
    """Text in which nothing is markup: no code, HTML, link, mention or table cell comes out of it."""
    line = one_line(text)
    line = _MARKUP.sub(lambda m: f"\\{m[0]}", line)
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _LINKS.sub(_ZERO_WIDTH, line)


def paragraph(text: str) -> str:
    """Inert text that begins no list, quotation or heading either."""
    return _BEGINS.sub(r"\1\\\2", inert(text))


def _code(text: str) -> str:
    """A line as code; backticks in it become quotes, so that it cannot end early."""
    return "    " + one_line(text).replace("`", "'")


def _section(section: Section) -> Iterator[str]:
    yield f"## {inert(section.title)}"
    for block in section.blocks:
        yield from _block(block)


def _block(block: Block) -> Iterator[str]:
    match block:
        case Para():
            yield f"**{inert(block.text)}**" if block.kind == "warning" else paragraph(block.text)
        case Facts():
            if block.rows:
                yield _table(("", ""), block.rows)
        case Table():
            yield f"*{inert(block.caption)}*"
            yield _table(block.head, [_marked(r.cells, r.mark) for r in block.rows])
        case Chart():
            yield from _chart(block)
        case Figures():
            yield from _block(block.table)
        case Drawing():
            yield f"*{inert(block.caption)}*"
            told = inert(block.caption.replace("[", "(").replace("]", ")"))
            yield f"![{told}]({FIGURES}/{block.file}.svg)"
            yield paragraph(block.legend)
        case Fold():
            yield f"**{inert(block.summary)}**"
            for inner in block.blocks:
                yield from _block(inner)
        case Verbatim():
            yield f"**{inert(block.title)}**"
            yield "\n".join(map(_code, block.text.splitlines()))


def _chart(chart: Chart) -> Iterator[str]:
    rows = [row for group in chart.groups for row in (*group.rows, *group.folded)]
    columns = [(r.label, r.reading, r.counts, r.tag) for r in rows]
    used = [n for n in range(4) if n == 0 or any(c[n] for c in columns)]
    yield f"*{inert(chart.caption)}*"
    yield _table([chart.heads[n] for n in used], [[c[n] for n in used] for c in columns])


def _marked(cells: Sequence[str], mark: str) -> Sequence[str]:
    return cells if mark in ("plain", "strong") else (f"» {cells[0]}", *cells[1:])


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, *rows]
    texts = ["| " + " | ".join(map(inert, cells)) + " |" for cells in lines]
    return "\n".join([texts[0], "|" + " --- |" * len(head), *texts[1:]])
