"""Preflight: refuse to start a screen that could not be trusted, with a probe request per arm."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from specsafe.battery import Item
from specsafe.battery.items import hash_rank
from specsafe.engines import LlamaCppArm, NativeArm, Request, Sample, native, open_session
from specsafe.errors import UserError
from specsafe.study.run import Job

PROBES = 6


def preflight(jobs: Sequence[Job], logs: Path | None = None) -> dict[str, int]:
    """Open every live arm, ask it something, and prove that speculation drafts -> drafted tokens by role.

    Of a series of doses the strongest stands for all. Raises UserError if an arm does not answer or a speculative
    one drafts nothing on the probe prompts.
    """
    drafted: dict[str, int] = {}
    doses = [j.role for j in jobs if j.role.startswith("leak-")]
    unprobed = {"replicate", *doses[:-1]}
    for job in jobs:
        if isinstance(job.arm, LlamaCppArm | NativeArm) and job.role not in unprobed:
            drafted[job.role] = _probe(job, job.arm, logs)
    return drafted


def _probe(job: Job, arm: LlamaCppArm | NativeArm, logs: Path | None) -> int:
    session = open_session(arm, logs / f"{job.role}.log" if logs else None)
    count = answered = 0
    try:
        if isinstance(arm, NativeArm):
            native.require_room(session, arm, [Request(i.id, i.prompt) for i in job.items])
        for item in _probes(job.items):
            samples = list(session.generate([Request(item.id, item.prompt)]))
            if len(samples) == 1 and isinstance(samples[0], Sample):
                answered += 1
                count += samples[0].drafted or 0
            if answered and (not arm.speculative or count):
                return count
    finally:
        session.close()
    if not answered:
        raise UserError(
            f"the {job.role} arm answered none of {min(PROBES, len(job.items))} probe prompts",
            f"see {logs}" if logs else "try the arm by hand",
        )
    raise UserError(
        f"the {job.role} arm (draft={arm.draft}) drafted 0 tokens on {min(PROBES, len(job.items))} probe prompts: nothing would be speculated",
        "use a draft model such as draft=layers:…, or an n-gram variant and prompts that repeat themselves",
    )


def _probes(items: Sequence[Item]) -> list[Item]:
    return sorted(items, key=lambda i: hash_rank(i.id, "probe"))[:PROBES]
