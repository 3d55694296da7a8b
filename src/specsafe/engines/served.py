"""Servers that specsafe starts itself: on loopback, on a free port, one at a time, and gone when they are not needed.

A server that nobody uses stays up until another one is to start, for starting takes long; an arm that must be a restart
gets one of its own. Each lives below a keeper (engines.keeper), which ends it when this process ends, however it does.
"""

from __future__ import annotations

import atexit
import http.client
import re
import shlex
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from specsafe.engines.arm_openai import OpenAIArm, serve_words
from specsafe.errors import UserError

_HOST = "127.0.0.1"
_KEEPER = Path(__file__).with_name("keeper.py")
_LOOK = 0.2
_STOP_SECONDS = 30.0
_TAIL = 16384  # bytes
_ERROR = re.compile(r"\b\w*(?:Error|Exception): ")
_LISTEN = "0A"  # state of a socket in /proc/net/tcp
_LOCK = threading.Lock()
_RUNNING: list[Running] = []


class Running:
    """One started server. url: its API. users: sessions that use it now."""

    def __init__(self, command: str, log: Path | None) -> None:
        self.command, self.users = command, 1
        self.port = free_port()
        self.url = f"http://{_HOST}:{self.port}/v1"
        self._temporary = log is None
        self.log = log or Path(tempfile.mkstemp(prefix="specsafe-", suffix=".log")[1])
        with self.log.open("ab") as stream:
            self._keeper = subprocess.Popen(
                [sys.executable, "-I", str(_KEEPER), *command_line(command, self.port)],
                stdin=subprocess.PIPE,
                stdout=stream,
                stderr=stream,
                start_new_session=True,  # Ctrl-C reaches this process alone, which then stops the server
            )

    @property
    def pid(self) -> int:
        """Of the keeper."""
        return self._keeper.pid

    @property
    def alive(self) -> bool:
        """Whether the server runs, as far as its keeper knows."""
        return self._keeper.poll() is None

    def ends_within(self, seconds: float) -> bool:
        """Whether the server is gone, or goes in that time."""
        try:
            self._keeper.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def wait(self, seconds: float) -> None:
        """Until it answers. Raises UserError if it dies, takes too long, or listens to more than this machine."""
        end = time.monotonic() + seconds
        while not self._answers():
            if not self.alive:
                raise self.died("as it started")
            if time.monotonic() > end:
                raise UserError(
                    f"{self._name} does not answer within {seconds:g} s of its start; last line of its log: {self.last_line()}",
                    f"see {self._place}; serve_timeout= gives it longer",
                )
            time.sleep(_LOOK)
        if not self.alive:
            raise self.died("as it started")
        if heard_from_outside(self.port):
            raise UserError(
                f"{self._name} listens to more than this machine",
                "add --host 127.0.0.1, or what it calls that",
            )

    def died(self, when: str) -> UserError:
        """What to say of a server that is gone."""
        return UserError(
            f"{self._name} died {when}, exit code {self._keeper.wait()}; last line of its log: {self.last_line()}",
            f"see {self._place}; finished answers are kept",
        )

    def stop(self) -> None:
        """End it and all its processes, and wait for that."""
        if self._keeper.stdin and not self._keeper.stdin.closed:
            self._keeper.stdin.close()
        try:
            self._keeper.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._keeper.kill()
            self._keeper.wait()
        if self._temporary:
            self.log.unlink(missing_ok=True)

    def last_line(self) -> str:
        """Of its log the last line that names an error, or the last one: printable, and cut.

        What a server warns of as it ends comes after the reason why it does.
        """
        if not self.log.exists():
            return "no log"
        with self.log.open("rb") as stream:
            stream.seek(max(0, self.log.stat().st_size - _TAIL))
            said = [x for x in stream.read().decode("utf-8", "replace").splitlines() if x.strip()]
        errors = [x for x in said if _ERROR.search(x)]
        line = (errors or said or ["empty log"])[-1]
        return "".join(c if c.isprintable() else " " for c in line).strip()[:300]

    @property
    def _name(self) -> str:
        return f"the server of serve={self.command[:80]!r}"

    @property
    def _place(self) -> str:
        return "what it prints when started by hand" if self._temporary else str(self.log)

    def _answers(self) -> bool:
        connection = http.client.HTTPConnection(_HOST, self.port, timeout=10)
        try:
            connection.request("GET", "/v1/models")
            return connection.getresponse().status < 500
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()


def acquire(arm: OpenAIArm, log: Path | None, *, fresh: bool = False) -> Running:
    """A running server of an arm, which answers. fresh: it must be a new start. Raises UserError where it does not come up."""
    with _LOCK:
        found = next((r for r in _RUNNING if r.command == arm.serve and r.alive and not fresh), None)
        if found is not None:
            found.users += 1
            return found
        idle = [r for r in _RUNNING if not r.users]
        _RUNNING[:] = [r for r in _RUNNING if r.users]
    for running in idle:
        running.stop()
    started = Running(arm.serve, log)
    with _LOCK:
        _RUNNING.append(started)
    try:
        started.wait(arm.serve_timeout)
    except BaseException:
        _forget(started)
        raise
    return started


def release(running: Running) -> None:
    """A session is done with it; it stays up for the next one."""
    with _LOCK:
        running.users -= 1


def stop_all() -> None:
    """End every server that was started here."""
    with _LOCK:
        running, _RUNNING[:] = list(_RUNNING), []
    for one in running:
        one.stop()


atexit.register(stop_all)


def _forget(running: Running) -> None:
    with _LOCK:
        if running in _RUNNING:
            _RUNNING.remove(running)
    running.stop()


def command_line(serve: str, port: int) -> list[str]:
    """The words of a command with the port filled in; vLLM listens to the whole network unless told otherwise, so it is told."""
    words = [word.replace("{port}", str(port)) for word in shlex.split(serve)]
    told = any(word == "--host" or word.startswith("--host=") for word in words)
    return words if told or "vllm" not in serve_words(serve) else [*words, "--host", _HOST]


def free_port() -> int:
    """A port of loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind((_HOST, 0))
        return int(probe.getsockname()[1])


def heard_from_outside(port: int) -> bool:
    """Whether something listens on the port at another address than loopback, by what /proc says."""
    for name in ("tcp", "tcp6"):
        place = Path("/proc/net", name)
        rows = [line.split() for line in place.read_text().splitlines()[1:]] if place.exists() else []
        for row in rows:
            address, _, number = row[1].partition(":")
            if row[3] == _LISTEN and int(number, 16) == port and not _is_loopback(address):
                return True
    return False


def _is_loopback(address: str) -> bool:
    """An address in the form of /proc/net: words of four bytes, each turned round."""
    words = [bytes.fromhex(address[n : n + 8])[::-1] for n in range(0, len(address), 8)]
    packed = b"".join(words)
    return (
        packed[-4] == 127 and packed[:-4] in (b"", b"\0" * 10 + b"\xff\xff")
    ) or packed == b"\0" * 15 + b"\1"
