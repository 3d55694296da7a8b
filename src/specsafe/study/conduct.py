"""Run a study into a folder, whole or in part. Started again, it continues; nothing finished is asked twice."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from specsafe import __version__
from specsafe.engines import (
    AnyArm,
    Failure,
    LiveArm,
    LlamaCppArm,
    NativeArm,
    OpenAIArm,
    RecordedArm,
    VllmArm,
    check_arm,
)
from specsafe.engines.base import Json
from specsafe.errors import UserError
from specsafe.study.cells import Cell
from specsafe.study.jobs import arms_of, loaded, make_jobs, settled
from specsafe.study.ledger import LEDGER, Ledger, has_study, open_ledger, read_ledger, storage_errors
from specsafe.study.lock import deviations
from specsafe.study.planning import answers_to_make, cells
from specsafe.study.preflight import close_all, preflight
from specsafe.study.protocol import Protocol
from specsafe.study.reading import DEVIATION, protocol_of, study_config
from specsafe.study.run import Job, Progress, run_jobs, sharing
from specsafe.study.schema import differences, dump
from specsafe.study.sources import Asked, limited, read_asked
from specsafe.words import form, plural

Notice = Callable[[str], None]
Report = Callable[[Progress], None]


@dataclass(frozen=True)
class Wanted:
    """Which part of a study is run.

    places: phases and blocks, none for all. only: patterns, one of which a cell's key or arm must match. limit: items an
    axis, 0 for all. workers: arms open at a time, 0 for what the engine takes. own: name of an arm -> keys that belong to
    this machine.
    """

    places: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    limit: int = 0
    workers: int = 0
    own: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Done:
    """What there is after a run: answers that are there, and answers that the whole protocol plans."""

    answered: int
    planned: int
    complete: bool


def run_study(
    protocol: Protocol,
    lock: Json | None,
    data: Path,
    out: Path,
    wanted: Wanted,
    *,
    notice: Notice = lambda _: None,
    report: Report | None = None,
) -> Done:
    """Run or continue the study in `out`. lock: what study.lock keeps beside the protocol's file, if it was locked.

    Raises UserError for anything that the user can mend; finished answers are kept.
    """
    asked = read_asked(protocol, data)
    planned = cells(protocol, asked.tasks)
    chosen = choose(protocol, planned, wanted)
    arms = arms_of(protocol, chosen, wanted.own)
    for name, arm in arms.items():
        _require_settled(name, arm)
    with storage_errors(out):
        (out / "logs").mkdir(parents=True, exist_ok=True)
        if has_study(out / LEDGER):
            _require_same_study(protocol, out / LEDGER)
            notice(f"continuing {out / LEDGER}")
        facts = {
            "protocol": protocol.text,
            "tasks": asked.tasks,
            "batteries": asked.hashes,
            "lock": _summary(lock),
        }
        config = study_config(protocol)
        with open_ledger(out / LEDGER, config, facts, asked.battery, __version__) as ledger:
            _require_order(protocol, ledger)
            for line in deviations(lock, protocol, asked.hashes):
                ledger.event(f"{DEVIATION}{line}")
            settle(ledger, arms, asked, notice)
            ready = {name: settled(arm, ledger.resolved()) for name, arm in arms.items()}
            jobs = make_jobs(chosen, ready, asked.battery.items, limited(asked, wanted.limit))
            _require_unchanged(jobs, ledger)
            _answer(jobs, ledger, out / "logs", wanted.workers, notice, report)
            return _close(ledger, planned)


def _require_same_study(protocol: Protocol, path: Path) -> None:
    """What is in the folder may be another study, or none; what changed within this one is told later, key by key."""
    with read_ledger(path) as ledger:
        kept = protocol_of(ledger)
    if (kept.name, kept.variant) != (protocol.name, protocol.variant):
        raise UserError(
            f"{path} holds study {kept.name}, {kept.variant}, not {protocol.name}, {protocol.variant}",
            "name another --out folder",
        )


def _require_order(protocol: Protocol, ledger: Ledger) -> None:
    """Names of arms and the order of answers follow the order in which a protocol names things."""
    if ledger.resolved()["protocol"] != protocol.text:
        raise UserError(
            "names stand in another order in the protocol than when this ledger began",
            "restore the file, or name a new --out folder",
        )


def _summary(lock: Json | None) -> Json | None:
    return None if lock is None else {k: lock[k] for k in ("sha256", "at", "version")}


def _require_settled(name: str, arm: AnyArm) -> None:
    """Servers of one study are asked on different days: how many requests are in flight must not be found out anew."""
    if isinstance(arm, OpenAIArm) and "auto" in (arm.concurrency, arm.dialect):
        raise UserError(
            f"arm {name}: concurrency and dialect must be named in a study",
            "add them to its engine in the protocol",
        )


def settle(ledger: Ledger, arms: Mapping[str, AnyArm], asked: Asked, notice: Notice) -> None:
    """Threads, slots and arms at once, by kind of engine: found when a kind first runs, and kept from then on."""
    for arm in arms.values():
        if arm.kind in ledger.resolved():
            continue
        found: Json = {"at_once": 1}
        if isinstance(arm, NativeArm):
            from specsafe.engines.native import resolved

            found = resolved(arm)
        elif isinstance(arm, VllmArm):
            from specsafe.engines import vllm

            found = {k: v for k, v in vllm.resolved({"target": arm}).items() if k != "absent"}
        elif isinstance(arm, LlamaCppArm):
            from specsafe.engines.probe import choose_concurrency

            check_arm(arm)
            if "auto" in (arm.threads, arm.slots):
                notice("choosing threads and slots of llama.cpp")
            found = choose_concurrency(arm, [i.prompt for i in asked.battery.items[:16]])
        ledger.add_resolved({arm.kind: found})


def _answer(
    jobs: Sequence[Job], ledger: Ledger, logs: Path, workers: int, notice: Notice, report: Report | None
) -> None:
    """Probe and run what is unfinished."""
    unfinished = [j for j in jobs if not _is_settled(j, ledger)]
    if not unfinished:
        return
    left = sum(len(j.items) for j in unfinished)
    notice(f"{plural(len({j.arm_id for j in unfinished}), 'arm')}, at most {plural(left, 'answer')} to make")
    resolved = ledger.resolved()
    at_once = workers or min(resolved[j.arm.kind]["at_once"] for j in unfinished)
    probed, opened = preflight(_to_probe(unfinished), logs, _begin(unfinished, at_once))
    for role, seen in probed.items():
        notice(f"preflight of {role}: answers; {plural(seen.drafted, 'token')} drafted on its probes")
    try:
        run_jobs(unfinished, ledger, at_once=at_once, logs=logs, report=report, opened=opened)
    finally:
        close_all(opened)
    for job in unfinished:
        if isinstance(job.arm, RecordedArm):
            _name_what_was_not_recorded(job, ledger)
    if ledger.duplicates:
        notice(
            f"{plural(ledger.duplicates, 'answer')} arrived twice and {form(ledger.duplicates, 'was', 'were')} not stored again"
        )


def _begin(jobs: Sequence[Job], at_once: int) -> set[str]:
    """Sessions with which the run begins: they go on where their preflight ended. A restart is a new process."""
    return {group[0].session for group in sharing(jobs)[:at_once] if group[0].replicate == 0}


def _to_probe(jobs: Sequence[Job]) -> list[Job]:
    """One speculative arm for each pair of networks, and every server: what the others would show again is not loaded twice."""
    first: dict[tuple[str, ...], Job] = {}
    for job in jobs:
        if isinstance(job.arm, OpenAIArm) or (isinstance(job.arm, LiveArm) and job.arm.speculative):
            first.setdefault(loaded(job.arm), job)
    return list(first.values())


def _name_what_was_not_recorded(job: Job, ledger: Ledger) -> None:
    there = ledger.settled(job.arm_id, job.replicate)
    for item in job.items:
        if item.id not in there:
            ledger.add(job.arm_id, job.replicate, Failure(item.id, "no answer was recorded", 1))
    ledger.commit()


def _is_settled(job: Job, ledger: Ledger) -> bool:
    return ledger.settled(job.arm_id, job.replicate).issuperset(i.id for i in job.items)


def _require_unchanged(jobs: Sequence[Job], ledger: Ledger) -> None:
    """The id of an arm is the hash of its configuration and files: what began is what goes on."""
    began = ledger.arms()
    for job in jobs:
        arm = began.get(job.role)
        if arm is None or arm["id"] == job.arm_id:
            continue
        now = json.loads(dump(job.arm.model_dump()))
        what = differences(arm["config"], now) or "the files behind it changed"
        raise UserError(
            f"arm {job.role} is not what this ledger began with: {what}",
            "restore it, or name a new --out folder",
        )


def _close(ledger: Ledger, planned: Sequence[Cell]) -> Done:
    """Count what is there; a study of which nothing is left to ask is complete."""
    wanted = answers_to_make(planned)
    there = answered(ledger, wanted)
    total = sum(map(len, wanted.values()))
    if there == total and not ledger.complete:
        ledger.set_complete()
    return Done(there, total, ledger.complete)


def answered(ledger: Ledger, wanted: Mapping[tuple[str, int], set[str]]) -> int:
    """How many of these answers are settled."""
    ids = {role: arm["id"] for role, arm in ledger.arms().items()}
    return sum(
        len(items & ledger.settled(ids[name], replicate))
        for (name, replicate), items in wanted.items()
        if name in ids
    )


def choose(protocol: Protocol, planned: Sequence[Cell], wanted: Wanted) -> list[Cell]:
    """The cells of the places and patterns that are wanted. Raises UserError if there is none."""
    unknown = [p for p in wanted.places if p not in protocol.places]
    if unknown:
        raise UserError(
            f"no phase or block {unknown[0]!r}", f"the protocol has: {', '.join(protocol.places)}"
        )
    hint = "see: specsafe study plan FILE --arms"
    placed = [c for c in planned if not wanted.places or c.where in wanted.places]
    if not placed:
        raise UserError("these phases ask nothing new", hint)
    matches = {p: [c for c in placed if fnmatch(c.key, p) or fnmatch(c.arm, p)] for p in wanted.only}
    nothing = [p for p, cells_ in matches.items() if not cells_]
    if nothing:
        raise UserError(f"no cell matches {nothing[0]}", hint)
    kept = {c.key for cells_ in matches.values() for c in cells_}
    return [c for c in placed if c.key in kept or not wanted.only]
