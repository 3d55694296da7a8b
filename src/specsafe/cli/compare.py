"""`specsafe compare`: safety-aware methods on the same prompts, side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def compare(
    file: Annotated[Path, typer.Argument(help="A comparison, such as protocols/crs-ssd-mini.yaml.")],
    data: Annotated[
        Path | None, typer.Option(help="Folder of the prompts that the file names; default: the file's own.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of ledger and results; default: specsafe-NAME. It continues.")
    ] = None,
    phase: Annotated[
        str, typer.Option(help="tune, generate, score or report alone, each in a process of its own; or all.")
    ] = "all",
    json_: Annotated[
        bool, typer.Option("--json", envvar="SPECSAFE_COMPARE_JSON", help="The result as JSON on stdout.")
    ] = False,
) -> None:
    """Answer the same prompts with every method of a file, and compare them pair by pair.

    Exit code: 0 done, 2 something to mend; what was answered is kept.
    """
    from specsafe.cli.progress import progress_reporter, say
    from specsafe.compare.config import read_comparison
    from specsafe.compare.run import PHASES, run_comparison
    from specsafe.errors import UserError
    from specsafe.report.comparing.terminal import comparison_summary
    from specsafe.report.written import COMPARISON, as_json
    from specsafe.study.ledger import storage_errors

    chosen = PHASES if phase == "all" else tuple(p for p in PHASES if p == phase)
    if not chosen:
        raise UserError(f"unknown phase {phase!r}", f"phases are: {', '.join(PHASES)}, all")
    config = read_comparison(file)
    folder = out or Path(f"specsafe-{config.name}")
    with progress_reporter() as report:
        result = run_comparison(config, data or file.parent, folder, chosen, notice=say, report=report)
    if result is None:
        return
    with storage_errors(folder):
        written = COMPARISON.write(result, folder)
    names = "page", "as Markdown", "result"
    places = [f"{name} {path}" for name, path in zip(names, written, strict=False)]
    places.append(f"figures {folder / 'figures'} ({len(written) - len(names)} files)")
    if json_:
        typer.echo(as_json(result), nl=False)
        say("\n".join(places))
    else:
        typer.echo(comparison_summary(result, places))
