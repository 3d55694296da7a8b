"""`specsafe study lock|run|status|score|verify|export`: what writes a study's ledger, and what reads it beside."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from specsafe.study.protocol import Protocol

File = Annotated[Path, typer.Argument(help="A protocol, such as protocols/tr144-mini.yaml.")]
Folder = Annotated[Path, typer.Argument(help="The folder of a study, or its ledger.sqlite.")]
Variant = Annotated[str, typer.Option(help="A variant of the file; default: the file as it stands.")]
Data = Annotated[
    Path | None,
    typer.Option(help="Folder of the batteries that the protocol names; default: the file's own."),
]


def lock(file: File, variant: Variant = "", data: Data = None) -> None:
    """Write the lock of a protocol beside its file: what it says today, and the hashes of its batteries.

    A run that departs from the lock lists each difference in its ledger and in every report.
    """
    from specsafe.study.lock import write_lock
    from specsafe.study.planning import cells
    from specsafe.study.protocol import read_protocol
    from specsafe.study.sources import read_asked

    protocol = read_protocol(file, variant)
    asked = read_asked(protocol, data or file.parent)
    cells(protocol, asked.tasks)  # what cannot be planned is not locked
    written = write_lock(file, protocol, asked.hashes)
    typer.echo(f"{protocol.name}, {protocol.variant}, protocol {protocol.sha256[:16]}: locked in {written}")


def run(
    file: File,
    variant: Variant = "",
    data: Data = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of ledger and logs; default: specsafe-NAME. It continues.")
    ] = None,
    phases: Annotated[str, typer.Option(help="Only these phases and blocks, such as 1,2,dtype.")] = "",
    only: Annotated[
        list[str] | None, typer.Option(help="Only cells whose key or arm matches, such as '*typical*'.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many items an axis.")] = None,
    workers: Annotated[
        int,
        typer.Option(
            min=0, help="Arms open at a time, each in a process of its own; 0: as the engine takes."
        ),
    ] = 0,
    arms: Annotated[
        Path | None,
        typer.Option(help="YAML: name of an arm -> keys that belong to this machine, such as url."),
    ] = None,
) -> None:
    """Run a study, whole or in part; the same command continues it.

    Exit code: 0 done, 2 something to mend; what was answered is kept.
    """
    from specsafe.cli.progress import progress_reporter, say
    from specsafe.errors import UserError
    from specsafe.study.conduct import Wanted, run_study
    from specsafe.study.lock import read_lock
    from specsafe.study.protocol import read_protocol

    protocol = read_protocol(file, variant)
    folder = out or _default_out(protocol)
    places = tuple(p.strip() for p in phases.split(",") if p.strip())
    if phases and not places:
        raise UserError(f"--phases {phases!r} names none", "leave it out for all of them")
    wanted = Wanted(places, tuple(only or ()), limit or 0, workers, _own(arms))
    with progress_reporter() as report:
        done = run_study(
            protocol,
            read_lock(file, protocol),
            data or file.parent,
            folder,
            wanted,
            notice=say,
            report=report,
        )
    left = done.planned - done.answered
    told = "complete" if done.complete else f"{left:,} answers of the protocol are still to be made"
    typer.echo(f"{folder}: {done.answered:,} of {done.planned:,} answers; {told}")


def _default_out(protocol: Protocol) -> Path:
    variant = "" if protocol.variant == "planned" else f"-{protocol.variant}"
    return Path(f"specsafe-{protocol.name}{variant}")


def _own(path: Path | None) -> dict[str, dict[str, Any]]:
    import yaml

    from specsafe.errors import UserError

    if path is None:
        return {}
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path}: {str(error).splitlines()[0]}", "name a YAML file") from error
    if not isinstance(found, dict) or not all(isinstance(v, dict) for v in found.values()):
        raise UserError(
            f"{path} maps no names of arms to keys", 'write: "name": {url: http://127.0.0.1:8000/v1}'
        )
    return {str(k): v for k, v in found.items()}


def status(folder: Folder) -> None:
    """How far a study is. Works beside a run, and on one that was killed; writes nothing."""
    from specsafe.report.printable import printable
    from specsafe.study.ledger import ledger_path, read_ledger, storage_errors
    from specsafe.study.reading import deviations_of, lock_of
    from specsafe.study.status import status as status_of

    path = ledger_path(folder)
    with storage_errors(path.parent, path), read_ledger(path) as ledger:
        found, lock, departed = status_of(ledger), lock_of(ledger), deviations_of(ledger)
    state = "complete" if found.complete else "running" if found.running else "not running"
    lines = [f"{found.name}: {state}; {found.made:,} of {found.to_make:,} answers made"]
    width = max(len(p.name) for p in found.places)
    for p in found.places:
        gone = f", {p.failed} given up" if p.failed else ""
        lines.append(f"  {p.name:<{width}}  {p.answered:>7,} of {p.planned:>7,}{gone}  {p.title}")
    lines.append(f"locked {lock['at']}, {lock['sha256'][:16]}" if lock else "not locked")
    lines += [f"deviation: {d}" for d in departed]
    typer.echo(printable("\n".join(lines)))


def score(
    folder: Folder,
    scorer: Annotated[str | None, typer.Option(help="Only this scorer, such as refusal.")] = None,
    labels: Annotated[
        Path | None,
        typer.Option(
            help="A sheet of labels (see study export --sheet) to keep instead, by --rater or --judge."
        ),
    ] = None,
    rater: Annotated[str, typer.Option(help="Who gave the labels of the sheet: a person.")] = "",
    judge: Annotated[str, typer.Option(help="The same, where it was a judge model.")] = "",
    guard: Annotated[
        str,
        typer.Option(help="A guard model to label refusals instead, such as 'model=FOLDER,context=2048'."),
    ] = "",
) -> None:
    """Score every answer with the scorers of this version; nothing is generated, identical text has one score.

    Labels of people, of a judge or of a guard are kept beside the scores; study analyze and report then tell agreement and
    the scorers' error.
    """
    from specsafe.cli.score import score_ledger
    from specsafe.cli.study_labels import add_sheet, ask_guard
    from specsafe.errors import UserError
    from specsafe.study.reading import protocol_of

    if sum(map(bool, (scorer, labels, guard))) > 1:
        raise UserError("--scorer, --labels and --guard are three things", "give one of them")
    if labels is not None:
        add_sheet(folder, labels, rater, judge)
    elif rater or judge:
        raise UserError("--rater and --judge name whose labels a sheet holds", "add --labels FILE")
    elif guard:
        ask_guard(folder, guard)
    else:
        score_ledger(folder, scorer, lambda ledger, _: protocol_of(ledger))


def verify(folder: Folder) -> None:
    """Hold every row, the configuration and the manifest of a study against their hashes.

    Exit code: 0 all of it is what was written, 2 something is not, and is named.
    """
    from specsafe.errors import UserError
    from specsafe.report.printable import printable
    from specsafe.study.ledger import ledger_path, read_ledger, storage_errors
    from specsafe.study.verify import verify as verify_ledger

    path = ledger_path(folder)
    with storage_errors(path.parent, path), read_ledger(path) as ledger:
        problems = verify_ledger(ledger)
        kept = ledger.sizes()
    if problems:
        typer.echo(printable("\n".join(problems)))
        raise UserError(
            f"{path}: {len(problems)} things are not what was written", "restore the file from a copy"
        )
    typer.echo(
        f"{path}: " + ", ".join(f"{n:,} rows of {table}" for table, n in kept.items()) + " are as written"
    )


def export(
    folder: Folder,
    parquet: Annotated[
        bool, typer.Option("--parquet", help="As Parquet files (pip install 'specsafe[parquet]').")
    ] = False,
    sheet: Annotated[
        bool,
        typer.Option(
            "--sheet",
            help="As a sheet for people who label refusals; it needs --include-text and names no arm.",
        ),
    ] = False,
    include_text: Annotated[
        bool,
        typer.Option(
            "--include-text", help="With prompts, answers and tokens; for eyes that asked for them."
        ),
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for the files; default: parquet/ in the study's, for a sheet the study's."),
    ] = None,
) -> None:
    """Write the tables of a study as Parquet, which DuckDB, pandas and R read, or its answers as a sheet to label.

    Without text unless asked.
    """
    from specsafe.cli.study_labels import write_sheet
    from specsafe.errors import UserError
    from specsafe.study.export import export_parquet
    from specsafe.study.ledger import ledger_path, read_ledger, storage_errors

    if parquet == sheet:
        raise UserError("an export needs a format", "add --parquet or --sheet")
    path = ledger_path(folder)
    if sheet:
        write_sheet(path, out or path.parent, include_text)
        return
    target = out or path.parent / "parquet"
    with storage_errors(target, path), read_ledger(path) as ledger:
        written = export_parquet(ledger, target, include_text=include_text)
    for file, rows in written.items():
        typer.echo(f"{file}: {rows:,} rows")
