"""Preflight: refuse to start what could not be trusted, with a probe request per arm."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from specsafe.battery import Item
from specsafe.battery.items import hash_rank
from specsafe.engines import LiveArm, NativeArm, OpenAIArm, Request, Sample, native, open_session
from specsafe.engines.base import Json
from specsafe.errors import UserError
from specsafe.study.run import Job, by_server
from specsafe.words import plural

PROBES = 6
_SERVER_HINT = (
    "see what the server tells with specsafe doctor; vLLM needs --speculative-config and "
    "--per-request-spec-decode-metrics detailed; telemetry=none goes on unproved"
)


class Probed(NamedTuple):
    """What the probe of an arm showed: tokens drafted on its prompts, and what runs."""

    drafted: int
    fingerprint: Json


def preflight(jobs: Sequence[Job], logs: Path | None = None) -> dict[str, Probed]:
    """Open every live arm, ask it something, and prove that speculation drafts -> what was seen, by role.

    Of a series of doses the strongest stands for all. Raises UserError if an arm does not answer or a speculative
    one drafts nothing on the probe prompts.
    """
    probed: dict[str, Probed] = {}
    doses = [j.role for j in jobs if j.role.startswith("leak-")]
    unprobed = {"replicate", *doses[:-1]}
    starts = any(getattr(j.arm, "serve", "") for j in jobs)
    # the run begins with the first: a server of ours is to be up then
    for job in reversed(by_server(jobs)) if starts else jobs:
        if isinstance(job.arm, LiveArm) and job.role not in unprobed:
            probed[job.role] = _probe(job, job.arm, logs)
    return {j.role: probed[j.role] for j in jobs if j.role in probed}


def _probe(job: Job, arm: LiveArm, logs: Path | None) -> Probed:
    # one request at a time: where a server has counters alone, they then belong to it
    alone = arm.model_copy(update={"concurrency": 1}) if isinstance(arm, OpenAIArm) else arm
    session = open_session(alone, logs / f"{job.role}.log" if logs else None)  # type: ignore[arg-type]
    count = answered = 0
    try:
        if isinstance(arm, NativeArm):
            native.require_room(session, arm, [Request(i.id, i.prompt) for i in job.items])
        for item in _probes(job.items):
            samples = list(session.generate([Request(item.id, item.prompt)]))
            if len(samples) == 1 and isinstance(samples[0], Sample):
                answered += 1
                count += samples[0].drafted or 0
            if answered and (count or not arm.speculative or _untold(arm)):
                return Probed(count, session.fingerprint())
    finally:
        session.close()
    if not answered:
        raise UserError(
            f"the {job.role} arm answered none of {plural(min(PROBES, len(job.items)), 'probe prompt')}",
            f"see {logs}" if logs else "try the arm by hand",
        )
    raise UserError(
        f"the {job.role} arm (draft={arm.draft}) drafted 0 tokens on {plural(min(PROBES, len(job.items)), 'probe prompt')}: nothing would be speculated",
        _SERVER_HINT
        if isinstance(arm, OpenAIArm)
        else "use a draft model such as draft=layers:…, or an n-gram variant and prompts that repeat themselves",
    )


def _untold(arm: LiveArm) -> bool:
    """Whether the user said that nothing will show whether this server drafts."""
    return isinstance(arm, OpenAIArm) and arm.telemetry == "none"


def _probes(items: Sequence[Item]) -> list[Item]:
    return sorted(items, key=lambda i: hash_rank(i.id, "probe"))[:PROBES]
