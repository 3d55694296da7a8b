"""`specsafe decode`: one safety-aware method on prompts; `--trace` tells of each token who chose it and why."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def decode(
    method: Annotated[str, typer.Option(help="A method of the table, such as ssd-crs; `list` names them.")],
    prompt: Annotated[list[str] | None, typer.Option(help="A prompt; may be given several times.")] = None,
    battery: Annotated[str | None, typer.Option(help="A battery instead: its prompts, by item.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the battery's first items.")] = None,
    arm: Annotated[
        str,
        typer.Option(
            help="kind=native,key=value,…: target, draft and the rest. Left open: draft=self, three tokens a round, "
            "the published safety prompt as draft_system."
        ),
    ] = "kind=native",
    trace: Annotated[
        bool, typer.Option("--trace", help="A line a token: mode, score, who won; columns to disk.")
    ] = False,
    include_text: Annotated[
        bool, typer.Option("--include-text", help="Show the answers to a battery's prompts.")
    ] = False,
    out: Annotated[Path, typer.Option(help="Folder for columns.jsonl (with --trace).")] = Path(
        "specsafe-decode"
    ),
) -> None:
    """Decode prompts with one safety-aware method of the native engine.

    Answers to a battery stay in the file unless --include-text shows them. Exit code: 0 all answered, 2 otherwise.
    """
    from specsafe.cli.progress import say
    from specsafe.compare.trace import Traced, decode, method_arm, write_columns
    from specsafe.decoding.safety.methods import METHODS
    from specsafe.engines.base import Request
    from specsafe.engines.steering import trained_on
    from specsafe.errors import UserError
    from specsafe.report.printable import printable
    from specsafe.report.trace import answer_lines
    from specsafe.study.ledger import storage_errors

    if method == "list":
        typer.echo("\n".join(f"{name:<22}{m.about}" for name, m in METHODS.items()))
        return
    chosen = method_arm(method, arm)
    if bool(prompt) == bool(battery):
        raise UserError("expected either --prompt or --battery", "give one of them")
    requests = [Request(f"prompt {n}", text) for n, text in enumerate(prompt or (), 1)]
    if battery:
        from specsafe.battery import load_battery

        requests = [Request(i.id, i.prompt) for i in load_battery(battery).items[:limit]]
    known = len(trained_on(chosen, (r.prompt for r in requests)))
    if known:
        say(f"{known} of {len(requests)} prompts trained the steering projection: no evidence of anything")
    done: list[Traced] = []
    failed = 0
    for answer in decode(chosen, requests, trace=trace):
        if not isinstance(answer, Traced):
            failed += 1
            typer.echo(printable(f"{answer.item}: failed: {answer.reason}"))
            continue
        done.append(answer)
        typer.echo("\n".join(answer_lines(answer, text=include_text or bool(prompt))))
    if trace:
        with storage_errors(out):
            typer.echo(f"columns {write_columns(out, done)}")
    raise typer.Exit(2 if failed else 0)
