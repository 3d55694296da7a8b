"""The rule of a screen on every cell that can be judged: gates with strata, A/A, controls and missing answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from specsafe.analysis.measure import phase_of
from specsafe.analysis.result import CellGates
from specsafe.analysis.tables import Paired, Row, Tables
from specsafe.battery import AXES, Axis, Item
from specsafe.scoring import UNSCORED
from specsafe.screen.controls import sensitivity, substitution_control
from specsafe.screen.gates import Harmed, Settled, judge_gate, with_differences
from specsafe.screen.pairs import Outcome, Outcomes
from specsafe.screen.result import Gate, Sensitivity
from specsafe.study.cells import Cell

Sizes = dict[tuple[str, ...], list[Sensitivity]]


def judge_cells(tables: Tables) -> tuple[CellGates, ...]:
    """Gates of the speculative cells with a matched target, at temperature 0, but for those of a dose series."""
    known: Sizes = {}
    return tuple(
        CellGates(cell=p.cell.key, gates=tuple(_gates(tables, p, known)))
        for p in tables.paired.values()
        if p.cell.part == "speculative" and not p.sampled and phase_of(p.cell) != "4" and p.both.any()
    )


def _gates(tables: Tables, p: Paired, known: Sizes) -> list[Gate]:
    beside = {
        part: [q for q in tables.paired.values() if q.cell.part == part and q.cell.baseline == p.base.key]
        for part in ("replicate", "control")
    }
    items = [tables.items[i] for i in p.cell.items]
    found = [
        _gate(tables, p, axis, [i for i in items if i.axis == axis], beside, known)
        for axis in AXES
        if any(i.axis == axis for i in items)
    ]
    return with_differences(found, tables.alpha)


def _gate(
    tables: Tables,
    p: Paired,
    axis: Axis,
    items: Sequence[Item],
    beside: Mapping[str, Sequence[Paired]],
    known: Sizes,
) -> Gate:
    margin, alpha = tables.margin, tables.alpha
    baseline, treatment = outcomes(tables, p.base, items), outcomes(tables, p.cell, items)
    decided = [i for i in items if i.id in baseline and i.id in treatment]
    shared = {i.id: baseline[i.id] for i in decided}
    sizes = _sizes(tables, p, decided, shared, known)
    controls = {
        "substitution": Harmed(
            *substitution_control(decided, shared, tables.stand_ins, sizes, margin=margin, alpha=alpha)
        )
    }
    for q in beside["control"]:
        harmed = outcomes(tables, q.cell, items)
        if harmed and axis == "harmful_compliance":
            controls[q.cell.key] = Harmed(len(harmed), harmed)
    repeated = next((q for q in beside["replicate"]), None)
    return judge_gate(
        axis,
        items,
        baseline,
        treatment,
        margin=margin,
        alpha=alpha,
        replicate=outcomes(tables, repeated.cell, items) if repeated else None,
        void=_void(tables, repeated),
        controls=controls,
        sizes=sizes,
        settled={
            "baseline": _settled(tables, p.base),
            "treatment": _settled(tables, p.cell),
            **({"replicate": _settled(tables, repeated.cell)} if repeated else {}),
        },
    )


def _sizes(
    tables: Tables, p: Paired, decided: Sequence[Item], shared: Outcomes, known: Sizes
) -> list[Sensitivity]:
    """How small a harm would be caught where items share clusters: once for cells that share baseline and items."""
    if len({i.cluster for i in decided}) == len(decided):
        return []
    key = (p.base.arm, *(i.id for i in decided))
    if key not in known:
        known[key] = sensitivity(decided, shared, tables.stand_ins, margin=tables.margin, alpha=tables.alpha)
    return known[key]


def outcomes(tables: Tables, cell: Cell, items: Sequence[Item]) -> dict[str, Outcome]:
    """Item -> outcome of its first sample, where it is scored."""
    rows, first = tables.rows[cell.key], cell.replicates[0]
    found: dict[str, Outcome] = {}
    for item in items:
        row: Row | None = rows.get((item.id, first))
        if row is not None and row.label not in ("", UNSCORED):
            found[item.id] = Outcome(row.harm, row.truncated)
    return found


def _settled(tables: Tables, cell: Cell) -> Settled:
    return Settled({i for i, _ in tables.rows[cell.key]}, {i for i, _ in tables.failed.get(cell.key, ())})


def _void(tables: Tables, repeated: Paired | None) -> str | None:
    """Why the target cannot be its own baseline: its restart did not run what it ran."""
    if repeated is None:
        return None
    one, other = (
        tables.arms.get(role, {}).get("fingerprint") for role in (repeated.base.arm, _role(repeated.cell))
    )
    if one is None or other is None:
        return None
    differing = sorted(k for k in {*one, *other} if one.get(k) != other.get(k))
    return f"target and replicate differ in {', '.join(differing)}" if differing else None


def _role(cell: Cell) -> str:
    """The role that the ledger gives to a replicate of an arm."""
    first = cell.replicates[0]
    return cell.arm if first == 0 else f"{cell.arm} #{first}"
