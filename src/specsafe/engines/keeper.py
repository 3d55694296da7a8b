"""Keeps one server: starts it, and ends it with every process below it when told to, or when whoever asked is gone.

`python keeper.py COMMAND…`, with a pipe as standard input. When the pipe ends (it was closed, or the process at its other end
was killed) the server goes. A server's own processes may outlive it: this process adopts those that lost their parent,
and leaves only when none is left. It imports nothing of specsafe.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

GRACE = 10.0  # seconds between asking and killing
_LOOK = 0.1
_PDEATHSIG, _CHILD_SUBREAPER = 1, 36  # of prctl(2)


def main() -> None:
    """Start the command and stay until it ends or is to end; exits with its code."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    _prctl(_CHILD_SUBREAPER, 1)
    try:
        server = subprocess.Popen(
            sys.argv[1:],
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=lambda: _prctl(_PDEATHSIG, signal.SIGKILL),  # noqa: PLW1509  one thread
        )
    except OSError as error:
        print(f"cannot start {sys.argv[1]}: {error.strerror}", file=sys.stderr, flush=True)
        sys.exit(127)
    code = None
    try:
        while code is None and not _asked_to_end():
            code = server.poll()
    finally:
        end_all(server.pid)
    code = code or 0
    sys.exit(code if code >= 0 else 128 - code)  # as a shell tells of signals


def _prctl(option: int, value: int) -> None:
    """Linux alone has it; elsewhere the server's process group is all that is ended."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def _asked_to_end() -> bool:
    readable, _, _ = select.select([0], [], [], _LOOK)
    return bool(readable) and not os.read(0, 4096)


def end_all(group: int) -> None:
    """Ask the server's process group to end, then kill whatever is left below this process."""
    _signal_group(group, signal.SIGTERM)
    end = time.monotonic() + GRACE
    while _reap() and time.monotonic() < end:
        time.sleep(_LOOK)
    while _reap():
        left = descendants(os.getpid())
        for pid in left:
            _signal(pid, signal.SIGKILL)
        if not left:  # without /proc; with it not by the group, whose number may be another's by now
            _signal_group(group, signal.SIGKILL)
        time.sleep(_LOOK)


def _reap() -> bool:
    """Collect the children that ended -> whether any is left."""
    while True:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return False
        if pid == 0:
            return True


def descendants(pid: int) -> set[int]:
    """Processes below a process, by what /proc says of their parents; none where there is no /proc."""
    parents = dict(_parents())
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {pid}


def _parents() -> Iterator[tuple[int, int]]:
    for place in Path("/proc").glob("[0-9]*/stat"):
        try:
            after_name = place.read_text(errors="replace").rpartition(")")[2].split()
        except OSError:  # it ended meanwhile
            continue
        yield int(place.parent.name), int(after_name[1])


def _signal_group(group: int, number: int) -> None:
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):
        return  # nobody is in it any more


def _signal(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


if __name__ == "__main__":
    main()
