"""What the benchmarks share: lines for whoever waits, what others use meanwhile, turns, fresh processes."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

PAUSE = 0.5  # seconds
BUSY: list[float] = []  # cores in use in the pauses between turns, when none of us works
MEASURE = "--measure"
_BEGAN = time.monotonic()


def progress(text: str) -> None:
    """A line for whoever waits."""
    print(f"{time.monotonic() - _BEGAN:6.0f} s  {text}", file=sys.stderr, flush=True)


def busy_seconds() -> float:
    """Seconds that all cores were not idle since the machine started; 0 where Linux does not say."""
    stat = Path("/proc/stat")
    if not stat.exists():
        return 0.0
    user, nice, system, _, _, irq, softirq, steal = map(int, stat.read_text().split()[1:9])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def pause() -> None:
    """Let threads that spin go to sleep, then see how many cores others use."""
    time.sleep(PAUSE)
    before, started = busy_seconds(), time.monotonic()
    time.sleep(PAUSE)
    BUSY.append((busy_seconds() - before) / (time.monotonic() - started))


def middle(turns: Sequence[object], name: str = "rate") -> float:
    """Median over the repeats of a number of turns."""
    return median(getattr(t, name) for t in turns)


def ratio(one: Sequence[object], other: Sequence[object], name: str = "rate") -> float:
    """Median over the repeats of one side's number over the other's."""
    return median(getattr(a, name) / getattr(b, name) for a, b in zip(one, other, strict=True))


@dataclass(frozen=True)
class Cost:
    """Seconds on the wall, seconds of processor, and the peak memory of the process in gigabytes."""

    seconds: float
    processor: float
    gigabytes: float


def spent(began: float, busy: float) -> Cost:
    """What this process has spent since its clocks perf_counter and process_time said so."""
    return Cost(time.perf_counter() - began, time.process_time() - busy, peak_megabytes() / 1e3)


def peak_megabytes() -> float:
    """The most memory that this process has taken."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def in_a_process(script: str, *what: str) -> Cost:
    """What `script --measure …` prints as JSON, in a fresh process."""
    command = [sys.executable, script, MEASURE, *what]
    found: dict[str, Any] = json.loads(
        subprocess.run(command, capture_output=True, text=True, check=True).stdout
    )
    return Cost(**found)
