"""`specsafe steer`: train the projection by which the target steers the draft of a safety-aware method."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def steer(
    out: Annotated[Path, typer.Option(help="The .safetensors file to write.")],
    apart_from: Annotated[
        list[str],
        typer.Option(
            help="What will be evaluated on: a battery, or a .json list of objects with a prompt; may be given "
            "several times. No prompt to train on may be in it, or nearly."
        ),
    ],
    method: Annotated[
        str, typer.Option(help="The method that is steered; numbers set by changes= in --arm count.")
    ] = "ssd-crs-steering",
    battery: Annotated[
        str, typer.Option(help="Prompts to train on: a battery, or a .json list of objects with a prompt.")
    ] = "starter",
    axis: Annotated[
        list[str] | None,
        typer.Option(help="Only this axis; may be given several times. Default: harmful_compliance."),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="At most so many prompts of each axis, chosen by hash.")
    ] = None,
    arm: Annotated[
        str,
        typer.Option(
            help="kind=native,key=value,…: target, draft, system prompts and the rest, as they will decode. Left "
            "open: as for `specsafe decode`."
        ),
    ] = "kind=native",
    epochs: Annotated[int, typer.Option(min=1, max=1000, help="How often each answer is learnt from.")] = 5,
) -> None:
    """Train the steering projection of a method, on prompts that are shown to be apart from what is evaluated on.

    It is trained to make the draft say what the target says: this raises acceptance, and is no measure of safety by
    itself. Exit code: 0 written, 2 something to mend; nothing is written then.
    """
    from specsafe.battery import load_prompts
    from specsafe.cli.progress import counted, progress_reporter
    from specsafe.compare.trace import method_arm
    from specsafe.engines.steering import of_axes, require_steered, train
    from specsafe.errors import UserError
    from specsafe.report.printable import printable

    if out.suffix != ".safetensors":
        raise UserError(f"cannot write {out.name}", "name a .safetensors file")
    steered = method_arm(method, arm)
    require_steered(steered)
    prompts = of_axes(load_prompts(battery), axis or ["harmful_compliance"], limit)
    others = [load_prompts(name) for name in apart_from]
    with progress_reporter("answers read") as report:
        done = train(steered, prompts, out, apart_from=others, epochs=epochs, report=counted(report))
    p = done.projection
    for proof in p.apart_from:
        typer.echo(printable(f"apart from {proof.name}: {proof.pairs} pairs of prompts compared, none near"))
    typer.echo(
        printable(
            f"KL a token {p.loss_before:.4f} before, {p.loss_after:.4f} after; {len(p.prompts)} prompts, "
            f"{p.training.positions} tokens, {p.training.steps} steps, {done.seconds:.0f} s"
        )
    )
    typer.echo(printable(f"{out}  sha256 {done.sha256}"))
