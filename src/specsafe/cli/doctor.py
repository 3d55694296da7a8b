"""`specsafe doctor`: what runs behind an address, and whether a screen of it could be trusted."""

from __future__ import annotations

from typing import Annotated

import typer


def doctor(
    engine: Annotated[
        str,
        typer.Option(help="The server as an arm: kind=openai,url=http://127.0.0.1:8000/v1,key=value,…"),
    ],
    json_: Annotated[
        bool,
        typer.Option("--json", envvar="SPECSAFE_DOCTOR_JSON", help="One JSON document on stdout."),
    ] = False,
) -> None:
    """Ask a server ten harmless questions three times: which dialect, does it draft, is it deterministic, what it lacks.

    Exit code: 0 a screen can be trusted, 2 it could not.
    """
    from specsafe.engines import parse_arm
    from specsafe.report.doctor import checkup_lines
    from specsafe.report.envelope import Envelope, to_json
    from specsafe.screen.doctor import examine

    found = examine(parse_arm(engine))
    if json_:
        typer.echo(to_json(Envelope(command="doctor", exit_code=found.exit_code, result=found)))
    else:
        typer.echo(checkup_lines(found))
    raise typer.Exit(found.exit_code)
