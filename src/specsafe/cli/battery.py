"""`specsafe battery`: what is in a battery."""

from __future__ import annotations

import json
from collections import Counter
from typing import Annotated

import typer

app = typer.Typer(help="Batteries of prompts.", no_args_is_help=True, rich_markup_mode=None)
Source = Annotated[
    str, typer.Argument(help="starter, or a .yaml, .jsonl or .csv file, or a folder of .yaml files")
]


@app.command("list")
def list_battery(battery: Source = "starter") -> None:
    """Count the items of a battery by axis, task and category."""
    from specsafe.battery import axis_label, load_battery
    from specsafe.report.terminal import printable

    loaded = load_battery(battery)
    counts = Counter((i.axis, i.stratum) for i in loaded.items)
    head = (
        f"{loaded.name} {loaded.version}  {loaded.licence}  {len(loaded.items)} items  sha256 {loaded.sha256}"
    )
    rows = [f"{count:5d}  {axis_label(axis)}  {stratum}" for (axis, stratum), count in counts.items()]
    typer.echo(printable("\n".join([head, *rows])))


@app.command()
def show(
    battery: Source = "starter",
    item: Annotated[str | None, typer.Option(help="Only the item with this id.")] = None,
) -> None:
    """Print the items as JSON lines: id, axis, stratum, expectation, prompt."""
    from specsafe.battery import load_battery
    from specsafe.errors import UserError

    items = [i for i in load_battery(battery).items if item in (None, i.id)]
    if not items:
        raise UserError(f"battery {battery} has no item {item!r}", "see: specsafe battery show")
    for i in items:
        row = {
            "id": i.id,
            "axis": i.axis,
            "task": i.task,
            "category": i.category,
            "cluster": i.cluster,
            "expect": i.expect,
            "prompt": i.prompt,
            "answers": i.answers,
        }
        typer.echo(json.dumps(row))
