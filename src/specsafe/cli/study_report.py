"""`specsafe study analyze|report`: the one typed result of a study's ledger, and the files that one shows to others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from specsafe.cli.study_run import Folder

if TYPE_CHECKING:
    from specsafe.analysis.result import StudyResult

Against = Annotated[
    list[Path] | None,
    typer.Option(help="Folder of an earlier study whose baselines are compared; may be given again."),
]
Method = Annotated[
    str, typer.Option(help="ours, or tr144: what the publication would say of the same rows, beside ours.")
]


def analyze(
    folder: Folder,
    against: Against = None,
    method: Method = "ours",
    json_: Annotated[bool, typer.Option("--json", help="The whole result as JSON on stdout.")] = False,
) -> None:
    """Run all passes over a study's answers, as far as it is, and say how its hypotheses stand.

    Exit code: 0 whatever they say; 2 operational, such as labels that decide nothing.
    """
    from specsafe.errors import UserError
    from specsafe.report.printable import printable
    from specsafe.report.studies.terminal import study_summary
    from specsafe.report.written import as_json

    if method not in ("ours", "tr144"):
        raise UserError(f"unknown method {method!r}", "methods: ours, tr144")
    with _result(folder, against or ()) as result:
        if json_:
            typer.echo(as_json(result), nl=False)
        else:
            typer.echo(printable(study_summary(result, published=method == "tr144")))


def report(
    folder: Folder,
    against: Against = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the files; default: that of the study.")
    ] = None,
    no_timings: Annotated[
        bool,
        typer.Option(
            "--no-timings",
            help="Leave out what a clock measured: reports of two runs of one study can then be compared.",
        ),
    ] = False,
) -> None:
    """Write study.html, study.md, study.json and the figures. They hold no prompt and no answer."""
    from specsafe.analysis.run import without_timings
    from specsafe.report.printable import printable
    from specsafe.report.studies.terminal import study_summary
    from specsafe.report.written import STUDY
    from specsafe.study.ledger import ledger_path, storage_errors

    target = out or ledger_path(folder).parent
    with _result(folder, against or ()) as result, storage_errors(target):
        written = STUDY.write(without_timings(result) if no_timings else result, target)
        typer.echo(printable("\n".join([study_summary(result), *map(str, written)])))


@contextmanager
def _result(folder: Path, against: Sequence[Path]) -> Iterator[StudyResult]:
    """The result of a folder's ledger; new scores are kept where it may be written, and nobody else writes."""
    from specsafe import __version__
    from specsafe.analysis.run import analyze as analyze_ledger
    from specsafe.errors import UserError
    from specsafe.study.ledger import ledger_path, open_ledger, read_ledger, storage_errors

    path = ledger_path(folder)
    with ExitStack() as stack:
        stack.enter_context(storage_errors(path.parent, path))
        try:
            ledger = stack.enter_context(open_ledger(path, None, {}, None, __version__))
        except (
            UserError,
            OSError,
        ):  # a run is writing, or nothing may be written: reading says what else is wrong
            ledger = stack.enter_context(read_ledger(path))
        earlier = [stack.enter_context(read_ledger(other)) for other in against]
        yield analyze_ledger(ledger, earlier=earlier)
