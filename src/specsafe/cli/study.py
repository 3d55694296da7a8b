"""`specsafe study`: a protocol is planned, locked, run, watched, verified and exported."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from specsafe.study.protocol import Protocol

app = typer.Typer(
    help="Studies: a protocol is a reviewed file, counted before anything runs.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
File = Annotated[Path, typer.Argument(help="A protocol, such as protocols/tr144-mini.yaml.")]
Variant = Annotated[str, typer.Option(help="A variant of the file; default: the file as it stands.")]
Data = Annotated[
    Path | None,
    typer.Option(help="Folder of the batteries that the protocol names; default: the file's own."),
]


@app.command()
def plan(
    file: File,
    variant: Annotated[str, typer.Option(help="Only this variant of the file.")] = "",
    arms: Annotated[bool, typer.Option("--arms", help="Name every arm and what is asked of it.")] = False,
) -> None:
    """Count what a study would ask, with every derivation, and which verdicts could be reached.

    No model and no battery needs to be there: the sizes of the tasks stand in the protocol.
    """
    from specsafe.study.protocol import read_protocol, read_variants

    chosen = [read_protocol(file, variant)] if variant else list(read_variants(file).values())
    for n, protocol in enumerate(chosen):
        typer.echo(("\n" if n else "") + "\n".join(_plan(protocol, arms)))


def _plan(protocol: Protocol, arms: bool) -> list[str]:
    from specsafe.report.printable import printable
    from specsafe.report.study_plan import arm_lines, missing_axes, plan_page
    from specsafe.study.planning import cells, counted_tasks, counts, gates

    planned = cells(protocol, counted_tasks(protocol))
    lines = list(plan_page(protocol, counts(protocol), planned, gates(protocol, planned)))
    missing = missing_axes(protocol)
    if missing:
        lines.append(f"not asked: {missing}")
    lines += [f"note: {n}" for n in protocol.notes]
    if arms:
        lines += ["arms:", *(f"  {line}" for line in arm_lines(planned))]
    return [printable(line) for line in lines]
