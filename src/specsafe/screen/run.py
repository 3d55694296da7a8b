"""Run a screen into a folder: probe, preflight, jobs, rerun, analysis. Started again, it continues."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path

from specsafe import __version__
from specsafe.battery import Battery, Item, load_battery
from specsafe.engines import (
    AnswersArm,
    LiveArm,
    NativeArm,
    OpenAIArm,
    VllmArm,
    check_arm,
    served,
    vllm,
)
from specsafe.engines.base import Json
from specsafe.errors import UserError
from specsafe.screen.analyze import analyze
from specsafe.screen.config import QUICK_ITEMS_PER_AXIS, ScreenConfig
from specsafe.screen.forks import compare, is_large
from specsafe.screen.plan import make_jobs, planned_items, reachable, rerun_job
from specsafe.screen.proved import prove_first
from specsafe.screen.recordings import recording_remarks, require_alike
from specsafe.screen.result import ScreenResult
from specsafe.screen.servers import server_remarks, settle_servers, vllm_remarks
from specsafe.study.ledger import LEDGER, Ledger, has_study, open_ledger, storage_errors
from specsafe.study.preflight import preflight
from specsafe.study.run import Job, Progress, run_jobs

Notice = Callable[[str], None]


def screen_battery(config: ScreenConfig) -> Battery:
    """The battery of a screen, cut down where it is quick."""
    battery = load_battery(config.battery)
    return battery.limit(QUICK_ITEMS_PER_AXIS) if config.quick else battery


def run_screen(
    config: ScreenConfig | None,
    out: Path,
    *,
    notice: Notice = lambda _: None,
    report: Callable[[Progress], None] | None = None,
) -> ScreenResult:
    """Run or continue the screen in `out`. config None: continue with what its ledger holds.

    Raises UserError for anything that the user can mend; finished answers are kept.
    """
    path = out / LEDGER
    battery = None if config is None else screen_battery(config)
    wanted = None if config is None else config.model_dump(mode="json")
    resolved: Json = {}
    with storage_errors(out):
        if has_study(path):
            notice(f"continuing {path}")
        elif config is None or battery is None:
            raise UserError(f"there is no screen in {out}", "start one without --resume")
        else:
            (out / "logs").mkdir(parents=True, exist_ok=True)
            for reach in reachable(battery, config.margin, config.alpha):
                notice(reach.line())
            resolved = {**resolve(config, battery, notice), "battery": about(battery)}
        with open_ledger(path, wanted, resolved, battery, __version__) as ledger:
            try:
                return _run(ledger, out, notice, report)
            finally:
                served.stop_all()


def about(battery: Battery) -> Json:
    """What is told of a battery beside its items."""
    return {
        "name": battery.name,
        "version": battery.version,
        "licence": battery.licence,
        "notes": battery.notes,
    }


def resolve(config: ScreenConfig, battery: Battery, notice: Notice) -> Json:
    """Threads, slots and arms at once: fixed by the arm, or chosen by a short probe of the target."""
    planned = {role: arm for role, (arm, _) in planned_items(config, battery).items()}
    settled: Json = vllm.resolved(planned) if isinstance(config.target, VllmArm) else {}
    for role, arm in planned.items():
        if role not in settled.get("absent", {}):
            check_arm(arm)
    if isinstance(config.target, VllmArm):
        return settled
    if isinstance(config.target, NativeArm):
        from specsafe.engines.native import resolved

        return resolved(config.target)
    if isinstance(config.target, AnswersArm):
        require_alike(planned, battery.items)
        return {"at_once": 1}
    if isinstance(config.target, OpenAIArm):
        return settle_servers(planned)
    from specsafe.engines.probe import choose_concurrency

    if "auto" in (config.target.threads, config.target.slots):
        notice("choosing threads and slots")
    return choose_concurrency(config.target, [i.prompt for i in battery.items[:16]])


def _run(
    ledger: Ledger, out: Path, notice: Notice, report: Callable[[Progress], None] | None
) -> ScreenResult:
    config = ScreenConfig.model_validate(ledger.config())
    resolved, items = ledger.resolved(), ledger.items()
    battery = Battery(config.battery, "", "", items)
    try:
        jobs = make_jobs(config, battery, resolved)
    except UserError as error:
        if not ledger.complete:
            raise
        notice(f"shown from the ledger alone: {error.message}")
        return analyze(ledger)
    _require_unchanged(jobs, ledger)
    if ledger.complete:
        return analyze(ledger)
    logs = out / "logs"
    unfinished = [
        j for j in jobs if not ledger.settled(j.arm_id, j.replicate).issuperset(i.id for i in j.items)
    ]
    if unfinished:
        for remark in _prepare(unfinished, jobs, battery, resolved, logs):
            notice(remark)
            if len(unfinished) == len(
                jobs
            ):  # a resume logs nothing: its report is that of an undisturbed run
                ledger.event(remark)
        if config.baseline == "audit":
            notice("speculative arm first; then an audit tells which of its answers are the target's too")
            prove_first(jobs, ledger, logs=logs, report=report)
        run_jobs(jobs, ledger, at_once=resolved["at_once"], logs=logs, report=report)
    if isinstance(config.speculative, LiveArm) and config.target.temperature == 0:
        for role in _told_by_reruns({j.role for j in jobs}):
            again = _to_rerun(role, ledger, items)
            if again:
                notice(f"running {len(again)} items with large forks of the {role} arm again")
                run_jobs([rerun_job(jobs, again, role)], ledger, at_once=1, logs=logs, report=report)
    if ledger.duplicates:
        notice(f"{ledger.duplicates} answers arrived twice and were not stored again")
    ledger.set_complete()
    return analyze(ledger)


def _require_unchanged(jobs: Sequence[Job], ledger: Ledger) -> None:
    """The id of an arm is the hash of its configuration and files: what began is what goes on."""
    began = {role: arm["id"] for role, arm in ledger.arms().items()}
    for job in jobs:
        if began.get(job.role, job.arm_id) != job.arm_id:
            raise UserError(
                f"the files behind the {job.role} arm changed since this ledger began",
                "restore them, or start a new --out folder",
            )


def _prepare(
    unfinished: Sequence[Job], jobs: Sequence[Job], battery: Battery, resolved: Json, logs: Path
) -> Iterator[str]:
    """Preflight of the live arms, and recorded answers that match no item -> what there is to say."""
    probed = preflight(unfinished, logs).probed
    if probed:
        counts = ", ".join(f"{role} {p.drafted}" for role, p in probed.items())
        yield f"preflight passed: every arm answers; tokens drafted on probes: {counts}"
        yield from server_remarks(jobs, probed, resolved)
        yield from vllm_remarks(jobs, probed, resolved)
    for job in unfinished:
        if isinstance(job.arm, AnswersArm):
            yield from recording_remarks(job.role, job.arm, battery.items)


def _told_by_reruns(roles: Collection[str]) -> list[str]:
    """Arms whose large forks are asked again: where no width arm tells how large is too large, the leak too."""
    return ["speculative", *(["leak"] if "leak" in roles and "width" not in roles else [])]


def _to_rerun(role: str, ledger: Ledger, items: Sequence[Item]) -> list[Item]:
    """Items on which an arm left the target at a large gap."""
    arms = ledger.arms()
    target, other = (ledger.answers(arms[r]["id"], arms[r]["replicate"]) for r in ("target", role))
    large = {f.item for f in compare(role, items, target, other).forks if is_large(f)}
    return [i for i in items if i.id in large]
