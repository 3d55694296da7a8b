"""`specsafe study analyze|report`: what a study says, from its ledger alone."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from specsafe.cli.study_run import Folder

if TYPE_CHECKING:
    from specsafe.analysis.result import StudyResult
    from specsafe.study.ledger import Ledger

Earlier = Annotated[
    list[Path] | None, typer.Option(help="Ledger or folder of an earlier study, for its baselines.")
]
Check = Annotated[bool, typer.Option("--check/--no-check", help="Hold every row against its hash first.")]
NoTimings = Annotated[
    bool,
    typer.Option("--no-timings", help="Leave out what a clock measured, to compare two runs byte by byte."),
]


def analyze(
    folder: Folder,
    earlier: Earlier = None,
    check: Check = True,
    no_timings: NoTimings = False,
    json_: Annotated[bool, typer.Option("--json", help="The whole result as JSON on stdout.")] = False,
) -> None:
    """Every pass over the answers that are there: hypotheses, gates, and what the publication would have said."""
    from specsafe.report.printable import printable
    from specsafe.report.study import study_document

    result = _result(folder, earlier or [], check, no_timings)
    if json_:
        typer.echo(study_document(result), nl=False)
    else:
        typer.echo(printable("\n".join(_summary(result))))


def report(
    folder: Folder,
    earlier: Earlier = None,
    check: Check = True,
    no_timings: NoTimings = False,
    out: Annotated[Path | None, typer.Option(help="Folder for the files; default: the study's.")] = None,
) -> None:
    """The report as page, Markdown, figures and result: the same bytes from the same ledger, and no answer's text."""
    from specsafe.report.study import write_study
    from specsafe.study.ledger import ledger_path, storage_errors

    result = _result(folder, earlier or [], check, no_timings)
    target = out or ledger_path(folder).parent
    with storage_errors(target):
        written = write_study(result, target)
    for name, path in zip(("page", "as Markdown", "result"), written, strict=False):
        typer.echo(f"{name} {path}")
    typer.echo(f"figures {target / 'figures'} ({len(written) - 3} files)")


def _result(folder: Path, earlier: list[Path], check: bool, no_timings: bool) -> StudyResult:
    from specsafe.analysis.run import analyze as analyze_ledger
    from specsafe.analysis.run import without_timings
    from specsafe.study.ledger import ledger_path, read_ledger, storage_errors

    path = ledger_path(folder)
    with ExitStack() as stack:
        stack.enter_context(storage_errors(path.parent, path))
        others = [stack.enter_context(read_ledger(p)) for p in earlier]
        ledger = stack.enter_context(_open(path))
        result = analyze_ledger(ledger, earlier=others, check=check)
    return without_timings(result) if no_timings else result


@contextmanager
def _open(path: Path) -> Iterator[Ledger]:
    """For writing, so that scores are kept; for reading alone beside a run, and where nothing may be written."""
    from specsafe import __version__
    from specsafe.study.ledger import open_ledger, read_ledger
    from specsafe.study.status import is_running

    quiet = is_running(path) or not (os.access(path, os.W_OK) and os.access(path.parent, os.W_OK))
    with read_ledger(path) if quiet else open_ledger(path, None, {}, None, __version__) as ledger:
        yield ledger


def _summary(result: StudyResult) -> Iterator[str]:
    """Hypotheses and gates, a line each."""
    state = "complete" if result.complete else "not complete"
    yield f"{result.name}, {result.variant}: {state}; {result.unique_answers:,} answers, {len(result.cells)} cells"
    yield from (f"deviation: {d}" for d in result.deviations)
    yield from (f"not as written: {v}" for v in result.verification)
    for h in result.hypotheses:
        yield f"{h.name} {h.standing}: {h.text}; {h.reason}"
    verdicts = Counter(g.verdict.value for c in result.gates for g in c.gates)
    yield "gates: " + (
        ", ".join(f"{v} {n}" for v, n in sorted(verdicts.items())) or "none, no cell has a match"
    )
