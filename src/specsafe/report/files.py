"""Reports as files: written beside their places and moved there whole, so that none is ever half there."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path

from specsafe.report.envelope import Envelope, to_json
from specsafe.report.parts.texts import PairText, choose, make_texts
from specsafe.screen.result import ScreenResult
from specsafe.screen.rows import PairRow

NAMES = {
    "html": "report.html",
    "md": "report.md",
    "json": "report.json",
    "junit": "report.xml",
    "csv": "pairs.csv",
}
TextsOf = Callable[[set[str]], Mapping[str, PairText]]


def write_reports(
    result: ScreenResult,
    folder: Path,
    formats: Collection[str] = ("html",),
    *,
    rows: Iterable[PairRow] = (),
    texts_of: TextsOf | None = None,
) -> list[Path]:
    """Write the reports of a result into a folder -> their paths, in the order of NAMES.

    formats: keys of NAMES. rows: the pairs, for csv and texts. texts_of: item ids -> (target text,
    speculative text); given only where somebody asked to see model output, which then stands in html and csv.
    The same arguments give the same bytes.
    """
    pairs = list(rows)
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name in (n for n in NAMES if n in formats):
        path = folder / NAMES[name]
        write_whole(path, _lines(name, result, pairs, texts_of))
        written.append(path)
    return written


def _lines(name: str, result: ScreenResult, pairs: list[PairRow], texts_of: TextsOf | None) -> Iterable[str]:
    """A report as pieces of text."""
    from specsafe.report.junit import render_junit
    from specsafe.report.markdown import render_markdown
    from specsafe.report.page import render_page
    from specsafe.report.sheet import sheet_lines

    if name == "html":
        if texts_of is None:
            return [render_page(result)]
        chosen, differing = choose(pairs)
        return [render_page(result, make_texts(chosen, differing, texts_of({r.item for r in chosen})))]
    if name == "csv":
        return sheet_lines(pairs, texts_of({r.item for r in pairs}) if texts_of else None)
    if name == "json":
        return [document(result), "\n"]
    return [render_markdown(result) if name == "md" else render_junit(result)]


def document(result: ScreenResult) -> str:
    """The JSON document of a screen, the very one that `specsafe screen --json` prints."""
    return to_json(Envelope(command="screen", exit_code=result.exit_code, result=result))


def write_whole(path: Path, pieces: Iterable[str]) -> None:
    """Write a file whole or not at all."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("w", encoding="utf-8", newline="") as stream:
            stream.writelines(pieces)
            stream.flush()
            os.fsync(stream.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
