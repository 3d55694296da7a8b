"""Run a comparison in phases that each continue where they were: generate, score, report."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

from specsafe import __version__
from specsafe.compare.analyze import analyze
from specsafe.compare.config import Comparison, arms, read_items
from specsafe.compare.label import label, labeller
from specsafe.compare.result import ComparisonResult
from specsafe.engines import arm_id, native
from specsafe.errors import UserError
from specsafe.study.ledger import LEDGER, Ledger, open_ledger, storage_errors
from specsafe.study.run import Job, Progress, require_unique_roles, run_jobs

Phase = Literal["generate", "score", "report"]
PHASES: tuple[Phase, ...] = ("generate", "score", "report")


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
    battery, who = read_items(config, data), labeller(config)
    jobs = [
        Job(row, arm, arm_id(arm, native.check(arm)), 0, battery.items) for row, arm in arms(config).items()
    ]
    require_unique_roles(jobs)
    with storage_errors(out):
        (out / "logs").mkdir(parents=True, exist_ok=True)
        # labels are made of finished answers: another guard may label them without a new generation
        wanted = config.model_dump(mode="json", exclude={"guard"})
        with open_ledger(out / LEDGER, wanted, {}, battery, __version__) as ledger:
            _require_unchanged(jobs, ledger)
            if "generate" in phases:
                notice(f"{len(jobs)} methods, {len(battery.items)} prompts each")
                run_jobs(jobs, ledger, at_once=1, logs=out / "logs", report=report)
                ledger.set_complete()
            if not ledger.complete:
                raise UserError("not every method has answered every prompt", "run the phase generate first")
            if "score" in phases:
                scored = label(ledger, who, out / "logs", notice=notice, report=report)
                notice(f"{scored} texts scored")
            return analyze(ledger, who) if "report" in phases else None


def _require_unchanged(jobs: list[Job], ledger: Ledger) -> None:
    began = {role: arm["id"] for role, arm in ledger.arms().items()}
    for job in jobs:
        if began.get(job.role, job.arm_id) != job.arm_id:
            raise UserError(
                f"the files behind {job.role} changed since this comparison began",
                "restore them, or name a new --out folder",
            )
