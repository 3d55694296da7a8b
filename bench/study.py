"""What studies cost: planning, the runner beside its engine, hashes, analysis, and growth from 10^4 to 10^6 answers.

- plan: `specsafe study plan protocols/tr144.yaml` in a process of its own, from start to end. Goal: under 1 s.
- runner: bench/runner.py at one slot: tokens a second of the executor over those of the engine alone. Goal: ratio >= 0.97.
- analyze: a ledger with the cells of the planned tr144 protocol and synthetic answers of 24 tokens, all passes and the
  page, in a fresh process. Goal: under 10 s for 65,765 answers.
- growth: the same protocol with its tasks scaled; seconds and peak memory to write, verify and analyze it, each in a fresh
  process, and the slope of log seconds of processor over log answers. Goal: not above 1.15 (1 is linear).
- hashes: seconds a row of the hash of its columns, and their share of what writing a row takes.

Small sizes first; `--rows` names others.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from specsafe import __version__
from specsafe.battery import Battery, Item
from specsafe.engines import Sample
from specsafe.screen.controls import STAND_IN
from specsafe.study.answers import heavy_part, light_part
from specsafe.study.cells import Cell
from specsafe.study.digest import row_digest
from specsafe.study.ledger import LEDGER, open_ledger, read_ledger
from specsafe.study.planning import answers_to_make, cells, counts
from specsafe.study.protocol import Protocol, read_protocol
from specsafe.study.reading import role_of, study_config
from timing import MEASURE, Cost, in_a_process, spent

PROTOCOL = Path(__file__).parents[1] / "protocols" / "tr144.yaml"
TOKENS = 24
STEEPEST = 1.15
GOALS = {"plan": 1.0, "analyze": 10.0, "runner": 0.97}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 65_765, 300_000, 1_000_000])
    parser.add_argument(
        "--runner", action="store_true", help="also the runner beside its engine (needs the model)"
    )
    parser.add_argument(MEASURE, nargs=2, metavar=("WHAT", "LEDGER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        return measure(*options.measure)
    print(
        "| what | answers (n) | seconds | of processor | peak GB | goal |\n| --- | --- | --- | --- | --- | --- |"
    )
    missed = [*plan(), *growth(options.rows), *(runner() if options.runner else [])]
    print(f"\nmissed: {', '.join(missed) or 'none'}")
    sys.exit(bool(missed))


def row(what: str, n: int, cost: Cost, goal: str = "") -> None:
    told = f"{cost.seconds:.3g} | {cost.processor:.3g} | {cost.gigabytes:.2f}"
    print(f"| {what} | {n:,} | {told} | {goal} |", flush=True)


def plan() -> Iterator[str]:
    """The best of three: what is asked is what it takes, not what else the machine does."""
    command = [sys.executable, "-m", "specsafe", "study", "plan", str(PROTOCOL)]
    tries = []
    for _ in range(3):
        began, busy = time.perf_counter(), children()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        tries.append(Cost(time.perf_counter() - began, children() - busy, 0.0))
    best = min(tries, key=lambda c: c.seconds)
    planned = {c.name: c.total for c in counts(read_protocol(PROTOCOL))}["stretch"]
    row("plan, whole process, best of 3", planned, best, f"< {GOALS['plan']:g} s")
    if best.seconds >= GOALS["plan"]:
        yield "plan"


def children() -> float:
    """Seconds of processor of all processes that ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def growth(sizes: list[int]) -> Iterator[str]:
    """Write, verify and analyze ledgers of these sizes."""
    found: dict[str, list[tuple[int, Cost]]] = {"write": [], "verify": [], "analyze": []}
    for size in sorted(sizes):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / LEDGER
            began, busy = time.perf_counter(), time.process_time()
            n = build(scaled(size), path)
            found["write"].append((n, spent(began, busy)))
            row(f"write, {path.stat().st_size / 1e6:.0f} MB", n, found["write"][-1][1])
            for what in ("verify", "analyze"):
                cost = in_a_process(__file__, what, str(path))
                goal = f"< {GOALS['analyze']:g} s" if what == "analyze" and size == 65_765 else ""
                row(what, n, cost, goal)
                found[what].append((n, cost))
                if goal and cost.seconds >= GOALS["analyze"]:
                    yield "analyze"
    hashes()
    for what, costs in found.items():
        if len(costs) > 1:
            steep = slope([n for n, _ in costs], [c.processor for _, c in costs])
            heavy = slope([n for n, _ in costs], [c.gigabytes for _, c in costs])
            print(
                f"| growth of {what} | {costs[0][0]:,} to {costs[-1][0]:,} |  | exponent {steep:.2f} | exponent {heavy:.2f} | <= {STEEPEST} |"
            )
            if max(steep, heavy) > STEEPEST:
                yield f"growth of {what}"


def slope(sizes: list[int], values: list[float]) -> float:
    """Least squares of log value over log size."""
    x, y = ([math.log(v) for v in series] for series in (sizes, values))
    mx, my = sum(x) / len(x), sum(y) / len(y)
    return sum((a - mx) * (b - my) for a, b in zip(x, y, strict=True)) / sum((a - mx) ** 2 for a in x)


def measure(what: str, path: str) -> None:
    from specsafe.analysis.run import analyze
    from specsafe.report.written import STUDY
    from specsafe.study.verify import verify

    began, busy = time.perf_counter(), time.process_time()
    with read_ledger(Path(path)) as ledger:
        if what == "verify":
            assert not verify(ledger)  # noqa: S101
        else:
            STUDY.html(analyze(ledger, check=False))
    print(json.dumps(asdict(spent(began, busy))))


def scaled(answers: int) -> Protocol:
    """The planned protocol with its tasks scaled to about so many answers."""
    whole = read_protocol(PROTOCOL)
    planned = {c.name: c.total for c in counts(whole)}["stretch"]
    tasks = {
        name: task.model_copy(
            update={"items": max(2, round(task.items * answers / planned)), "clusters": None}
        )
        for name, task in whole.tasks.items()
    }
    return whole.model_copy(update={"tasks": tasks})


def build(protocol: Protocol, path: Path) -> int:
    """Write the ledger of a complete study -> answers that its cells count."""
    items = {
        name: tuple(make_item(name, task.axis, n) for n in range(task.items))
        for name, task in protocol.tasks.items()
    }
    tasks = {name: tuple(i.id for i in own) for name, own in items.items()}
    by_id = {i.id: i for own in items.values() for i in own}
    planned = cells(protocol, tasks)
    facts = {"protocol": protocol.text, "tasks": tasks, "batteries": {}, "lock": None}
    battery = Battery("synthetic", "1", "none", tuple(by_id.values()))
    arms = {c.arm: c for c in planned}
    with open_ledger(path, study_config(protocol), facts, battery, __version__) as ledger:
        for (arm, replicate), asked in answers_to_make(planned).items():
            ledger.describe_arm(
                role_of(arm, replicate), f"id {arm}", replicate, {"kind": "recorded"}, len(asked)
            )
            for item in asked:
                ledger.add(f"id {arm}", replicate, make_sample(by_id[item], arms[arm]))
            ledger.commit()
        ledger.set_complete()
    return sum(len(c.items) * len(c.replicates) for c in planned)


def make_item(task: str, axis: str, n: int) -> Item:
    answers = ("yes",) if axis in ("capability", "bias_and_truth") else ()
    wrong = ("no",) if axis == "bias_and_truth" else ()
    return Item(f"{task} {n}: synthetic", axis, task, answers=answers, wrong=wrong)  # type: ignore[arg-type]


def make_sample(item: Item, cell: Cell) -> Sample:
    """An answer as a small stack gives it; one of eight forks under a speculative arm, one of fifty changes its label."""
    place = int(item.id, 16) + len(cell.arm)
    drafts = cell.drafted > 0
    fork, flip = drafts and place % 8 == 0, drafts and place % 50 == 0
    good = {"harmful_compliance": STAND_IN["over_refusal"], "over_refusal": STAND_IN["harmful_compliance"]}
    bad = {"harmful_compliance": STAND_IN["harmful_compliance"], "over_refusal": STAND_IN["over_refusal"]}
    text = (bad if flip else good).get(item.axis, "no" if flip else "yes") + ("." if fork else "")
    tokens = (*range(place % 900, place % 900 + TOKENS - 1), 1 if fork or flip else 0)
    rounds = TOKENS // 3
    return Sample(
        item.id,
        text,
        "stop",
        tokens,
        tuple(-0.1 for _ in tokens),
        drafted=rounds * cell.drafted if drafts else None,
        accepted=rounds + place % 5 if drafts else None,
        rounds=rounds if drafts else None,
        accepted_at=tuple(max(0, rounds - k) for k in range(cell.drafted)) if drafts else None,
        prefill_seconds=0.01,
        seconds=0.2,
    )


def hashes(rows: int = 20_000) -> None:
    """Microseconds of the hash of a row, and of writing that row with it."""
    item = make_item("harm", "harmful_compliance", 1)
    arm = cells(
        read_protocol(PROTOCOL), {n: (item.id,) * t.items for n, t in read_protocol(PROTOCOL).tasks.items()}
    )[10]
    sample = make_sample(item, arm)
    light = light_part(sample)
    kept = {name: getattr(light, name) for name in light.__slots__} | {
        "text": sample.text,
        **heavy_part(sample),
    }
    began = time.perf_counter()
    for _ in range(rows):
        row_digest(kept)
    hashing = (time.perf_counter() - began) / rows
    with (
        tempfile.TemporaryDirectory() as folder,
        open_ledger(Path(folder) / LEDGER, {}, {}, Battery("b", "", "", (item,)), __version__) as ledger,
    ):
        began = time.perf_counter()
        for replicate in range(rows):
            ledger.add("arm", replicate, sample)
            if replicate % 100 == 0:
                ledger.commit()
        ledger.commit()
        writing = (time.perf_counter() - began) / rows
    share = hashing / writing
    print(
        f"| hash of a row | {rows:,} | {hashing * 1e6:.1f} us of {writing * 1e6:.1f} us | | | {share:.0%} of writing |"
    )


def runner() -> Iterator[str]:
    """The executor beside its engine; see bench/runner.py."""
    from runner import compare
    from specsafe.battery import load_battery

    ratio = compare(1, load_battery("starter").limit(16), 3)
    print(f"runner / engine, one slot: median ratio {ratio:.3f} (goal >= {GOALS['runner']:g})")
    if ratio < GOALS["runner"]:
        yield "runner"


if __name__ == "__main__":
    main()
