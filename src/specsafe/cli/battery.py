"""`specsafe battery`: fetch batteries, look into them, wrap, split and compare them."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Batteries of prompts.", no_args_is_help=True, rich_markup_mode=None)
Source = Annotated[
    str,
    typer.Argument(
        help="starter, a pulled battery, a .yaml, .jsonl or .csv file, or a folder of .yaml files"
    ),
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
    typer.echo(printable("\n".join([head, *rows, *loaded.notes])))


@app.command()
def show(
    battery: Source = "starter",
    item: Annotated[str | None, typer.Option(help="Only the item with this id.")] = None,
) -> None:
    """Print the items as JSON lines: id, axis, stratum, expectation, prompt, answers, choices, scorer."""
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
            **{key: given for key in ("choices", "wrong", "published") if (given := getattr(i, key))},
            "scorer": i.scorer,
        }
        typer.echo(json.dumps(row))


@app.command()
def pull(
    name: Annotated[str | None, typer.Argument(help="A battery; without one, they are listed.")] = None,
) -> None:
    """Fetch a published battery into the cache, check its bytes, and say under what licence it is."""
    from specsafe.battery import axis_label
    from specsafe.battery.pull import pull as fetch_battery
    from specsafe.battery.sources import SOURCES
    from specsafe.report.terminal import printable

    if name is None:
        for known, source in SOURCES.items():
            axes = ", ".join(map(axis_label, source.axes))
            pinned = "hash pinned" if all(f.sha256 for f in source.files) else "hash recorded at first fetch"
            typer.echo(f"{known}  {axes}  {source.licence}  {source.home} ({source.version})  {pinned}")
        return
    pulled = fetch_battery(name)
    battery = pulled.battery
    counts = ", ".join(f"{axis_label(axis)} {len(battery.on(axis))}" for axis in battery.axes)
    lines = [
        f"{battery.name} {battery.version}  {len(battery.items)} items: {counts}",
        f"licence: {battery.licence}",
        *battery.notes,
        *(f"{file.name}  sha256 {file.sha256}  {file.pinned}" for file in pulled.files),
        f"battery sha256 {battery.sha256}",
        str(pulled.path),
    ]
    typer.echo(printable("\n".join(lines)))


@app.command()
def wrap(
    battery: Source,
    wrappers: Annotated[
        str,
        typer.Option(
            "--with",
            envvar="SPECSAFE_BATTERY_WRAP_WITH",
            help="direct, deepinception, persona, prefix; by comma.",
        ),
    ],
    output: Annotated[Path, typer.Option(help="The .jsonl file to write.")],
) -> None:
    """Ask the harmful items of a battery in the words of jailbreaks; variants of one request are one cluster."""
    from specsafe.battery import load_battery
    from specsafe.battery.wrap import wrap as wrap_battery
    from specsafe.battery.writer import write_jsonl
    from specsafe.errors import UserError
    from specsafe.report.terminal import printable

    if output.suffix.lower() != ".jsonl":
        raise UserError(f"cannot write {output.name}", "name a .jsonl file")
    names = [name.strip() for name in wrappers.split(",") if name.strip()]
    wrapped = wrap_battery(load_battery(battery), names)
    write_jsonl(wrapped, output)
    harmful = wrapped.on("harmful_compliance")
    clusters = len({item.cluster for item in harmful})
    typer.echo(
        printable(
            f"{len(harmful)} harmful compliance items in {clusters} clusters, {len(wrapped.items)} in all"
        )
    )
    typer.echo(printable(f"battery sha256 {wrapped.sha256}  {output}"))


@app.command()
def split(
    battery: Source,
    output: Annotated[Path, typer.Option(help="Folder for tuning.jsonl, evaluation.jsonl and split.json.")],
    share: Annotated[float, typer.Option(help="Part of the battery that is for tuning.")] = 0.5,
    salt: Annotated[str, typer.Option(help="Another text divides otherwise.")] = "",
) -> None:
    """Divide a battery into a tuning and an evaluation side that share no cluster and no near-equal prompt."""
    from specsafe.battery import axis_label, load_battery
    from specsafe.battery.split import write_split
    from specsafe.report.terminal import printable

    loaded = load_battery(battery)
    done = write_split(loaded, output, share, salt)
    for side, clusters in zip((done.tuning, done.evaluation), done.clusters, strict=True):
        counts = ", ".join(f"{axis_label(axis)} {len(side.on(axis))}" for axis in loaded.axes)
        typer.echo(
            printable(
                f"{side.name}  {len(side.items)} items in {clusters} clusters: {counts}  sha256 {side.sha256}"
            )
        )
    typer.echo(f"{done.merged} clusters joined to others by near-duplication  {printable(str(output))}")
    if done.templated:
        typer.echo(f"{done.templated} items compared without the words of their template")


@app.command()
def disjoint(
    one: Annotated[str, typer.Argument(metavar="A", help="A battery.")],
    other: Annotated[str, typer.Argument(metavar="B", help="Another battery.")],
) -> None:
    """Show that two batteries share no cluster and no equal or near-equal prompt (5-word Jaccard >= 0.8), wrapped or not."""
    from specsafe.battery import load_battery
    from specsafe.battery.split import prove_disjoint
    from specsafe.report.terminal import printable

    a, b = load_battery(one), load_battery(other)
    proof = prove_disjoint(a, b)
    counts = " and ".join(
        f"{battery.name} with {items} items in {clusters} clusters"
        for battery, items, clusters in zip((a, b), proof.items, proof.clusters, strict=True)
    )
    typer.echo(printable(f"disjoint: {counts}"))
    typer.echo("no shared clusters, no equal or near-equal prompts (5-word Jaccard >= 0.8)")
    if proof.templated:
        typer.echo(f"of these, {proof.templated} items were compared without the words of their template")
    typer.echo("not seen: paraphrases, translations, look-alike letters")
