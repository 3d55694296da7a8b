"""`specsafe view`: the reports of the screens, comparisons and studies in a folder, in a browser on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

DEFAULT_FOLDER = Path("specsafe-out")


def view(
    folder: Annotated[
        Path,
        typer.Argument(
            help="A folder with screens, comparisons or studies under it, the folder of one, or a ledger.sqlite."
        ),
    ] = DEFAULT_FOLDER,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")] = 0,
    minutes: Annotated[float, typer.Option(min=0.01, help="Stop after so long without a request.")] = 60,
) -> None:
    """Serve the reports of finished screens, comparisons and studies on 127.0.0.1, to this machine alone. Ctrl-C stops it."""
    from specsafe.errors import UserError
    from specsafe.report.printable import printable
    from specsafe.report.serve import listen, serve

    if not folder.exists():
        raise UserError(f"no folder {folder}", "name the --out folder of a screen, or run one first")
    try:
        listener = listen(port)
    except OSError as error:
        raise UserError(f"cannot listen on port {port}: {error}", "name another --port") from error
    serve(folder, listener, minutes * 60, lambda text: typer.echo(printable(text)))
