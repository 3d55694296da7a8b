"""`specsafe study`: a protocol is planned, locked, run, watched, analysed, verified and exported."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from specsafe.cli import study_report, study_run

if TYPE_CHECKING:
    from specsafe.study.protocol import Protocol

app = typer.Typer(
    help="Studies: a protocol is a reviewed file, counted before anything runs.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.command()
def plan(
    file: study_run.File,
    variant: Annotated[str, typer.Option(help="Only this variant of the file.")] = "",
    arms: Annotated[bool, typer.Option("--arms", help="Name every arm and what is asked of it.")] = False,
    gates: Annotated[
        bool,
        typer.Option("--gates", help="Say which verdicts each gate can reach, and how many items it needs."),
    ] = False,
) -> None:
    """Count what a study would ask, with every derivation, and what of it could be judged.

    No model and no battery needs to be there: the sizes of the tasks stand in the protocol.
    """
    from specsafe.study.protocol import read_protocol, read_variants

    chosen = [read_protocol(file, variant)] if variant else list(read_variants(file).values())
    for n, protocol in enumerate(chosen):
        typer.echo(("\n" if n else "") + "\n".join(_plan(protocol, arms, gates)))


for command in (
    study_run.lock,
    study_run.run,
    study_run.status,
    study_run.score,
    study_report.analyze,
    study_report.report,
    study_run.verify,
    study_run.export,
):
    app.command()(command)


def _plan(protocol: Protocol, arms: bool, gates: bool) -> list[str]:
    from specsafe.report.printable import printable
    from specsafe.report.study_plan import arm_lines, gate_lines, missing_axes, plan_page
    from specsafe.study.planning import cells, counted_tasks, counts
    from specsafe.study.planning import gates as gates_of

    planned = cells(protocol, counted_tasks(protocol))
    lines = list(plan_page(protocol, counts(protocol), planned))
    if gates:
        lines += gate_lines(protocol, gates_of(protocol, planned))
    missing = missing_axes(protocol)
    if missing:
        lines.append(f"not asked: {missing}")
    lines += [f"note: {n}" for n in protocol.notes]
    if arms:
        lines += ["arms:", *(f"  {line}" for line in arm_lines(planned))]
    return [printable(line) for line in lines]
