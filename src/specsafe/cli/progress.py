"""Progress on stderr: a bar with time left on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from specsafe.study.run import Progress

_LINE_SECONDS = 20


def say(text: str) -> None:
    """A notice on stderr."""
    from specsafe.report.terminal import printable

    print(printable(text), file=sys.stderr, flush=True)


@contextmanager
def progress_reporter(what: str = "answers") -> Iterator[Callable[[Progress], None]]:
    """A function to call with the state of the run, as often as one likes; what: is counted."""
    if not sys.stderr.isatty():
        yield _plain(what)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
    from rich.progress import Progress as Bar

    columns = TextColumn(what), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[left]}")
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None, left="")
        yield lambda p: bar.update(task, completed=p.done, total=p.planned, left=_left(p))


def counted(report: Callable[[Progress], None]) -> Callable[[int, int], None]:
    """The same for those who count and do not time: called with what is done and what is planned."""
    began = time.monotonic()

    def count(done: int, planned: int) -> None:
        each = (time.monotonic() - began) / max(done, 1)
        report(Progress(done, planned, each * (planned - done)))

    return count


def _plain(what: str) -> Callable[[Progress], None]:
    last = time.monotonic()

    def report(p: Progress) -> None:
        nonlocal last
        if time.monotonic() - last >= _LINE_SECONDS:
            last = time.monotonic()
            print(f"{p.done} of {p.planned} {what}, {_left(p)}", file=sys.stderr, flush=True)

    return report


def _left(p: Progress) -> str:
    seconds = p.seconds_left
    return "time left unknown" if seconds is None else f"{int(seconds) // 60}:{int(seconds) % 60:02d} left"
