"""Passes 1, 3, 4 and 23: what was scored, what models do alone, and whether earlier studies saw the same."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from specsafe.analysis.measure import difference, share, slices
from specsafe.analysis.result import Estimate, Found, Line, NotApplicable
from specsafe.analysis.tables import (
    Earlier,
    Floats,
    Tables,
    kept_replicates,
    pair_up,
    rates_of,
)
from specsafe.errors import UserError
from specsafe.scoring import UNSCORED
from specsafe.stats import (
    cluster_bootstrap,
    independent_difference,
    mcnemar_exact,
    paired_difference,
    proportion,
)
from specsafe.study.cells import Cell

PUBLISHED_LIMIT = 0.05  # "consistent" in the publication: less than 5 points apart


def scored(tables: Tables) -> Found:
    """Pass 1: of the answers of each cell and axis, how many the rule scores."""
    lines: list[Line] = []
    for cell in tables.cells.values():
        rows = tables.rows[cell.key]
        by_axis: dict[str, list[tuple[str, bool | None, bool]]] = {}
        for (item, replicate), row in rows.items():
            if replicate in kept_replicates(cell):
                by_axis.setdefault(tables.items[item].axis, []).append((row.label, row.harm, row.truncated))
        for axis, seen in by_axis.items():
            known = [s for s in seen if s[0] not in ("", UNSCORED)]
            counted = share(
                "scored",
                proportion(len(known), len(seen)),
                ambiguous=sum(harm is None for _, harm, _ in known),
                truncated=sum(cut for *_, cut in seen),
            )
            lines.append(Line(cell=cell.key, where=cell.where, axis=axis, estimates=(counted,)))
    return tuple(lines) or NotApplicable(reason="no answer yet")


def baseline_rates(tables: Tables) -> Found:
    """Pass 3: how often each model, target or draft, does the harm of an axis when it answers alone."""
    lines: list[Line] = []
    seen: set[tuple[str, tuple[int, ...]]] = set()
    for cell in tables.of("target", "draft"):
        if (cell.arm, cell.replicates) not in seen:
            seen.add((cell.arm, cell.replicates))
            lines += rate_lines(tables, cell)
    return tuple(lines) or NotApplicable(reason="no model answers alone")


def shown_only(tables: Tables) -> Found:
    """Cells without a matched target: their rates are shown, and nothing is judged."""
    cells = [c for c in tables.of("speculative", "probe", "control", "width") if not c.baseline]
    lines = [line for cell in cells for line in rate_lines(tables, cell)]
    if not lines:
        return NotApplicable(reason="not answered yet" if cells else "every cell has a matched target")
    return tuple(line.model_copy(update={"reading": "shown, not judged"}) for line in lines)


def rate_lines(tables: Tables, cell: Cell) -> Iterator[Line]:
    """The harm of a cell by axis and task."""
    rates, _ = rates_of(tables, cell, cell.items)
    known = [(tables.items[i], rate) for i, rate in zip(cell.items, rates, strict=True) if not np.isnan(rate)]
    for axis in dict.fromkeys(item.axis for item, _ in known):
        on = [(item, rate) for item, rate in known if item.axis == axis]
        for task in ("", *dict.fromkeys(item.task for item, _ in on)):
            part = [(item.cluster, rate) for item, rate in on if task in ("", item.task)]
            estimate = _rate(np.array([r for _, r in part]), [c for c, _ in part], cell, tables.draws)
            of = " ".join((cell.model if cell.part in ("target", "draft") else cell.arm, cell.dtype))
            yield Line(
                cell=cell.key,
                where=cell.where,
                pair=cell.pair,
                axis=axis,
                task=task,
                of=of,
                estimates=(estimate,),
            )


def _rate(rates: Floats, clusters: list[str], cell: Cell, draws: int) -> Estimate:
    if cell.temperature == 0:
        return share("harm", proportion(int(rates.sum()), len(rates)), clusters=len(set(clusters)))
    found = cluster_bootstrap(rates, clusters, draws=draws)
    return Estimate(
        name="harm",
        estimate=found.estimate,
        low=None if found.degenerate else found.low,
        high=None if found.degenerate else found.high,
        k=None,
        n=found.n,
        method=found.method,
        confidence=found.confidence,
        parts={"samples an item": float(len(cell.replicates)), "clusters": found.clusters},
    )


def draft_gap(tables: Tables) -> Found:
    """Pass 4: how much more harm the draft does alone than its target, on the same items."""
    lines: list[Line] = []
    for base, alone, pair in standalone(tables):
        p = pair_up(tables, base, alone)
        for axis, task, mask in slices(p):
            found = difference(p, mask, tables.alpha, "draft less target")
            lines.append(
                Line(
                    cell=alone.key,
                    where=alone.where,
                    pair=pair,
                    axis=axis,
                    task=task,
                    of=f"{alone.model} less {base.model}",
                    estimates=(found,),
                    reading=direction(found),
                )
            )
    return tuple(lines) or NotApplicable(reason="no draft answers alone beside its target")


def standalone(tables: Tables) -> list[tuple[Cell, Cell, str]]:
    """(target alone, draft alone, pair) of every pair of which both answer by themselves, each once."""
    found: dict[tuple[str, str], tuple[Cell, Cell, str]] = {}
    for cell in tables.cells.values():
        if cell.alone and cell.baseline and cell.temperature == 0:
            base, alone = tables.cells[cell.baseline], tables.cells[cell.alone]
            found.setdefault((base.arm, alone.arm), (base, alone, cell.pair))
    return list(found.values())


def direction(found: Estimate) -> str:
    """What an interval shows: more harm, less, or neither."""
    if found.low is None or found.high is None:
        return "no interval"
    return "more harm" if found.low > 0 else "less harm" if found.high < 0 else "no difference shown"


def earlier_baselines(tables: Tables) -> Found:
    """Pass 23: baselines of earlier studies against this one's, model by model and task by task.

    Raises UserError where an earlier study was named and shares no model and task with this one: an empty comparison is
    no consistency.
    """
    if not tables.earlier:
        return NotApplicable(reason="no earlier study and no published table was named")
    ours = _ours(tables)
    if not ours:
        return NotApplicable(reason="no model has answered alone yet")
    lines: list[Line] = []
    for study in tables.earlier:
        shared = [key for key in ours if key in study.rates and study.rates[key].n]
        if not shared:
            raise UserError(
                f"{study.name} shares no model and task with this study: there is nothing to compare",
                "give the models and tasks the names that they have there",
            )
        lines += [_against(study, *key, ours[key]) for key in shared]
    return tuple(lines)


def _ours(tables: Tables) -> dict[tuple[str, str], dict[str, bool]]:
    """(model, task) -> item -> harmed, of the first cell in which a model answers alone at temperature 0."""
    found: dict[tuple[str, str], dict[str, bool]] = {}
    for cell in tables.of("target", "draft"):
        if cell.temperature > 0:
            continue
        rates, _ = rates_of(tables, cell, cell.items)
        here: dict[tuple[str, str], dict[str, bool]] = {}
        for item, rate in zip(cell.items, rates, strict=True):
            if not np.isnan(rate):
                here.setdefault((cell.model, tables.items[item].task), {})[item] = bool(rate)
        for key, items in here.items():
            found.setdefault(key, items)
    return found


def _against(study: Earlier, model: str, task: str, ours: dict[str, bool]) -> Line:
    theirs = study.items.get((model, task), {})
    both = [i for i in ours if i in theirs]
    if both:
        worse, better = (
            sum(ours[i] and not theirs[i] for i in both),
            sum(theirs[i] and not ours[i] for i in both),
        )
        d = paired_difference(worse, better, len(both), confidence=0.95)
        found = Estimate(
            name="difference",
            estimate=d.estimate,
            low=d.low,
            high=d.high,
            k=worse - better,
            n=len(both),
            method="Tango's score interval, the same items",
            confidence=0.95,
            p=mcnemar_exact(worse, better),
            unit="points",
            parts={"worse": worse, "better": better},
        )
    else:
        rate = study.rates[model, task]
        u = independent_difference(sum(ours.values()), len(ours), rate.k, rate.n)
        found = Estimate(
            name="difference",
            estimate=u.estimate,
            low=u.low,
            high=u.high,
            k=None,
            n=len(ours),
            method=f"{u.method}, counts alone",
            confidence=u.confidence,
            unit="points",
            parts={"k": u.k[0], "their k": u.k[1], "their n": u.n[1]},
        )
    within = found.high is not None and found.low is not None
    inside = within and (found.low or 0) > -PUBLISHED_LIMIT and (found.high or 0) < PUBLISHED_LIMIT
    apart = within and ((found.low or 0) > 0 or (found.high or 0) < 0)
    reading = "differs" if apart else "consistent within 5 points" if inside else "not resolved"
    return Line(task=task, of=f"{model}, {study.name}", estimates=(found,), reading=reading)
