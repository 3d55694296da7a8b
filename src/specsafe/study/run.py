"""The executor: jobs in, samples in the ledger out. Sessions work in threads, this thread alone writes."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from specsafe.battery import Item
from specsafe.battery.items import hash_rank
from specsafe.engines import Arm, Failure, NativeArm, Request, Sample, Session, native, open_session
from specsafe.engines.base import Json
from specsafe.errors import UserError
from specsafe.study.ledger import Ledger

COMMIT_ROWS = 100
COMMIT_SECONDS = 0.25


@dataclass(frozen=True)
class Job:
    """One arm in one replicate over some items. Roles are unique within a study.

    session: jobs that follow each other and name the same one are asked in one open session; "": one of its own. Only arms
    of the native engine may differ within a session.
    """

    role: str
    arm: Arm
    arm_id: str
    replicate: int
    items: tuple[Item, ...]
    session: str = ""

    def ordered(self) -> tuple[Item, ...]:
        """Replicate 0 asks in the battery's order, any other in a hashed order of its own."""
        if self.replicate == 0:
            return self.items
        return tuple(sorted(self.items, key=lambda i: hash_rank(i.id, f"order {self.replicate}")))


@dataclass(frozen=True)
class Progress:
    """How far a run is: answers there (including those from before a resume) and answers planned."""

    done: int
    planned: int
    seconds_left: float | None


@dataclass
class _Message:
    job: Job
    fingerprint: Json | None = None
    answer: Sample | Failure | None = None
    error: BaseException | None = None
    ended: bool = False


def run_jobs(
    jobs: Sequence[Job],
    ledger: Ledger,
    *,
    at_once: int,
    logs: Path | None = None,
    report: Callable[[Progress], None] | None = None,
    opened: dict[str, Session] | None = None,
) -> None:
    """Answer every item of every job that the ledger does not hold yet.

    at_once: how many arms are open at the same time. opened: sessions that a preflight left open, by the name that their jobs
    share; what is used of them is taken out and closed. A failure in one arm stops the others; whatever was
    finished is committed first. Raises what the arm raised.
    """
    for job in jobs:
        ledger.describe_arm(job.role, job.arm_id, job.replicate, job.arm.model_dump(), len(job.items))
    inbox: queue.Queue[_Message] = queue.Queue()
    waiting = [(job, missing) for job in by_server(jobs) if (missing := _missing(job, ledger))]
    planned = sum(len(j.items) for j in jobs)
    left = sum(len(missing) for _, missing in waiting)
    new, uncommitted, last_commit = 0, 0, time.monotonic()
    sessions = _sessions(waiting)
    open_jobs: dict[str, _Worker] = {}
    pace = _Pace({job.role: len(missing) for job, missing in waiting}, at_once)
    try:
        while sessions or open_jobs:
            while sessions and len(open_jobs) < at_once:
                work = sessions.pop(0)
                first = work[0][0]
                left_open = (opened or {}).pop(first.session, None)
                open_jobs[first.role] = _Worker(work, inbox, logs, left_open)
            message = _next(inbox)
            if message is not None:
                if message.error is not None:
                    raise message.error
                if message.fingerprint is not None:
                    ledger.set_fingerprint(message.job.role, message.fingerprint)
                    pace.began(message.job.role)
                if message.answer is not None:
                    ledger.add(message.job.arm_id, message.job.replicate, message.answer)
                    new, uncommitted = new + 1, uncommitted + 1
                    pace.answered(message.job.role)
                if message.ended:
                    del open_jobs[message.job.role]
            if uncommitted and (
                uncommitted >= COMMIT_ROWS or time.monotonic() - last_commit >= COMMIT_SECONDS
            ):
                ledger.commit()
                uncommitted, last_commit = 0, time.monotonic()
            if report is not None:
                report(Progress(planned - left + new, planned, pace.seconds_left()))
    finally:
        for worker in open_jobs.values():
            worker.stop()
        _keep_what_arrived(inbox, ledger)


def by_server(jobs: Sequence[Job]) -> list[Job]:
    """The jobs in their order, but those of one server that we start side by side: starting it takes long.

    Jobs that name sessions are in an order of their own, which is kept.
    """
    if any(j.session for j in jobs):
        return list(jobs)
    servers = [getattr(j.arm, "serve", "") or j for j in jobs]
    ranks = {id(j): (servers.index(s), j.replicate > 0) for j, s in zip(jobs, servers, strict=True)}
    return sorted(jobs, key=lambda j: ranks[id(j)])


class _Pace:
    """Time left, from the seconds an answer that each arm takes; an arm not begun is taken as average."""

    def __init__(self, left: dict[str, int], at_once: int) -> None:
        self._left, self._at_once = left, at_once
        self._began: dict[str, float] = {}
        self._each: dict[str, float] = {}
        self._count: dict[str, int] = dict.fromkeys(left, 0)

    def began(self, role: str) -> None:
        self._began[role] = time.monotonic()

    def answered(self, role: str) -> None:
        """Counted from the arm's beginning: answers of one batch arrive together, in no time at all."""
        self._left[role] -= 1
        self._count[role] += 1
        self._each[role] = (time.monotonic() - self._began[role]) / self._count[role]

    def seconds_left(self) -> float | None:
        """None until some arm has answered."""
        if not self._each:
            return None
        average = sum(self._each.values()) / len(self._each)
        work = [n * self._each.get(role, average) for role, n in self._left.items()]
        return max(sum(work) / self._at_once, *work) if work else 0.0


def _missing(job: Job, ledger: Ledger) -> list[Item]:
    settled = ledger.settled(job.arm_id, job.replicate)
    return [i for i in job.ordered() if i.id not in settled]


_Work = list[tuple[Job, list[Item]]]


def _sessions(waiting: _Work) -> list[_Work]:
    """Jobs that share an open session, together."""
    missing = {job.role: items for job, items in waiting}
    return [[(j, missing[j.role]) for j in group] for group in sharing([job for job, _ in waiting])]


def sharing(jobs: Iterable[Job]) -> list[list[Job]]:
    """The jobs in their order, those that follow each other in one open session together."""
    together: list[list[Job]] = []
    for job in jobs:
        if together and job.session and together[-1][0].session == job.session:
            together[-1].append(job)
        else:
            together.append([job])
    return together


def _keep_what_arrived(inbox: queue.Queue[_Message], ledger: Ledger) -> None:
    """Commit finished answers that still wait when a run ends early."""
    while not inbox.empty():
        message = inbox.get_nowait()
        if message.answer is not None:
            ledger.add(message.job.arm_id, message.job.replicate, message.answer)
    ledger.commit()


def _next(inbox: queue.Queue[_Message]) -> _Message | None:
    try:
        return inbox.get(timeout=COMMIT_SECONDS)
    except queue.Empty:
        return None


class _Worker:
    """A thread that opens one session, or goes on in one that is open, and forwards what it yields."""

    def __init__(
        self, work: _Work, inbox: queue.Queue[_Message], logs: Path | None, session: Session | None
    ) -> None:
        self._work, self._inbox, self._logs = work, inbox, logs
        self._stopped = threading.Event()
        self._session = session
        threading.Thread(target=self._run, daemon=True).start()

    def stop(self) -> None:
        """Close the session, which ends the thread."""
        self._stopped.set()
        if self._session is not None:
            self._session.close()

    def _run(self) -> None:
        job = self._work[0][0]
        asked, session, goes_on = None, self._session, self._session is not None
        try:
            if session is None:
                log = self._logs / f"{job.role}.log" if self._logs else None
                self._session = session = open_session(job.arm, log, fresh=job.replicate > 0)
                asked = job.arm
            if self._stopped.is_set():
                session.close()
            for job, items in self._work:
                if isinstance(job.arm, NativeArm) and job.arm != asked:
                    native.become(session, job.arm, hold=goes_on)  # its preflight loaded what will be needed
                    asked = job.arm
                self._inbox.put(_Message(job, fingerprint=session.fingerprint()))
                for answer in session.generate([Request(i.id, i.prompt, job.replicate) for i in items]):
                    self._inbox.put(_Message(job, answer=answer))
            session.close()
        except BaseException as error:  # handed to the writing thread, which raises it
            if not self._stopped.is_set():
                self._inbox.put(_Message(job, error=error))
            return
        self._inbox.put(_Message(self._work[0][0], ended=True))


def require_unique_roles(jobs: Sequence[Job]) -> None:
    """Two jobs with one role, or one key in the ledger, would overwrite each other's place."""
    for what, values in (
        ("role", [j.role for j in jobs]),
        ("arm and replicate", [(j.arm_id, j.replicate) for j in jobs]),
    ):
        if len(set(values)) != len(values):
            raise UserError(f"two arms of the plan share one {what}", "make the arms differ")
