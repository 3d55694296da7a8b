"""Seconds to judge every gate of 65,765 paired answers, strata, controls and replicate included.

Synthetic items on three axes, six tasks of eight categories each; one item in ten shares its cluster with
three others. A few percent of the answers flip either way, some are ambiguous, some pairs are missing. What
is timed is `judge_gate` on each axis plus the Holm step over the gates, in this process, with the caches of
the decision rule emptied before each repeat. Goal: under 2 s (exit 1 if the best repeat is not).
`--profile` prints where the time goes instead.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import statistics
import sys
import time
from dataclasses import dataclass

import numpy as np

from specsafe.battery import Axis, Item
from specsafe.screen import decide as rule
from specsafe.screen.gates import Harmed, judge_gate, with_differences
from specsafe.screen.pairs import Outcome, Outcomes
from specsafe.screen.result import Gate

MARGIN, ALPHA, GOAL = 0.03, 0.05, 2.0
TASKS_PER_AXIS, CATEGORIES = 2, 8
HARM_RATE: dict[Axis, float] = {"harmful_compliance": 0.25, "over_refusal": 0.1, "capability": 0.6}


@dataclass(frozen=True)
class AxisData:
    """Items of one axis and the outcomes of each arm on them."""

    axis: Axis
    items: list[Item]
    baseline: Outcomes
    treatment: Outcomes
    replicate: Outcomes
    controls: dict[str, Harmed]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--items", type=int, default=65_765)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--profile", action="store_true")
    options = parser.parse_args()
    data = [make_axis(axis, n, seed) for seed, (axis, n) in enumerate(split(options.items))]
    if options.profile:
        with cProfile.Profile() as profile:
            judge(data)
        pstats.Stats(profile).sort_stats("cumulative").print_stats(25)
        return
    seconds = []
    for _ in range(options.repeats):
        rule._exact.cache_clear()
        rule.smallest_caught.cache_clear()
        started = time.perf_counter()
        gates = judge(data)
        seconds.append(time.perf_counter() - started)
    print("axis                 pairs  worse  better  clusters  strata  controls  verdict")
    for gate in gates:
        d = gate.decision
        counts = f"{d.pairs:>7,} {d.worse:>6} {d.better:>7} {d.clusters:>9,} {len(gate.strata):>7}"
        print(f"{gate.axis:<19}{counts} {len(gate.controls):>9}  {gate.verdict}")
    best = min(seconds)
    print(f"{options.items:,} pairs: best {best:.2f} s, median {statistics.median(seconds):.2f} s", end=" ")
    print(f"of n = {options.repeats} repeats, method: perf_counter, caches emptied; goal < {GOAL:g} s")
    sys.exit(best >= GOAL)


def judge(data: list[AxisData]) -> list[Gate]:
    gates = [
        judge_gate(
            d.axis,
            d.items,
            d.baseline,
            d.treatment,
            margin=MARGIN,
            alpha=ALPHA,
            replicate=d.replicate,
            controls=d.controls,
        )
        for d in data
    ]
    return with_differences(gates, ALPHA)


def split(total: int) -> list[tuple[Axis, int]]:
    """The items shared out over the axes."""
    share, rest = divmod(total, len(HARM_RATE))
    return [(axis, share + (place < rest)) for place, axis in enumerate(HARM_RATE)]


def make_axis(axis: Axis, n: int, seed: int) -> AxisData:
    rng = np.random.default_rng(seed)
    items = [make_item(axis, i) for i in range(n)]
    harm = rng.random(n) < HARM_RATE[axis]
    treated = flipped(harm, rng, worse=0.02, better=0.05)
    part = rng.random(n) < 1 / 3
    substituted = harm | (rng.random(n) < 0.15)
    return AxisData(
        axis=axis,
        items=items,
        baseline=outcomes(items, harm, rng, answered=rng.random(n) < 0.9995),
        treatment=outcomes(items, treated, rng, answered=rng.random(n) < 0.9995),
        replicate=outcomes(items, flipped(harm, rng, worse=0.001, better=0.002), rng, answered=part),
        controls={
            "substitution": Harmed(int(0.15 * n), outcomes(items, substituted, rng)),
            "prefill": Harmed(n, outcomes(items, harm | (rng.random(n) < 0.5), rng)),
        },
    )


def make_item(axis: Axis, i: int) -> Item:
    shares_cluster = i % 40 < 4
    return Item(
        prompt=f"synthetic {axis} item {i}",
        axis=axis,
        task=f"{axis} task {i % TASKS_PER_AXIS}",
        category=f"category {i // TASKS_PER_AXIS % CATEGORIES}",
        cluster=f"behaviour {i // 40}" if shares_cluster else "",
        answers=("yes",) if axis == "capability" else (),
    )


def flipped(harm: np.ndarray, rng: np.random.Generator, *, worse: float, better: float) -> np.ndarray:
    """The outcomes with a share of the fine ones harmed and a share of the harmed ones mended."""
    return np.where(rng.random(len(harm)) < np.where(harm, better, worse), ~harm, harm)


def outcomes(
    items: list[Item], harm: np.ndarray, rng: np.random.Generator, answered: np.ndarray | None = None
) -> dict[str, Outcome]:
    """Outcomes of the answered items; 2 in 1000 are ambiguous and 3 in 100 truncated."""
    n = len(items)
    ambiguous, truncated = rng.random(n) < 0.002, rng.random(n) < 0.03
    there = np.ones(n, bool) if answered is None else answered
    return {
        items[i].id: Outcome(None if ambiguous[i] else bool(harm[i]), bool(truncated[i]))
        for i in np.flatnonzero(there)
    }


if __name__ == "__main__":
    main()
