"""Tokens a second of our runner over those of the engine alone.

Both sides answer the same starter prompts with the same target arm (threads, slots, context, sampling,
log-probabilities) on a server of their own that starts cold, in turns: engine, runner, engine, runner, …

- engine: one process that opens the xllamacpp server (`llamacpp_worker.open_server`) and asks it from as
  many threads as it has slots (`llamacpp_worker.answer`). No pipe, no ledger. The clock runs from the
  first request handed to the threads to the last answer.
- runner: `study.run.run_jobs` into a real ledger in a temporary folder. The clock starts when the
  fingerprint of the opened session is in the ledger, which is when the requests are sent (the writing thread
  notes it while the session's thread sends), and stops when `run_jobs` returns: all answers committed and
  the session closed, so what closing costs is charged to the runner.

Starting the server is left out on both sides. A ratio of 1 means that worker process, JSON pipes and
ledger cost nothing; the goal is a median ratio >= 0.95 (exit 1 below it). A ratio is taken between the two
turns of one repeat. The first repeat is a warm-up and is not counted, and a repeat during which other
processes (or the host) used more than a twentieth of a core is done again.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from specsafe import __version__
from specsafe.battery import Battery, load_battery
from specsafe.engines import LlamaCppArm, arm_id, check_arm
from specsafe.engines.llamacpp_worker import answer, open_server
from specsafe.models.store import resolve
from specsafe.study.ledger import open_ledger
from specsafe.study.run import Job, Progress, run_jobs
from timing import busy_seconds

GOAL = 0.95
ENGINE = "--engine-process"
QUIET = 0.05  # cores that others may use
PATIENCE = 4  # tries for each repeat


@dataclass(frozen=True)
class Speed:
    """Tokens answered and the seconds that it took."""

    tokens: int
    seconds: float

    @property
    def rate(self) -> float:
        """Tokens a second."""
        return self.tokens / self.seconds


Side = Callable[[LlamaCppArm, Battery], Speed]
Pair = tuple[Speed, Speed]


def engine_alone(arm: LlamaCppArm, battery: Battery) -> Speed:
    """Run `engine_process` and read what it measured."""
    config = {
        **arm.model_dump(),
        "rule": arm.rule_in_force,
        "model_path": str(resolve(arm.model)),
        "draft_path": "",
    }
    requests = [{"item": i.id, "prompt": i.prompt} for i in battery.items]
    done = subprocess.run(
        [sys.executable, __file__, ENGINE],
        input=json.dumps([config, requests]),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        check=True,
    )
    return Speed(**json.loads(done.stdout))


def engine_process() -> None:
    """The server and the threads that ask it; prints the speed as JSON."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the engine prints goes to stderr
    config, requests = json.load(sys.stdin)
    server, _ = open_server(config)
    with ThreadPoolExecutor(config["slots"]) as pool:
        started = time.monotonic()
        answers = list(pool.map(lambda request: answer(server, config, request), requests))
        seconds = time.monotonic() - started
    out.write(json.dumps(asdict(Speed(sum(len(a["token_ids"]) for a in answers), seconds))))
    out.flush()
    os._exit(0)  # as the worker does: the engine's destructors may wait


def our_runner(arm: LlamaCppArm, battery: Battery) -> Speed:
    """`run_jobs` into a ledger of its own."""
    job = Job("target", arm, arm_id(arm, check_arm(arm)), 0, battery.items)
    with (
        tempfile.TemporaryDirectory() as folder,
        open_ledger(Path(folder) / "ledger.sqlite", {}, {}, battery, __version__) as ledger,
    ):
        opened: list[float] = []

        def report(_: Progress) -> None:
            if not opened and ledger.arms()["target"]["fingerprint"] is not None:
                opened.append(time.monotonic())

        run_jobs([job], ledger, at_once=1, report=report)
        seconds = time.monotonic() - opened[0]
        answers = ledger.answers(job.arm_id, 0).values()
        return Speed(sum(a.tokens or 0 for a in answers), seconds)


def measured(side: Side, arm: LlamaCppArm, battery: Battery) -> tuple[Speed, float]:
    """What a side reached, and the cores that others used (or the host took) meanwhile."""
    busy, own, started = busy_seconds(), sum(os.times()[:4]), time.monotonic()
    speed = side(arm, battery)
    foreign = busy_seconds() - busy - (sum(os.times()[:4]) - own)
    return speed, max(0.0, foreign) / (time.monotonic() - started)


def quiet_pairs(arm: LlamaCppArm, battery: Battery, repeats: int) -> tuple[list[Pair], int]:
    """Repeats that nobody disturbed, and how many were thrown away; all of them if too few were quiet."""
    quiet: list[Pair] = []
    disturbed: list[Pair] = []
    for number in range(PATIENCE * repeats + 1):
        (engine, foreign), (runner, foreign_too) = (
            measured(side, arm, battery) for side in (engine_alone, our_runner)
        )
        others = f"others used {foreign:.2f} and {foreign_too:.2f} cores"
        print(f"  {number}: engine {engine.rate:.1f}, runner {runner.rate:.1f}, {others}", file=sys.stderr)
        if number:
            (quiet if max(foreign, foreign_too) < QUIET else disturbed).append((engine, runner))
        if len(quiet) == repeats:
            return quiet, len(disturbed)
    print(f"only {len(quiet)} repeats were quiet: the disturbed ones are counted too")
    return quiet + disturbed, 0


def compare(slots: int, battery: Battery, repeats: int) -> float:
    """Measure in turns, print a table, and give back the median ratio."""
    arm = LlamaCppArm(threads=1, slots=slots)
    pairs, dropped = quiet_pairs(arm, battery, repeats)
    ratios = [runner.rate / engine.rate for engine, runner in pairs]
    print(
        f"slots={slots}, threads=1, {len(battery.items)} prompts, method: monotonic clock, in turns", end=""
    )
    print(f"; {dropped} disturbed repeats dropped")
    print("side         tokens (k)   repeats (n)   tokens/s: min   median      max")
    for name, speeds in (("engine", [e for e, _ in pairs]), ("runner", [r for _, r in pairs])):
        tokens = "/".join(sorted({str(s.tokens) for s in speeds}))
        print(f"{name:<12} {tokens:>10} {len(pairs):>13}   {spread([s.rate for s in speeds], 1)}")
    print(f"{'ratio':<12} {'':>10} {len(pairs):>13}   {spread(ratios, 3)}\n", flush=True)
    return statistics.median(ratios)


def spread(values: list[float], digits: int) -> str:
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{low:>13.{digits}f} {middle:>8.{digits}f} {high:>8.{digits}f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--items", type=int, default=16, help="prompts an axis")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--slots", type=int, nargs="+", default=[1, 4])
    parser.add_argument(ENGINE, action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.engine_process:
        engine_process()
    battery = load_battery("starter").limit(options.items)
    medians = [compare(slots, battery, options.repeats) for slots in options.slots]
    print(f"lowest median ratio {min(medians):.3f}; goal >= {GOAL}")
    sys.exit(min(medians) < GOAL)


if __name__ == "__main__":
    main()
