"""`specsafe score`: score the answers of a ledger again, without generating."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from specsafe.study.ledger import Ledger


def score(
    ledger: Annotated[Path, typer.Argument(help="A ledger.sqlite, or the folder of a screen.")],
    scorer: Annotated[
        str | None, typer.Option(help="Only this scorer, such as refusal or tr144:refusal.")
    ] = None,
) -> None:
    """Score every answer with the scorers of this version; identical text has one score.

    Scores carry the scorer's name and the hash of its source, so those of other versions stay beside them.
    """
    from specsafe.cli.report import refuse_unreadable

    score_ledger(ledger, scorer, refuse_unreadable)


def score_ledger(given: Path, scorer: str | None, require: Callable[[Ledger, Path], object]) -> None:
    """Score what a ledger holds and say how; require raises UserError where it is not what the command is for."""
    from specsafe import __version__
    from specsafe.errors import UserError
    from specsafe.report.printable import printable
    from specsafe.scoring import RATERS
    from specsafe.screen.rescore import score_again
    from specsafe.study.ledger import ledger_path, open_ledger, storage_errors

    path = ledger_path(given)
    with storage_errors(path.parent, path), open_ledger(path, None, {}, None, __version__) as book:
        require(book, path)
        found = score_again(book, scorer)
        kept = book.scorers()
    if not found:
        raise UserError(
            f"no item of this ledger is scored by {scorer!r}", "leave --scorer out to see which there are"
        )
    for s in found:
        typer.echo(
            f"{s.scorer}{'' if s.decides else ' (beside)'}: {s.new} texts scored now, {kept.get(s.scorer, 0)} in all"
        )
        for role, counts in s.labels.items():
            total = sum(counts.values())
            typer.echo(printable(f"  {role}: {', '.join(f'{k} {n}/{total}' for k, n in counts.items())}"))
    raters = [k for k in kept if k.partition(":")[0] in ("guard", *RATERS)]
    typer.echo("".join(f"{who}: {kept[who]} labels kept\n" for who in raters), nl=False)
    older = sorted(set(kept) - {s.scorer for s in found} - set(raters))
    if older and scorer is None:
        typer.echo(f"kept from other versions: {', '.join(older)}")
