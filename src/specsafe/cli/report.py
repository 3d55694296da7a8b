"""`specsafe report`: the files that one shows to others, from the ledger of a finished screen."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from specsafe.screen.result import ScreenResult
    from specsafe.study.ledger import Ledger

FORMATS = "html,md,json,junit,csv"


def report(
    ledger: Annotated[Path, typer.Argument(help="A ledger.sqlite, or the folder of a screen.")],
    out: Annotated[
        Path | None, typer.Option(help="Folder for the reports; default: beside the ledger.")
    ] = None,
    format_: Annotated[
        str,
        typer.Option(
            "--format", envvar="SPECSAFE_REPORT_FORMAT", help=f"What to write, parted by commas: {FORMATS}."
        ),
    ] = FORMATS,
    include_text: Annotated[
        bool,
        typer.Option("--include-text", help="Put model output into html and csv. It may be harmful."),
    ] = False,
    no_timings: Annotated[
        bool,
        typer.Option(
            "--no-timings",
            help="Leave out what a clock measured: reports of two runs of one screen can then be compared.",
        ),
    ] = False,
    json_: Annotated[
        bool,
        typer.Option("--json", envvar="SPECSAFE_REPORT_JSON", help="One JSON document on stdout."),
    ] = False,
) -> None:
    """Write the reports of a finished screen: a page, Markdown, JSON, JUnit and the pairs as CSV.

    Exit code: 0 when they were written, whatever the verdict; 2 operational.
    """
    from specsafe.report.document import without_timings
    from specsafe.report.files import write_reports
    from specsafe.screen.analyze import analyze
    from specsafe.screen.rows import pair_rows, pair_texts
    from specsafe.study.ledger import ledger_path, read_ledger, storage_errors

    formats = _formats(format_)
    path = ledger_path(ledger)
    folder = out or path.parent
    with storage_errors(folder, path), read_ledger(path) as opened:
        refuse_unreadable(opened, path)
        refuse_unfinished(opened, path)
        result = analyze(opened)
        result = without_timings(result) if no_timings else result
        written = write_reports(
            result,
            folder,
            formats,
            rows=pair_rows(opened) if include_text or "csv" in formats else (),
            texts_of=(lambda items: pair_texts(opened, items)) if include_text else None,
        )
    _say(result, written, include_text, json_)


def refuse_unreadable(ledger: Ledger, path: Path) -> None:
    """Raise UserError if what the ledger says of its screen is not what this version would have written."""
    from pydantic import ValidationError

    from specsafe.compare.config import is_comparison
    from specsafe.errors import UserError
    from specsafe.screen.config import ScreenConfig
    from specsafe.study.reading import is_study

    try:
        if is_comparison(ledger.config()):
            raise UserError(
                f"{path} is the ledger of a comparison, not of a screen",
                f"specsafe compare FILE --out {path.parent} scores it and writes its reports",
            )
        if is_study(ledger.config()):
            raise UserError(
                f"{path} is the ledger of a study, not of a screen",
                f"use: specsafe study report {path.parent}",
            )
        ScreenConfig.model_validate(ledger.config())
        about = ledger.resolved().get("battery", {})
        ledger.items()
        missing = {"target", "speculative"} - ledger.arms().keys() if ledger.complete else set()
        wrong = f"it has no {' and no '.join(sorted(missing))} arm" if missing else ""
        wrong = wrong or ("" if isinstance(about, dict) else "what it says of the battery is no mapping")
    except ValidationError as error:
        first = error.errors()[0]
        wrong = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    except (ValueError, TypeError) as error:  # no JSON, or not of the shape
        wrong = str(error)
    if wrong:
        raise UserError(
            f"{path} is not a ledger that this version can read: {wrong}",
            "use the version of specsafe that wrote it",
        )


def refuse_unfinished(ledger: Ledger, path: Path) -> None:
    """Raise UserError if something is left to be asked, saying how far the screen is."""
    from specsafe.errors import UserError

    if ledger.complete:
        return
    parts = [
        f"{role} {len(ledger.settled(arm['id'], arm['replicate']))} of {arm['planned']}"
        for role, arm in ledger.arms().items()
    ]
    raise UserError(
        f"the screen in {path} is not finished: {', '.join(parts) or 'nothing answered yet'}",
        f"finish it: specsafe screen --resume --out {path.parent}",
    )


def _formats(text: str) -> list[str]:
    from specsafe.errors import UserError

    given = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in given if name not in FORMATS.split(",")]
    if unknown or not given:
        raise UserError(f"unknown format {', '.join(unknown) or text!r}", f"formats: {FORMATS}")
    return given


def _say(result: ScreenResult, written: list[Path], include_text: bool, as_json: bool) -> None:
    """What was written, then the headline; as JSON, the document on stdout and the rest on stderr."""
    from specsafe.report.envelope import Envelope, to_json
    from specsafe.report.printable import printable

    lines = [str(path) for path in written]
    if include_text:
        lines.append("html and csv hold model output, which may be harmful: keep them where the ledger is")
    lines.append(result.headline)
    typer.echo(printable("\n".join(lines)), err=as_json)
    if as_json:
        typer.echo(to_json(Envelope(command="report", exit_code=0, result=result)))
