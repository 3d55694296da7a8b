"""A worker process an arm: native code lives there, an abort costs the work in flight, a restart is a restart.

The worker speaks JSON lines: the configuration in, {"ready": facts} or {"failed": reason} out, then a line in for
each thing asked and a line out for each answer. It is started again where it dies, and asked for what is missing.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from specsafe.engines.base import Failure, Json, Request, Sample, refuse_reply
from specsafe.errors import UserError

_TRIES = 3
_PLAIN: Json = {"item": "plain prompt", "prompt": "Say hello."}


@dataclass(frozen=True)
class WorkerSpec:
    """What a session needs to know of its worker.

    module: run as `python -m module`, or the path of a file. config: its first line. engine, model: named in errors. facts: what the parent
    adds to the fingerprint; claimed: what holds where the worker tells nothing of it. in_flight: requests that may be the
    cause when it dies. sample: an answer line -> Sample. reads_replies: whether it can be asked about an answer
    (Request.reply). python: that runs it, "" for this one. environment: beside that of this process. start_seconds: until
    it must be ready.
    """

    module: str
    config: Json
    engine: str
    model: str
    facts: Json
    in_flight: int
    sample: Callable[[Json], Sample]
    reads_replies: bool = False
    claimed: Json = field(default_factory=dict)
    python: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)
    start_seconds: float = 600

    @property
    def command(self) -> list[str]:
        """The words that start it."""
        named = [self.module] if self.module.endswith(".py") else ["-m", self.module]
        return [self.python or sys.executable, *named]


class WorkerSession:
    """One worker process; see engines.base.Session."""

    def __init__(self, spec: WorkerSpec, log: Path | None) -> None:
        self._spec, self._log = spec, log
        self._process: subprocess.Popen[str] | None = None
        self._facts: Json = {}
        self._closed = False
        self._ending = threading.Lock()
        self._start()

    def fingerprint(self) -> Json:
        """Versions, hashes, rule, threads and slots of what runs."""
        return {**self._spec.claimed, **self._facts, **self._spec.facts}

    def generate(self, requests: Iterable[Request]) -> Iterator[Sample | Failure]:
        """Yield a sample or a failure for each request as it completes; see engines.base.Session."""
        for answer in self.ask({r.item: self.line(r) for r in requests}):
            yield answer if isinstance(answer, Failure) else self._spec.sample(answer)

    def line(self, request: Request) -> Json:
        """A request as the worker reads it. Raises UserError for a reply where the engine cannot be asked about one."""
        line: Json = {"item": request.item, "prompt": request.prompt, "replicate": request.replicate}
        if not self._spec.reads_replies:
            refuse_reply(request, self._spec.engine)
        return line if request.reply is None else {**line, "reply": request.reply}

    def ask(self, asked: Mapping[str, Json]) -> Iterator[Json | Failure]:
        """Item -> line for the worker; yields its answer lines, or failures, in order of completion.

        Where the worker dies, one of the items in flight may be the cause: they are asked again alone, and
        an item that kills it _TRIES times is given up. Raises UserError if the worker dies on a plain prompt too.
        """
        pending = dict(asked)
        tries: dict[str, int] = {}
        while pending and not self._closed:
            worker = self._process
            if worker is None or ended(worker):
                self._start()
                continue
            suspects = [i for i in pending if i in tries][:1]
            now = suspects or list(pending)
            self._send(worker, [pending[i] for i in now])
            for answer in self._receive(worker, pending, len(now)):
                tries.pop(answer.item if isinstance(answer, Failure) else answer["item"], None)
                yield answer
            if not ended(worker) or self._closed:
                continue
            for item in suspects or list(pending)[: self._spec.in_flight]:
                tries[item] = tries.get(item, 0) + 1
                if tries[item] >= _TRIES:
                    del pending[item], tries[item]
                    yield self._give_up(item)

    def _give_up(self, item: str) -> Failure:
        """The failure of an item, once the worker has shown on a plain prompt that it is not the engine's."""
        reason = f"the worker died on it; last log line: {self._last_log()}"
        if self._process is None or ended(self._process):
            self._start()
        assert self._process is not None
        self._send(self._process, [_PLAIN])
        if not any(self._receive(self._process, {_PLAIN["item"]: _PLAIN}, 1)) and not self._closed:
            raise UserError(
                f"the {self._spec.engine} worker died {_TRIES} times on {item}, and then on a plain prompt; last log line: {self._last_log()}",
                "finished answers are kept; mend the engine and run the same command to continue",
            )
        return Failure(item, reason, _TRIES)

    def become(self, spec: WorkerSpec) -> None:
        """Be another arm of the same engine in the same process, once nothing is asked any more. Raises UserError.

        A worker that died is started as the new arm.
        """
        self._spec = spec
        worker = self._process
        if worker is None or ended(worker):
            self._start()
            return
        message = self._hear(worker, {"arm": spec.config})
        if "ready" in message:
            self._facts = message["ready"]
        else:
            self._start()  # says why it cannot, or was only killed

    def close(self) -> None:
        """Stop the worker; a generate() that waits for it in another thread ends."""
        self._closed = True
        self._kill()

    def _kill(self) -> None:
        with self._ending:  # close() may come from another thread
            worker, self._process = self._process, None
        if worker is not None:
            end(worker)

    def _start(self) -> None:
        """Start the worker; one that is killed while it loads is started again. Raises UserError."""
        for left in reversed(range(_TRIES)):
            self._kill()
            self._process = worker = spawn(self._spec.command, self._log, self._spec.environment)
            message = self._hear(worker, self._spec.config)
            if "ready" in message:
                self._facts = message["ready"]
                return
            killed = ended(worker) and "failed" not in message
            self._kill()
            if not killed or not left:
                reason = message.get("failed", f"no answer from the worker; {self._last_log()}")
                raise UserError(
                    f"{self._spec.engine} cannot open {self._spec.model}: {reason}",
                    message.get("hint")
                    or (f"see {self._log}" if self._log else "check that the model's files are complete"),
                )

    def _hear(self, worker: subprocess.Popen[str], told: Json) -> Json:
        """Send a line with a configuration -> {"ready": …} or {"failed": …}; {} if the worker said nothing."""
        assert worker.stdin and worker.stdout
        try:
            worker.stdin.write(json.dumps(told) + "\n")
            worker.stdin.flush()
        except BrokenPipeError:  # it died before it read anything
            ended(worker, wait=True)
            return {}
        readable, _, _ = select.select([worker.stdout], [], [], self._spec.start_seconds)
        line = worker.stdout.readline() if readable else ""
        if not line.endswith("\n"):
            if readable:
                ended(worker, wait=True)
            return {}
        return dict(json.loads(line))

    def _send(self, worker: subprocess.Popen[str], asked: Iterable[Json]) -> None:
        """Queue all requests in the worker, from a thread so that a full pipe cannot block the reading."""
        lines = [json.dumps(a) + "\n" for a in asked]
        assert worker.stdin
        pipe = worker.stdin

        def write() -> None:
            try:
                for line in lines:
                    pipe.write(line)
                pipe.flush()
            except (BrokenPipeError, ValueError):
                return  # the worker died or was closed: the reader notices and decides

        threading.Thread(target=write, daemon=True).start()

    def _receive(
        self, worker: subprocess.Popen[str], pending: dict[str, Json], expected: int
    ) -> Iterator[Json | Failure]:
        """What the worker answers, until all that was asked is there or the worker has died."""
        assert worker.stdout
        for _ in range(expected):
            line = worker.stdout.readline()
            if not line.endswith("\n"):  # end of file, or half a line of a killed worker
                ended(worker, wait=True)
                return
            message = json.loads(line)
            del pending[message["item"]]
            if "error" in message:
                yield Failure(message["item"], f"{self._spec.engine} refused it: {message['error']}", 1)
            else:
                yield message

    def _last_log(self) -> str:
        if self._log is None or not self._log.exists():
            return "no log"
        lines = self._log.read_bytes()[-4096:].decode("utf-8", "replace").strip().splitlines()
        return lines[-1][:200] if lines else "empty log"


def spawn(
    command: Sequence[str], log: Path | None, environment: Mapping[str, str] | None = None
) -> subprocess.Popen[str]:
    """A worker with pipes for lines, first of a process group of its own; what it prints besides goes to the log."""
    with Path(log or os.devnull).open("ab") as stderr:
        return subprocess.Popen(
            command,
            env={**os.environ, **(environment or {})},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            encoding="utf-8",
            start_new_session=True,  # Ctrl-C reaches the parent alone, which then stops its workers
        )


def ended(worker: subprocess.Popen[Any], *, wait: bool = False) -> bool:
    """Whether a worker is dead. It is not reaped by that: its pid, that of its group, stays its own until `end`."""
    if worker.returncode is not None:
        return True
    options = os.WEXITED | os.WNOWAIT | (0 if wait else os.WNOHANG)
    with contextlib.suppress(ChildProcessError):  # another thread has just reaped it
        return os.waitid(os.P_PID, worker.pid, options) is not None
    return True


def end(worker: subprocess.Popen[Any]) -> None:
    """Kill a worker, dead or not, with all that it started, and only then reap it: a reaped pid may be another's."""
    if worker.returncode is None:
        os.killpg(worker.pid, signal.SIGKILL)
        worker.wait()
    assert worker.stdin and worker.stdout
    with contextlib.suppress(BrokenPipeError):  # of requests that it never read; nobody wants them now
        worker.stdin.close()
    worker.stdout.close()


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
