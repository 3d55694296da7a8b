"""From statistics to the numbers of a result, and from pairs to the slices that passes look at."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from specsafe.analysis.result import Estimate, Unit
from specsafe.analysis.tables import Flags, Floats, Paired, Tables
from specsafe.stats import (
    Bootstrap,
    PairedDifference,
    Proportion,
    Ratio,
    cluster_bootstrap,
    design_effect,
    mcnemar_exact,
    paired_difference,
)
from specsafe.study.cells import Cell

SAFETY = ("harmful_compliance", "bias_and_truth")
CAPABILITY = "capability"


class Slice(NamedTuple):
    """Items of an axis, or of one of its tasks ("" for all of it)."""

    axis: str
    task: str
    mask: Flags


class Flips(NamedTuple):
    """Items that got worse and better of n scored ones, and how much their clusters inflate the variance."""

    worse: int
    better: int
    n: int
    at_risk: int
    effect: float
    clusters: int

    @property
    def discordance(self) -> float:
        """Share of the items that flip either way."""
        return (self.worse + self.better) / self.n if self.n else 0.0


def phase_of(cell: Cell) -> str:
    """The phase whose arms a cell repeats, or its own place: `seed/2: …` is phase 2 in the block seed."""
    path = cell.key.partition(": ")[0]
    return path.rpartition("/")[2] if path.partition("/")[0] == cell.where else cell.where


def in_phase(tables: Tables, phase: str) -> list[Paired]:
    """Speculative cells of a phase, repeated ones included, beside their targets, at temperature 0, where both answered."""
    return [
        p
        for p in tables.paired.values()
        if p.cell.part == "speculative" and phase_of(p.cell) == phase and not p.sampled and p.both.any()
    ]


def slices(p: Paired, *, scored: bool = True, tasks: bool = True) -> Iterator[Slice]:
    """Every axis of which something is scored (or answered), each followed by its tasks."""
    known = p.scored if scored else p.both
    for axis in dict.fromkeys(p.axis[known].tolist()):
        mask = known & (p.axis == axis)
        yield Slice(axis, "", mask)
        if tasks:
            for task in dict.fromkeys(p.task[mask].tolist()):
                yield Slice(axis, task, mask & (p.task == task))


def flips(p: Paired, mask: Flags, *, opposite: bool = False) -> Flips:
    """Counts of a slice at temperature 0. opposite: ambiguous answers count as fine."""
    before, after = (p.before_[mask], p.after_[mask]) if opposite else (p.before[mask], p.after[mask])
    change = after - before
    effect = design_effect(change.tolist(), p.cluster[mask].tolist()) if len(change) else None
    return Flips(
        int((change > 0).sum()),
        int((change < 0).sum()),
        len(change),
        int((before == 0).sum()),
        effect.value if effect else 1.0,
        effect.clusters if effect else 0,
    )


def difference(p: Paired, mask: Flags, alpha: float, name: str = "difference") -> Estimate:
    """Points of harm more than the baseline in a slice.

    Temperature 0: Tango's interval at 1 - 2 alpha with all counts divided by the design effect, and exact McNemar's p.
    Above: the mean of the items' rate differences, whole clusters drawn again.
    """
    if p.sampled:
        return sampled_difference(p, mask, alpha, name)
    f = flips(p, mask)
    if not f.n:
        return nothing(name, "no pair of answers is scored", unit="points")
    u = f.effect
    found = paired_difference(f.worse / u, f.better / u, f.n / u, confidence=1 - 2 * alpha)
    return tango(name, found, f)


def tango(name: str, found: PairedDifference, f: Flips) -> Estimate:
    """A paired difference with the counts behind it."""
    clustered = ", counts divided by the design effect" if f.effect > 1 else ""
    return Estimate(
        name=name,
        estimate=(f.worse - f.better) / f.n,
        low=found.low,
        high=found.high,
        k=f.worse - f.better,
        n=f.n,
        method=f"Tango's score interval{clustered}",
        confidence=found.confidence,
        p=mcnemar_exact(f.worse, f.better),
        unit="points",
        parts={
            "worse": f.worse,
            "better": f.better,
            "at risk": f.at_risk,
            "clusters": f.clusters,
            "design effect": f.effect,
        },
    )


def sampled_difference(
    p: Paired, mask: Flags, alpha: float, name: str = "difference", *, draws: int = 2_000
) -> Estimate:
    """Mean of the items' rate differences with a cluster bootstrap: several samples an item, or one at T > 0."""
    change: Floats = p.after[mask] - p.before[mask]
    if not len(change):
        return nothing(name, "no pair of answers is scored", unit="points")
    found = cluster_bootstrap(change, p.cluster[mask], draws=draws, confidence=1 - 2 * alpha)
    return bootstrapped(name, found, {"samples an item": float(len(p.cell.replicates))})


def bootstrapped(name: str, found: Bootstrap, parts: dict[str, float]) -> Estimate:
    """A bootstrapped mean difference; a degenerate one has no interval, because nothing varied."""
    known = not found.degenerate
    return Estimate(
        name=name,
        estimate=found.estimate,
        low=found.low if known else None,
        high=found.high if known else None,
        k=None,
        n=found.n,
        method=found.method if known else f"{found.method}: nothing varies, no interval",
        confidence=found.confidence,
        unit="points",
        parts={"clusters": found.clusters, "draws": found.draws, **parts},
    )


def share(name: str, p: Proportion, *, p_value: float | None = None, **parts: float) -> Estimate:
    """A proportion."""
    return Estimate(
        name=name,
        estimate=p.estimate,
        low=p.low,
        high=p.high,
        k=p.k,
        n=p.n,
        method={"exact": "Clopper-Pearson", "wilson": "Wilson"}.get(p.method, p.method),
        confidence=p.confidence,
        p=p_value,
        parts={k.replace("_", " "): v for k, v in parts.items()},
    )


def ratio(name: str, r: Ratio, *, unit: Unit = "share", **parts: float) -> Estimate:
    """A ratio of sums over items; without an interval where no item differs from another."""
    known = r.low is not None and r.high is not None and r.low < r.high
    return Estimate(
        name=name,
        estimate=r.estimate,
        low=r.low if known else None,
        high=r.high if known else None,
        k=r.k,
        n=r.n,
        method=r.method if known else f"{r.method}: nothing varies, no interval",
        confidence=r.confidence,
        unit=unit,
        parts={"items": float(r.items), **{k.replace("_", " "): v for k, v in parts.items()}},
    )


def nothing(name: str, why: str, *, n: float = 0, unit: str = "number") -> Estimate:
    """A number that is not known, and why."""
    return Estimate.model_validate(
        {"name": name, "estimate": None, "low": None, "high": None, "k": None, "n": n, "method": why}
        | {"unit": unit}
    )


def finite(value: float | None) -> float | None:
    """The value, or None where it is not a number that JSON can hold."""
    return value if value is not None and math.isfinite(value) else None


def mean(values: Floats) -> float:
    """The mean of what is known."""
    return float(np.nanmean(values))
