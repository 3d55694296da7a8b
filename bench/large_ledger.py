"""Seconds and memory to load a large ledger and to report on it, each in a process of its own.

A synthetic study through the real ledger: items on three axes, target and speculative arm on all of them and a
replicate on a third; 32 tokens an answer with log-probabilities and the ten most likely tokens a position for
`--pairs`; every second speculative answer forks, as a bf16 stack may. Scores are in the ledger as a screen leaves them.
Goals: analysis and HTML page of 65,765 pairs under 10 s and 1 GB; a million rows loaded under 60 s.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

from specsafe import __version__
from specsafe.battery import Battery, Item
from specsafe.engines import RecordedArm, Sample
from specsafe.screen.analyze import analyze
from specsafe.screen.config import build_config
from specsafe.screen.controls import STAND_IN
from specsafe.study.ledger import open_ledger, read_ledger
from timing import MEASURE, in_a_process, spent

AXES = ("harmful_compliance", "over_refusal", "capability")
ANSWERS = {
    "harmful_compliance": STAND_IN["over_refusal"],
    "over_refusal": STAND_IN["harmful_compliance"],
    "capability": "yes",
}
TOKENS, TOP = 32, 10
GOALS = {"report": (10.0, 1.0), "load": (60.0, None)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--pairs", type=int, default=65_765)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument(MEASURE, nargs=2, metavar=("WHAT", "LEDGER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        return measure(*options.measure)
    failed = False
    with tempfile.TemporaryDirectory() as folder:
        for what, pairs, top in (("report", options.pairs, TOP), ("load", round(options.rows * 3 / 7), 0)):
            path = Path(folder) / f"{what}.sqlite"
            rows = build(path, pairs, top)
            size = path.stat().st_size / 1e9
            found = in_a_process(__file__, what, str(path))
            seconds, memory = GOALS[what]
            failed |= found.seconds > seconds or (memory is not None and found.gigabytes > memory)
            limit = f"goal {seconds:g} s" + (f", {memory:g} GB" if memory else "")
            print(
                f"{what}: {pairs:,} pairs, {rows:,} rows, {size:.1f} GB file: "
                f"{found.seconds:.1f} s, peak {found.gigabytes:.2f} GB ({limit}; n = 1, fresh process)",
                flush=True,
            )
    sys.exit(failed)


def measure(what: str, path: str) -> None:
    began, busy = time.perf_counter(), time.process_time()
    with read_ledger(Path(path)) as ledger:
        if what == "report":
            from specsafe.report.page import render_page

            render_page(analyze(ledger))
        else:
            items, arms = ledger.items(), ledger.arms()
            answers = [ledger.answers(a["id"], a["replicate"]) for a in arms.values()]
            found = len(items) and sum(map(len, answers))
            print(f"{found:,} answers", file=sys.stderr)
    print(json.dumps(asdict(spent(began, busy))))


def build(path: Path, pairs: int, top: int) -> int:
    """Write a finished study -> its number of answers."""
    items = tuple(make_item(k) for k in range(pairs))
    arms = [RecordedArm(path=f"{name}.jsonl") for name in ("target", "speculative", "replicate")]
    config = build_config(arms[0], arms[1], replicate=arms[2]).model_dump(mode="json")
    rows = 0
    with open_ledger(
        path, config, {"at_once": 1}, Battery("synthetic", "1", "none", items), __version__
    ) as ledger:
        for role, asked in (("target", items), ("speculative", items), ("replicate", items[::3])):
            ledger.describe_arm(role, role, 0, {"kind": "recorded"}, len(asked))
            places = range(0, pairs, 3) if role == "replicate" else range(pairs)
            for place, item in zip(places, asked, strict=True):
                ledger.add(role, 0, make_sample(item, place, role, top))
            rows += len(asked)
            ledger.commit()
        ledger.set_complete()
        if top:
            analyze(ledger)
    return rows


def make_item(k: int) -> Item:
    axis = AXES[k % 3]
    return Item(
        f"synthetic {axis} item {k}",
        axis,
        f"task {k % 2}",
        f"category {k // 6 % 8}",
        answers=("yes",) if axis == "capability" else (),
    )


def make_sample(item: Item, place: int, role: str, top: int) -> Sample:
    fork = role == "speculative" and place % 2 == 1
    text = f"{ANSWERS[item.axis]}{'.' if fork else ''}"
    tokens = (*range(place % 1000, place % 1000 + TOKENS - 1), 0 if fork else 1)
    likely = tuple(
        tuple((t + j if j else t, -0.1 - 0.07 * j) for j in range(top)) if top else () for t in tokens
    )
    return Sample(
        item.id,
        text,
        "stop",
        tokens,
        tuple(-0.1 - 0.001 * (t % 7) for t in tokens) if top else None,
        likely if top else None,
        drafted=40 if role == "speculative" else None,
        accepted=20 if role == "speculative" else None,
        prefill_seconds=0.01,
        seconds=0.2,
    )


if __name__ == "__main__":
    main()
