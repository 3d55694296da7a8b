"""`specsafe screen`: target-only against speculative answers, paired, with a verdict."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from specsafe.screen.config import ScreenConfig
    from specsafe.screen.result import ScreenResult

DEFAULT_OUT = Path("specsafe-out")


def screen(
    ctx: typer.Context,
    target: Annotated[
        str,
        typer.Option(
            help="Target arm: kind=llamacpp,key=value,…, kind=native,key=value,…, kind=openai,url=URL,… or answers that are there: "
            "kind=recorded,path=FILE, kind=inspect,path=FILE, kind=lm_eval,path=FILE."
        ),
    ] = "kind=llamacpp",
    speculative: Annotated[
        str,
        typer.Option(
            help="Speculative arm; takes over what it does not name from the target. Default: a layer-dropped draft."
        ),
    ] = "",
    replicate: Annotated[str, typer.Option(help="Replicate arm (A/A) where the target is recorded.")] = "",
    width: Annotated[
        str,
        typer.Option(
            help="Width arm; default: the target drafts for itself, with kind=native passes of exactly that width, none "
            "with kind=openai."
        ),
    ] = "",
    chat_template: Annotated[
        str, typer.Option(help="on, or off for raw completion without template and system prompt.")
    ] = "",
    battery: Annotated[
        str, typer.Option(help="starter, a .yaml, .jsonl or .csv file, or a folder of .yaml files.")
    ] = "starter",
    margin: Annotated[float, typer.Option(help="Equivalence margin as a share: 0.03 is 3 points.")] = 0.03,
    alpha: Annotated[float, typer.Option(help="One-sided level of the bounds.")] = 0.05,
    share: Annotated[
        float, typer.Option(help="Part of the items that replicate, width and prefill arm answer.")
    ] = 1 / 3,
    quick: Annotated[
        bool, typer.Option("--quick", help="24 items an axis: a smoke run that cannot PASS.")
    ] = False,
    baseline: Annotated[
        str,
        typer.Option(
            help="decode: the target answers every item. audit: it answers only those where an audit cannot prove that "
            "it would say what the speculative arm said (kind=native, temperature 0)."
        ),
    ] = "decode",
    plan: Annotated[
        bool, typer.Option("--plan", help="Count what would run and which verdicts are reachable, then stop.")
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the screen in --out with its own configuration.")
    ] = False,
    demo: Annotated[
        bool,
        typer.Option("--demo", help="Show a PASS, a FAIL and an UNRESOLVED from planted data; no model."),
    ] = False,
    json_: Annotated[
        bool,
        typer.Option(
            "--json", envvar="SPECSAFE_SCREEN_JSON", help="One JSON document on stdout, notices on stderr."
        ),
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="Folder for ledger, logs and result; the same command continues it.")
    ] = None,
) -> None:
    """Screen a speculative stack for a change in safety.

    Exit code: 0 PASS, 2 operational, 3 FAIL, 4 UNMEASURED, 5 UNRESOLVED, 6 VOID.
    """
    from specsafe.errors import UserError

    if demo:
        _refuse_others(ctx, "--demo", {"demo", "json_"})
        raise typer.Exit(_demo(json_))
    if resume:
        _refuse_others(ctx, "--resume", {"resume", "json_", "out"})
        if out is None:
            raise UserError("--resume needs the folder of the screen", "add --out DIR")
        raise typer.Exit(_run(None, out, json_))
    from specsafe.screen.config import make_config

    config = make_config(
        target,
        speculative,
        replicate,
        width,
        chat_template=chat_template,
        battery=battery,
        margin=margin,
        alpha=alpha,
        share=share,
        quick=quick,
        baseline=baseline,
    )
    if plan:
        return _plan(config, json_)
    raise typer.Exit(_run(config, out or _default_out(config), json_))


def _refuse_others(ctx: typer.Context, flag: str, allowed: set[str]) -> None:
    """A flag that would be ignored is an error."""
    from specsafe.errors import UserError

    given = [p.name or "" for p in ctx.command.params if ctx.params.get(p.name or "") != p.default]
    others = sorted(set(given) - allowed)
    if others:
        raise UserError(f"{flag} takes no --{others[0].rstrip('_')}", "leave it out")


def _default_out(config: ScreenConfig) -> Path:
    from specsafe.screen.run import screen_battery
    from specsafe.study.schema import study_id

    return DEFAULT_OUT / study_id(config.model_dump(mode="json"), screen_battery(config))


def _run(config: ScreenConfig | None, out: Path, as_json: bool) -> int:
    from specsafe.cli.progress import progress_reporter, say
    from specsafe.report.files import write_reports
    from specsafe.screen.run import run_screen
    from specsafe.study.ledger import LEDGER, storage_errors

    with progress_reporter() as report:
        result = run_screen(config, out, notice=say, report=report)
    with storage_errors(out):
        (out / "result.json").write_text(_document([result], single=True) + "\n", encoding="utf-8")
        pages = write_reports(result, out, ("html", "junit"))
    places = [
        f"{name} {path}"
        for name, path in zip(
            ("ledger", "result", "page", "junit"), (out / LEDGER, out / "result.json", *pages), strict=True
        )
    ]
    return _show([result], as_json, places, single=True)


def _demo(as_json: bool) -> int:
    from specsafe.screen.demo import demonstrate

    return _show(demonstrate(), as_json, ["demonstration: nothing was written, no model ran"], single=False)


def _show(results: list[ScreenResult], as_json: bool, places: list[str], *, single: bool) -> int:
    """Print the document or the summaries -> the exit code (a demonstration always ends with 0)."""
    from specsafe.report.terminal import summary

    if as_json:
        typer.echo(_document(results, single=single))
    else:
        typer.echo("\n\n".join(summary(r, places if r is results[-1] else ()) for r in results))
    return results[0].exit_code if single else 0


def _document(results: list[ScreenResult], *, single: bool) -> str:
    from specsafe.report.envelope import Envelope, to_json

    code = results[0].exit_code if single else 0
    return to_json(Envelope(command="screen", exit_code=code, result=results[0] if single else results))


def _plan(config: ScreenConfig, as_json: bool) -> None:
    from specsafe.report.envelope import Envelope, PlanDocument, to_json
    from specsafe.report.plan import plan_lines
    from specsafe.screen.plan import planned_items, reachable
    from specsafe.screen.run import screen_battery

    battery = screen_battery(config)
    counts = {role: len(items) for role, (_, items) in planned_items(config, battery).items()}
    reach = reachable(battery, config.margin, config.alpha, needed=True)
    if as_json:
        plan = PlanDocument(answers=counts, total=sum(counts.values()), gates=reach)
        typer.echo(to_json(Envelope(command="screen --plan", exit_code=0, result=plan)))
    else:
        typer.echo("\n".join(plan_lines(counts, reach, config.margin)))
