"""`specsafe audit`: is every answer what the target alone would have said? One prefill an answer tells."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def audit(
    answers: Annotated[
        Path, typer.Argument(help="A screen's folder, a ledger.sqlite, or a JSONL file of answers.")
    ],
    target: Annotated[
        str,
        typer.Option(
            "--target",
            "--engine",
            help="The target: kind=native,key=value,… or kind=openai,url=… What it leaves open (model, chat template, "
            "system prompt, prefill, limits) is that of the ledger's arm.",
        ),
    ] = "kind=native",
    role: Annotated[
        str | None, typer.Option(help="Of a ledger: whose answers are audited; speculative if left out.")
    ] = None,
    battery: Annotated[
        str | None, typer.Option(help="Of a JSONL file: the battery whose prompts its item ids mean.")
    ] = None,
    calibrate: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=1000,
            help="Answers of the target alone that tell how far its rounding moves a choice. Left out: 16 of a server, 0 "
            "of kind=native.",
        ),
    ] = None,
    json_: Annotated[
        bool,
        typer.Option(
            "--json", envvar="SPECSAFE_AUDIT_JSON", help="One JSON document on stdout, notices on stderr."
        ),
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder for the result; the same command continues it. Default: beside the answers."
        ),
    ] = None,
) -> None:
    """Tell of each answer whether its tokens are what the target alone would have chosen greedily.

    Exit code: 0 all exact or at near ties, 2 operational, 3 an answer leaves the target by more than a near tie, 4
    nothing could be audited, 5 some answers could not be audited or clearly more leave the target than its own, 6 the
    target contradicts itself.
    """
    from specsafe.audit.answers import beside
    from specsafe.audit.run import run_audit
    from specsafe.cli.progress import progress_reporter, say
    from specsafe.report.audit import audit_summary
    from specsafe.report.envelope import Envelope, to_json
    from specsafe.study.ledger import storage_errors

    folder = out or beside(answers, role)
    with progress_reporter() as report, storage_errors(folder, answers):
        done = run_audit(
            answers,
            target,
            role=role,
            battery=battery,
            out=folder,
            calibrate_on=calibrate,
            notice=say,
            report=report,
        )
    result = done.result
    document = to_json(Envelope(command="audit", exit_code=result.exit_code, result=result))
    with storage_errors(folder):
        (folder / "result.json").write_text(document + "\n", encoding="utf-8")
    typer.echo(
        document if json_ else audit_summary(result, done.seconds, [f"result {folder / 'result.json'}"])
    )
    raise typer.Exit(result.exit_code)
