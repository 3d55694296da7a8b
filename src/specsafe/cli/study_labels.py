"""Labels beside the scores of a study: sheets of people and judges, and a guard model."""

from __future__ import annotations

from pathlib import Path

import typer


def write_sheet(ledger_file: Path, folder: Path, include_text: bool) -> None:
    """Write the answers that are to be labelled as a sheet. Raises UserError where one is there: it may hold labels."""
    from specsafe.errors import UserError
    from specsafe.report.sheet import label_lines
    from specsafe.study.labels import SHEET, to_label
    from specsafe.study.ledger import read_ledger, storage_errors
    from specsafe.words import plural

    path = folder / SHEET
    if not include_text:
        raise UserError("a sheet holds prompts and answers, which may be harmful", "add --include-text")
    with storage_errors(folder, ledger_file), read_ledger(ledger_file) as ledger:
        rows = to_label(ledger)
        folder.mkdir(parents=True, exist_ok=True)
        try:
            with path.open("x", encoding="utf-8", newline="") as file:
                file.writelines(label_lines(rows))
        except FileExistsError as error:
            raise UserError(
                f"{path} is there and may hold labels", "move it, or name another --out"
            ) from error
    typer.echo(f"{path}: {plural(len(rows), 'answer')} to label")


def add_sheet(given: Path, sheet: Path, person: str, judge: str) -> None:
    """Keep the labels of a sheet in a study's ledger and say how many."""
    from specsafe import __version__
    from specsafe.errors import UserError
    from specsafe.report.printable import printable
    from specsafe.study.labels import add_labels, rater, read_labels
    from specsafe.study.ledger import ledger_path, open_ledger, storage_errors
    from specsafe.words import plural

    if bool(person) == bool(judge):
        raise UserError(
            "whose labels are these?", "name a person with --rater, or a judge model with --judge"
        )
    who = rater("human" if person else "judge", person or judge)
    path = ledger_path(given)
    with storage_errors(path.parent, path), open_ledger(path, None, {}, None, __version__) as ledger:
        found = read_labels(sheet)
        added = add_labels(ledger, who, found)
    blank = plural(found.blank, "row has", "rows have")
    typer.echo(printable(f"{who}: {plural(added.new, 'label')} new, {added.all} in all; {blank} none"))


def ask_guard(given: Path, keys: str) -> None:
    """Let a guard model label the answers on axes of refusals; the same command goes on where it stopped."""
    from specsafe import __version__
    from specsafe.cli.progress import progress_reporter, say
    from specsafe.compare.label import guard_of, label
    from specsafe.errors import UserError
    from specsafe.scoring import REFUSAL_AXES
    from specsafe.study.ledger import ledger_path, open_ledger, storage_errors
    from specsafe.study.reading import protocol_of
    from specsafe.words import plural

    pairs = [part.partition("=") for part in keys.split(",")]
    wrong = [name for name, sign, _ in pairs if not sign]
    if wrong:
        raise UserError(f"--guard: {wrong[0]!r} is no key=value", "write model=FOLDER,context=2048")
    who = guard_of({name.strip(): value for name, _, value in pairs})
    path = ledger_path(given)
    with (
        storage_errors(path.parent, path),
        open_ledger(path, None, {}, None, __version__) as ledger,
        progress_reporter("texts") as report,
    ):
        protocol_of(ledger)
        (path.parent / "logs").mkdir(exist_ok=True)
        new = label(ledger, who, path.parent / "logs", axes=REFUSAL_AXES, notice=say, report=report)
        kept = ledger.scorers().get(who.id, 0)
    typer.echo(f"{who.id.partition('@')[0]}: {plural(new, 'label')} new, {kept} in all")
