"""Preflight: refuse to start what could not be trusted, with a probe request per arm."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import NamedTuple

from specsafe.battery import Item
from specsafe.battery.items import hash_rank
from specsafe.engines import LiveArm, NativeArm, OpenAIArm, Request, Sample, Session, native, open_session
from specsafe.engines.base import Json
from specsafe.errors import UserError
from specsafe.study.run import Job, by_server, sharing
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


class Preflight(NamedTuple):
    """probed: what was seen, by role. opened: sessions that were to stay open, by the name that their jobs share."""

    probed: dict[str, Probed]
    opened: dict[str, Session]


def preflight(jobs: Sequence[Job], logs: Path | None = None, keep: Collection[str] = ()) -> Preflight:
    """Open every live arm, ask it something, and prove that speculation drafts.

    Of a series of doses the strongest stands for all. Jobs that share a session are asked in one; those of the native engine
    that are named in `keep` stay open, with all that they loaded. Raises UserError if an arm does not answer or a speculative
    one drafts nothing on the probe prompts.
    """
    found = Preflight({}, {})
    doses = [j.role for j in jobs if j.role.startswith("leak-")]
    unprobed = {"replicate", *doses[:-1]}
    # the run begins with the first: a server of ours, or a session that stays open, is to be up then
    backwards = any(getattr(j.arm, "serve", "") or j.session for j in jobs)
    order = reversed(by_server(jobs)) if backwards else jobs
    try:
        for group in sharing(j for j in order if isinstance(j.arm, LiveArm) and j.role not in unprobed):
            _probe_together(group, logs, keep, found)
    except BaseException:
        close_all(found.opened)
        raise
    return Preflight({j.role: found.probed[j.role] for j in jobs if j.role in found.probed}, found.opened)


def close_all(opened: dict[str, Session]) -> None:
    """Close what was left open."""
    while opened:
        opened.popitem()[1].close()


def _probe_together(group: Sequence[Job], logs: Path | None, keep: Collection[str], found: Preflight) -> None:
    """Probe the arms of one session, in one worker where it can become each of them."""
    session: Session | None = None
    with ExitStack() as stack:
        for job in group:
            if session is not None and isinstance(job.arm, NativeArm):
                native.become(session, job.arm, hold=job.session in keep)
            else:
                session = stack.enter_context(closing(_opened(job, logs)))
            found.probed[job.role] = _probe(session, job, logs)
        if session is not None and isinstance(job.arm, NativeArm) and job.session in keep:
            stack.pop_all()
            found.opened[job.session] = session


def _opened(job: Job, logs: Path | None) -> Session:
    # one request at a time: where a server has counters alone, they then belong to it
    arm = job.arm.model_copy(update={"concurrency": 1}) if isinstance(job.arm, OpenAIArm) else job.arm
    return open_session(arm, logs / f"{job.role}.log" if logs else None)


def _probe(session: Session, job: Job, logs: Path | None) -> Probed:
    arm, count, answered = job.arm, 0, 0
    if not isinstance(arm, LiveArm):
        raise TypeError(f"{job.role} has nothing to ask")
    if isinstance(arm, NativeArm):
        native.require_room(session, arm, [Request(i.id, i.prompt) for i in job.items])
    for item in _probes(job.items):
        samples = list(session.generate([Request(item.id, item.prompt)]))
        if len(samples) == 1 and isinstance(samples[0], Sample):
            answered += 1
            count += samples[0].drafted or 0
        if answered and (count or not arm.speculative or _untold(arm)):
            return Probed(count, session.fingerprint())
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
