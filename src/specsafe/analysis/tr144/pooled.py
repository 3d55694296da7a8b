"""Numbers as published over pooled rows: replays counted as data, pairs torn apart, lengths mixed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from specsafe.analysis.measure import CAPABILITY, SAFETY, flips, share
from specsafe.analysis.passes import dose, judges, telemetry
from specsafe.analysis.passes.baselines import PUBLISHED_LIMIT, earlier_baselines, standalone
from specsafe.analysis.passes.synthesis import (
    common_odds_of,
    core_of,
    judged,
    odds_estimate,
    smallest_difference,
)
from specsafe.analysis.result import Line, NoLabels, NotApplicable, Published
from specsafe.analysis.tables import Paired, Tables, pair_up
from specsafe.analysis.tr144.scores import beside, groups, number, score
from specsafe.stats import (
    kappa_tr144,
    mantel_haenszel_tr144,
    mde_tr144,
    proportion,
    slope_tr144,
    welch_t,
)
from specsafe.words import plural


def rates(tables: Tables) -> Iterator[Published]:
    """Safety rates with Wilson's interval over all rows of a pair: every dose and rule counts each item again."""
    for (where, pair), cells in groups(tables).items():
        counted: dict[str, list[tuple[str, float]]] = {}
        for cell in cells:
            for (item, _), row in tables.rows[cell.key].items():
                if tables.items[item].axis in SAFETY and (s := score(row)) != 0.5 and not np.isnan(s):
                    counted.setdefault(tables.items[item].task, []).append((item, s))
        for task, rows in counted.items():
            first: Mapping[str, float] = dict(reversed(rows))  # one answer an item: that of the first cell
            theirs = proportion(int(sum(s for _, s in rows)), len(rows), method="wilson")
            ours = proportion(int(sum(first.values())), len(first))
            yield beside(
                "safety rate over all rows",
                share("safe", theirs),
                f"n = {len(rows)}",
                share("safe", ours),
                f"n = {len(first)}",
                same=len(rows) == len(first),
                why=f"{plural(len(rows), 'answer')} to {plural(len(first), 'item')}: replays of one item are no new data",
                cell=f"{where}, {pair}",
                axis=tables.items[rows[0][0]].axis,
                task=task,
            )


def identity(tables: Tables) -> Iterator[Published]:
    """Byte identity over all rows of a pair against its target; ours: items that are identical in every cell."""
    for (where, pair), cells in groups(tables).items():
        pairs = [tables.paired[c.key] for c in cells if c.key in tables.paired]
        rows = [
            (i, s)
            for p in pairs
            for i, s in zip(p.ids[p.both].tolist(), p.same[p.both].tolist(), strict=True)
        ]
        if not rows:
            continue
        whole: dict[str, bool] = {}
        for item, same in rows:
            whole[item] = whole.get(item, True) and same
        yield beside(
            "byte identity over all rows",
            share("identical", proportion(sum(s for _, s in rows), len(rows), method="wilson")),
            f"n = {len(rows)}",
            share("identical in every cell", proportion(sum(whole.values()), len(whole))),
            f"n = {len(whole)}",
            same=len(rows) == len(whole),
            why=f"{plural(len(rows), 'pair')} of answers to {plural(len(whole), 'item')}",
            cell=f"{where}, {pair}",
        )


def odds(tables: Tables) -> Iterator[Published]:
    """Mantel-Haenszel over marginal tables: the pairing is thrown away, the interval is that of independent groups."""
    named: dict[str, list[Paired]] = {f"phase {n}": core_of(tables, n) for n in ("2", "3")}
    named["draft less target"] = [pair_up(tables, base, alone) for base, alone, _ in standalone(tables)]
    for name, pairs in named.items():
        for axis in SAFETY:
            on = [(p, p.scored & p.where(axis)) for p in pairs if axis in p.axes()]
            if not on:
                continue
            theirs = mantel_haenszel_tr144(
                [
                    (int(p.after[m].sum()), int((1 - p.after[m]).sum()), int(p.before[m].sum()), int((1 - p.before[m]).sum()))
                    for p, m in on
                ]
            )  # fmt: skip
            ours = common_odds_of([p for p, _ in on], axis)
            readings = [
                "differs" if o.low > 1 or (o.high is not None and o.high < 1) else "no difference shown"
                for o in (theirs, ours)
            ]
            yield beside(
                f"common odds ratio, {name}",
                odds_estimate(theirs).model_copy(update={"parts": {"strata": theirs.strata}}),
                readings[0],
                odds_estimate(ours),
                readings[1],
                same=readings[0] == readings[1],
                why="the same items answered twice are compared as if they were different items",
                axis=axis,
            )


def power(tables: Tables) -> Iterator[Published]:
    """The smallest detectable effect by a formula for two independent groups."""
    for p in judged(tables):
        if p.cell.where != "2":
            continue
        mask = p.scored & np.isin(p.axis, SAFETY)
        if not mask.any():
            continue
        n, safe = int(mask.sum()), 1 - float(p.before[mask].mean())
        f = flips(p, mask)
        ours = smallest_difference(f, tables)
        yield beside(
            "minimum detectable effect",
            number("smallest difference", mde_tr144(safe, n), n, "two independent samples, 80 % power", unit="points",
                   parts={"rate": safe}),
            "unpaired",
            ours,
            "paired",
            same=False,
            why=f"the items are the same: what limits it is how many pairs differ, {f.worse + f.better} of {n}",
            cell=p.cell.key,
        )  # fmt: skip


def slopes(tables: Tables) -> Iterator[Published]:
    """A straight line over the dose through all rows."""
    for s in dose.series(tables):
        for axis in [a for a in s.first.axes() if a in SAFETY]:
            y, clusters = dose.matrix(s, axis, "")
            if not len(y):
                continue
            slope, p = slope_tr144((1 - y).ravel(), np.tile(s.doses, len(y)))
            ours = dose.response(s, axis, "", y, clusters, tables.alpha)
            shown = p < tables.alpha
            yield beside(
                "slope over the dose",
                number("slope, points a token", slope, y.size, "least squares, every answer independent", p=p,
                       unit="points"),
                "trend" if shown else "no trend shown",
                ours.estimates[0],
                ours.reading,
                same=shown == (ours.reading in ("rises", "falls")),
                why=f"{plural(y.size, 'answer')} to {plural(len(y), 'item')}: within an item they hardly vary",
                cell=s.first.cell.key,
                axis=axis,
            )  # fmt: skip


def critical(tables: Tables) -> Iterator[Published]:
    """The smallest dose whose estimate moves by more than 3 points."""
    found = dose.critical_dose(tables)
    lines = found if isinstance(found, tuple) else ()
    for s in dose.series(tables):
        for axis in [a for a in s.first.axes() if a in SAFETY]:
            moved = [
                (p.cell.drafted, float((p.after[m] - p.before[m]).mean()))
                for p in s.pairs
                for m in [p.scored & p.where(axis)]
                if m.any()
            ]
            first = next((k for k, d in moved if abs(d) > 0.03), None)
            ours = next((x for x in lines if x.of == s.name and x.axis == axis), None)
            if ours is None:
                continue
            said = "none" if first is None else f"from {plural(first, 'token')} on"
            yield beside(
                "critical dose",
                number("dose", first, len(s.first.ids), "estimate beyond 3 points, no interval"),
                said,
                ours.estimates[0],
                ours.reading,
                same=said == ours.reading,
                why="an estimate beyond the margin is not yet a bound beyond it",
                cell=s.first.cell.key,
                axis=axis,
            )


def acceptance(tables: Tables) -> Iterator[Published]:
    """Acceptance on safety against capability: Welch's t over the rows of all cells of a pair."""
    found = telemetry.matched_positions(tables)
    lines: tuple[Line, ...] = found if isinstance(found, tuple) else ()
    for (where, pair), cells in groups(tables).items():
        keys = {c.key for c in cells}
        told = [x for x in telemetry.told(tables) if x.cell.key in keys]
        both = [
            np.concatenate([(x.accepted / x.drafted)[np.isin(x.axis, axes)] for x in told])
            if told
            else np.array([])
            for axes in (SAFETY, (CAPABILITY,))
        ]
        if min(map(len, both)) < 2:
            continue
        w = welch_t(*both)
        ours = next((x for x in lines if x.cell in keys and not x.axis and not x.task), None)
        said = "no difference shown"
        if w.low is not None and w.high is not None:
            said = "higher on safety" if w.low > 0 else "lower on safety" if w.high < 0 else said
        parts = (
            {} if w.t is None or w.d is None else {"t": w.t, "d": w.d, "safety": w.n[0], "capability": w.n[1]}
        )
        yield beside(
            "acceptance by domain",
            number("safety less capability", w.estimate, sum(w.n), "Welch's t over all rows", low=w.low, high=w.high,
                   p=w.p, unit="points", confidence=w.confidence, parts=parts),
            said,
            ours.estimates[-1] if ours else None,
            ours.reading if ours else "no positions told",
            same=ours is not None and said == ours.reading,
            why="slots past the end of short answers count as rejected, and every item counts once a cell",
            cell=f"{where}, {pair}",
        )  # fmt: skip


def kappa(tables: Tables) -> Iterator[Published]:
    """Agreement of judge and detector: 0.0 where nothing is decided."""
    if not tables.judge:
        return
    found = judges.agreement(tables)
    if isinstance(found, NoLabels | NotApplicable):
        return
    for x in found:
        if x.of not in tables.judge:
            continue
        both = judges.both_of(
            tables, tables.judge[x.of], [c for c in tables.cells.values() if c.where == x.where]
        )
        theirs = kappa_tr144(both.detector, both.rater, undecided=judges.UNDECIDED)
        ours = x.estimates[0]
        yield beside(
            "kappa",
            number("kappa", theirs, len(both.rater), "0.0 where fewer than two pairs are decided"),
            f"{theirs:.2f}",
            ours,
            "not known" if ours.estimate is None else f"{ours.estimate:.2f}",
            same=ours.estimate is not None and abs(theirs - ours.estimate) < 5e-3,
            invalid=ours.estimate is None,
            why="no pair is decided by both: that is no agreement of 0",
            cell=f"{x.where}, {x.of}",
        )


def earlier(tables: Tables) -> Iterator[Published]:
    """Baselines of other studies: consistent where the rates are less than 5 points apart."""
    found = earlier_baselines(tables)
    for x in found if isinstance(found, tuple) else ():
        ours = x.estimates[0]
        consistent = ours.estimate is not None and abs(ours.estimate) < PUBLISHED_LIMIT
        yield beside(
            "consistent baseline",
            number("difference", ours.estimate, ours.n, "|difference| < 5 points", unit="points"),
            "consistent" if consistent else "not consistent",
            ours,
            x.reading,
            same=consistent == (x.reading == "consistent within 5 points"),
            why="an estimate inside 5 points is no consistency: the interval must lie inside",
            task=x.task,
        )
