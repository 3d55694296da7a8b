"""What every pass reads: the cells of a study, a row for each answer, and pairs of cells as arrays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from specsafe.battery import Item
from specsafe.engines.base import Json
from specsafe.scoring import UNSCORED
from specsafe.screen.pairs import Outcome
from specsafe.screen.result import Contrast as Forks
from specsafe.stats import Proportion
from specsafe.study.cells import Cell

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
Names = NDArray[np.str_]
AMBIGUOUS = 2.0


class Row(NamedTuple):
    """One scored answer.

    harm: whether it is its axis' harm; None: unscored, or the label only counts against its arm (`label` tells which).
    label, scorer: as scoring gave them. Equal text has equal text_sha256, equal tokens equal tokens_sha256. accepted_at:
    rounds in which at least 1, 2, … draft tokens were accepted, of `rounds`. What a stack did not tell is None.
    opening: hash of the first five words of an answer that refuses; None for any other.
    """

    harm: bool | None
    label: str
    scorer: str
    text_sha256: str
    tokens_sha256: str | None
    tokens: int | None
    truncated: bool
    drafted: int | None
    accepted: int | None
    rounds: int | None
    accepted_at: tuple[int, ...] | None
    seconds: float | None
    opening: str | None = None


class Earlier(NamedTuple):
    """Baseline rates of another study: (model, task) -> harmed of n. items: (model, task) -> item -> harmed, if known."""

    name: str
    rates: Mapping[tuple[str, str], Proportion]
    items: Mapping[tuple[str, str], Mapping[str, bool]] = {}


@dataclass(frozen=True, eq=False)
class Tables:
    """items: by id. cells: by key, in the protocol's order. rows: cell key -> (item id, replicate) -> Row.

    failed: cell key -> (item id, replicate) that could not be answered. arms: role -> what the ledger keeps of it. forks: cell key ->
    forks against its baseline; a cell is missing where the stack gave no tokens. stand_ins: item -> outcome of an answer
    harmed on purpose. power, draws: of the plan, for the smallest difference and for bootstraps. judge, human: judge model, person -> (item, text_sha256) -> label. earlier: other studies.
    """

    items: Mapping[str, Item]
    cells: Mapping[str, Cell]
    rows: Mapping[str, Mapping[tuple[str, int], Row]]
    margin: float = 0.03
    alpha: float = 0.05
    power: float = 0.8
    draws: int = 2_000
    failed: Mapping[str, frozenset[tuple[str, int]]] = field(default_factory=dict)
    arms: Mapping[str, Json] = field(default_factory=dict)
    forks: Mapping[str, Forks] = field(default_factory=dict)
    stand_ins: Mapping[str, Outcome] = field(default_factory=dict)
    judge: Mapping[str, Mapping[tuple[str, str], str]] = field(default_factory=dict)
    human: Mapping[str, Mapping[tuple[str, str], str]] = field(default_factory=dict)
    earlier: tuple[Earlier, ...] = ()

    @cached_property
    def paired(self) -> Mapping[str, Paired]:
        """Every cell with a matched baseline, beside it: by key, in the protocol's order."""
        return {
            key: pair_up(self, self.cells[cell.baseline], cell)
            for key, cell in self.cells.items()
            if cell.baseline
        }

    @cached_property
    def known_rates(self) -> dict[tuple[str, tuple[str, ...]], tuple[Floats, Floats]]:
        """What `rates_of` has found: cells share baselines."""
        return {}

    def of(self, *parts: str, where: str | None = None) -> list[Cell]:
        """Cells of some parts, in one place or in all, in the protocol's order."""
        return [c for c in self.cells.values() if c.part in parts and where in (None, c.where)]


class Paired(NamedTuple):
    """A cell beside another one: arrays over the items of the cell, in their order.

    before, after: share of an item's samples that are harm (0 or 1 at temperature 0), NaN where nothing is scored; an
    ambiguous answer counts as harm. before_, after_: the same with ambiguous answers counted as fine. both: answered by
    both. same: the first samples are equal byte for byte. scored: before and after are known.
    """

    cell: Cell
    base: Cell
    ids: Names
    axis: Names
    task: Names
    category: Names
    cluster: Names
    before: Floats
    after: Floats
    before_: Floats
    after_: Floats
    both: Flags
    same: Flags
    scored: Flags

    @property
    def sampled(self) -> bool:
        """Whether there may be several samples an item: then outcomes are rates."""
        return max(self.cell.temperature, self.base.temperature) > 0

    def axes(self) -> list[str]:
        """Axes of which something is scored, in the order of the items."""
        return list(dict.fromkeys(self.axis[self.scored].tolist()))

    def tasks(self, axis: str = "") -> list[str]:
        """Tasks of an axis, or of all, of which something is scored."""
        mask = self.scored & ((self.axis == axis) if axis else True)
        return list(dict.fromkeys(self.task[mask].tolist()))

    def where(self, axis: str = "", task: str = "") -> Flags:
        """The items of an axis, of a task, or of both."""
        mask: Flags = np.ones(len(self.ids), bool)
        if axis:
            mask &= self.axis == axis
        if task:
            mask &= self.task == task
        return mask


def harm_of(row: Row | None) -> float:
    """1 for harm, 0 for none, AMBIGUOUS for a label that only counts against its arm, NaN for what is not scored."""
    if row is None or row.label in ("", UNSCORED):
        return float("nan")
    return AMBIGUOUS if row.harm is None else float(row.harm)


def kept_replicates(cell: Cell) -> tuple[int, ...]:
    """The samples of an item that are data: all at T > 0, the first alone at temperature 0, where others are replays."""
    return cell.replicates if cell.temperature > 0 else cell.replicates[:1]


def rates_of(tables: Tables, cell: Cell, items: tuple[str, ...]) -> tuple[Floats, Floats]:
    """Share of harm among the scored samples of each item, ambiguous answers as harm and as none; NaN where there is none."""
    place = cell.key, items
    if place not in tables.known_rates:
        rows, kept = tables.rows[cell.key], kept_replicates(cell)
        values = np.array([[harm_of(rows.get((i, r))) for r in kept] for i in items], float)
        values = values.reshape(len(items), len(kept))
        tables.known_rates[place] = (
            _mean(np.where(values == AMBIGUOUS, 1.0, values)),
            _mean(values % AMBIGUOUS),
        )
    return tables.known_rates[place]


def _mean(values: Floats) -> Floats:
    """Mean of what is known in each row."""
    known = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        return np.where(known.any(1), np.nansum(values, axis=1) / known.sum(1), np.nan)


def pair_up(tables: Tables, base: Cell, cell: Cell) -> Paired:
    """A cell beside another one, over the items of the cell."""
    items = [tables.items[i] for i in cell.items]
    ids = np.array([i.id for i in items], dtype=np.str_)
    one, other = tables.rows[base.key], tables.rows[cell.key]
    first = [(one.get((i, base.replicates[0])), other.get((i, cell.replicates[0]))) for i in cell.items]
    (before, before_), (after, after_) = (rates_of(tables, c, cell.items) for c in (base, cell))
    return Paired(
        cell=cell,
        base=base,
        ids=ids,
        axis=np.array([i.axis for i in items], dtype=np.str_),
        task=np.array([i.task for i in items], dtype=np.str_),
        category=np.array([i.category for i in items], dtype=np.str_),
        cluster=np.array([i.cluster for i in items], dtype=np.str_),
        before=before,
        after=after,
        before_=before_,
        after_=after_,
        both=np.array([a is not None and b is not None for a, b in first], bool),
        same=np.array([bool(a and b and a.text_sha256 == b.text_sha256) for a, b in first], bool),
        scored=~np.isnan(before) & ~np.isnan(after),
    )
