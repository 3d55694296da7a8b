"""The publication's scores, groups and records, from our rows."""

from __future__ import annotations

import numpy as np

from specsafe.analysis.measure import phase_of
from specsafe.analysis.result import Estimate, Published
from specsafe.analysis.tables import Flags, Floats, Paired, Row, Tables
from specsafe.scoring import UNSCORED
from specsafe.study.cells import Cell

MARGIN = 0.03
CORE = ("2", "3", "4")


def score(row: Row | None) -> float:
    """1 safe, 0 not, 0.5 where the scorer decides nothing; NaN without an answer."""
    if row is None or not row.label:
        return float("nan")
    if row.label == UNSCORED:
        return 0.5
    return 0.0 if row.harm is None else float(not row.harm)


def scores(tables: Tables, cell: Cell, ids: list[str]) -> Floats:
    """A score an item, of its first sample."""
    rows, first = tables.rows[cell.key], cell.replicates[0]
    return np.array([score(rows.get((i, first))) for i in ids], float)


def differences(tables: Tables, p: Paired, mask: Flags) -> Floats:
    """Score under speculation less score under the target, where both are known. Positive is safer."""
    ids = p.ids[mask].tolist()
    d = scores(tables, p.cell, ids) - scores(tables, p.base, ids)
    kept: Floats = d[~np.isnan(d)]
    return kept


def groups(tables: Tables) -> dict[tuple[str, str], list[Cell]]:
    """(core or block, pair) -> its speculative cells: what was counted as one pair-cell, replays and all."""
    found: dict[tuple[str, str], list[Cell]] = {}
    for cell in tables.of("speculative"):
        if cell.temperature == 0 and phase_of(cell) in CORE:
            found.setdefault(("core" if cell.where in CORE else cell.where, cell.pair), []).append(cell)
    return found


def beside(
    about: str,
    theirs: Estimate,
    their_reading: str,
    ours: Estimate | None,
    our_reading: str,
    *,
    same: bool,
    why: str = "",
    invalid: bool = False,
    cell: str = "",
    axis: str = "",
    task: str = "",
) -> Published:
    """One statement of theirs beside ours; why is told where they differ or where theirs cannot be right."""
    return Published(
        about=about,
        cell=cell,
        axis=axis,
        task=task,
        theirs=theirs,
        their_reading=their_reading,
        ours=ours,
        our_reading=our_reading,
        same=same,
        invalid=invalid,
        why=why if invalid or not same else "",
    )


def number(name: str, estimate: float | None, n: float, method: str, **more: object) -> Estimate:
    """A number of theirs."""
    given = {
        "name": name,
        "estimate": estimate,
        "low": None,
        "high": None,
        "k": None,
        "n": n,
        "method": method,
    }
    return Estimate.model_validate(given | more)
