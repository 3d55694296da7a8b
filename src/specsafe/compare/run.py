"""Run a comparison in phases that each continue where they were: tune, generate, score, report."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Literal, NamedTuple

from specsafe import __version__
from specsafe.battery import Battery
from specsafe.compare.analyze import analyze
from specsafe.compare.config import Comparison, arms, read_items, with_changes, with_published_counts
from specsafe.compare.label import Labeller, label, labeller
from specsafe.compare.result import Calibration, ComparisonResult, Tuning
from specsafe.compare.tuning import (
    ablations,
    prove_apart,
    require_measurable,
    thresholds,
    trained,
    tuning_comparison,
    union_share,
    untrained,
)
from specsafe.engines import arm_id, native
from specsafe.engines.steering import train
from specsafe.errors import UserError
from specsafe.study.ledger import LEDGER, Ledger, open_ledger, storage_errors
from specsafe.study.run import Job, Progress, require_unique_roles, run_jobs

Phase = Literal["tune", "generate", "score", "report"]
PHASES: tuple[Phase, ...] = ("tune", "generate", "score", "report")


class _Run(NamedTuple):
    """What all phases share. battery: of the comparison at hand."""

    config: Comparison
    battery: Battery
    out: Path
    who: Labeller
    phases: tuple[Phase, ...]
    notice: Callable[[str], None]
    report: Callable[[Progress], None] | None


def run_comparison(
    config: Comparison,
    data: Path,
    out: Path,
    phases: tuple[Phase, ...] = PHASES,
    *,
    notice: Callable[[str], None] = lambda _: None,
    report: Callable[[Progress], None] | None = None,
) -> ComparisonResult | None:
    """Run phases of a comparison into `out`; None without the last. Raises UserError for what a user can mend."""
    config = with_published_counts(config, data)
    require_measurable(config)
    arms(config)  # every row is looked at before any work begins
    run = _Run(config, read_items(config, data), out, labeller(config), phases, notice, report)
    tuning = tuning_comparison(config)
    with storage_errors(out):
        measured, tuned = ([], None) if tuning is None else _tune(run, tuning, data)
        return None if phases == ("tune",) else _compare(run, measured, tuned)


def _tune(run: _Run, tuning: Comparison, data: Path) -> tuple[list[Calibration], Tuning | None]:
    """The numbers that rows leave to the tuning prompts, and, where there is a report, the ablations."""
    there = run._replace(config=tuning, battery=read_items(tuning, data), out=run.out / "tuning")
    compared = prove_apart(there.battery, run.battery)
    with _ledger(there) as ledger:
        if "tune" in run.phases:
            run.notice(f"tuning: {len(tuning.methods)} settings, {len(there.battery.items)} prompts each")
            _generate(there, ledger, list(tuning.methods))
            _steer(run, there)
            ledger.set_complete()
        _require_complete(ledger, "tune")
        _label(there, ledger)
        result = analyze(ledger, run.who) if "report" in run.phases else None
        tuned = None if result is None else ablations(run.config, result, compared)
        steered = [trained(row, _projection(run, row)) for row in untrained(run.config)]
        return [*thresholds(run.config, ledger), *steered], tuned


def _steer(run: _Run, there: _Run) -> None:
    """Train the projections that are not there yet, on the harmful tuning prompts."""
    harmful = replace(there.battery, items=there.battery.on("harmful_compliance"))
    for row in untrained(run.config):
        path = _projection(run, row)
        if not path.exists():
            done = train(
                arms(run.config)[row],
                harmful,
                path,
                apart_from=[run.battery],
                log=there.out / "logs/steer.log",
            )
            run.notice(f"{row}: projection trained in {done.seconds:.0f} s")


def _projection(run: _Run, row: str) -> Path:
    """Where the projection of a row lies: the same name wherever the command runs, for it is part of the arm."""
    return run.out.resolve() / "tuning" / f"{row}.safetensors"


def _compare(run: _Run, measured: list[Calibration], tuned: Tuning | None) -> ComparisonResult | None:
    """Rows whose numbers are known answer first, then those that copy a share of theirs."""
    for found in measured:
        if found.key != "steering":
            run = run._replace(config=with_changes(run.config, found.row, **{found.key: found.value}))
    matched = [row for row, variant in run.config.methods.items() if variant.matched]
    with _ledger(run) as ledger:
        if "generate" in run.phases:
            run.notice(f"{len(run.config.methods)} methods, {len(run.battery.items)} prompts each")
            _generate(run, ledger, [row for row in run.config.methods if row not in matched])
            for row in matched:
                found = union_share(run.config, row, ledger)
                measured = [*measured, found]
                run = run._replace(config=with_changes(run.config, row, **{found.key: found.value}))
            _generate(run, ledger, matched)
            ledger.set_complete()
        _require_complete(ledger, "generate")
        _label(run, ledger)
        if "report" not in run.phases:
            return None
        copied = [c for c in measured if c.on == "evaluation"]
        shares = copied or [union_share(run.config, row, ledger) for row in matched]
        told = [*(c for c in measured if c.on == "tuning"), *shares]
        result = analyze(ledger, run.who, list(run.config.methods))
        return result.model_copy(update={"calibrations": tuple(told), "tuning": tuned})


@contextmanager
def _ledger(run: _Run) -> Iterator[Ledger]:
    (run.out / "logs").mkdir(parents=True, exist_ok=True)
    # labels are made of finished answers: another guard may label them without a new generation
    wanted = run.config.model_dump(mode="json", exclude={"guard"})
    with open_ledger(run.out / LEDGER, wanted, {}, run.battery, __version__) as ledger:
        yield ledger


def _generate(run: _Run, ledger: Ledger, rows: list[str]) -> None:
    """Answer with these rows whatever is not answered yet."""
    of = arms(run.config)
    for row in set(untrained(run.config)) & set(rows):
        of[row] = of[row].model_copy(update={"steering": str(_projection(run, row))})
    items, together = run.battery.items, "rows"  # they share their networks, which are loaded once
    jobs = [Job(r, of[r], arm_id(of[r], native.check(of[r])), 0, items, together) for r in rows]
    require_unique_roles(jobs)
    _require_unchanged(jobs, ledger)
    if jobs:
        run_jobs(jobs, ledger, at_once=1, logs=run.out / "logs", report=run.report)


def _label(run: _Run, ledger: Ledger) -> None:
    if "score" in run.phases:
        scored = label(ledger, run.who, run.out / "logs", notice=run.notice, report=run.report)
        run.notice(f"{scored} texts scored")


def _require_complete(ledger: Ledger, phase: Phase) -> None:
    if not ledger.complete:
        raise UserError("not every method has answered every prompt", f"run the phase {phase} first")


def _require_unchanged(jobs: list[Job], ledger: Ledger) -> None:
    began = {role: arm["id"] for role, arm in ledger.arms().items()}
    for job in jobs:
        if began.get(job.role, job.arm_id) != job.arm_id:
            raise UserError(
                f"the files behind {job.role} changed since this comparison began",
                "restore them, or name a new --out folder",
            )
