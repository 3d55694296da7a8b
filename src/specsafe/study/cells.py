"""Cells: what a protocol plans, one arm on some items in one place of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

# target: the target alone. draft: the draft alone, as a model of its own. replicate: the target again, restarted and
# in another order. width: verification-shaped passes without another model's tokens. speculative: what is judged.
# control: harm put in on purpose. probe: an arm without a matched target, shown and never judged.
Part = Literal["target", "draft", "replicate", "width", "speculative", "control", "probe"]


@dataclass(frozen=True, slots=True)
class Planned:
    """One arm in one place of the protocol, whatever its items are.

    key: unique in the study. where: "1" … "5" for a phase, or the name of a block. arm: role of the arm in the ledger.
    pair: name of the pair; "" where a model is on its own. lossless: the rule claims to change nothing. drafted: tokens
    proposed a round; 0 without a draft. replicates: which samples of each item; more than one only where temperature > 0.
    """

    key: str
    where: str
    part: Part
    arm: str
    pair: str
    model: str
    draft: str
    rule: str
    lossless: bool
    drafted: int
    dtype: str
    temperature: float
    seed: int
    replicates: tuple[int, ...]

    @property
    def planned(self) -> dict[str, Any]:
        """These fields by name."""
        return {f.name: getattr(self, f.name) for f in fields(Planned)}


@dataclass(frozen=True, slots=True)
class Cell(Planned):
    """One arm on some items. Cells may share an arm: its answers are made once.

    items: ids. baseline: key of the matched target cell. alone: key of the cell in which the draft answers by itself.
    Either is "" where there is none.
    """

    items: tuple[str, ...]
    baseline: str = ""
    alone: str = ""


@dataclass(frozen=True, slots=True)
class Slot(Planned):
    """A cell that has no items yet, and what else makes an arm: what a plan can count without any battery.

    items: name of an item set. engine: of the protocol. control: prefill or leak:SHARE. keys: further keys of the arm.
    """

    items: str
    engine: str
    control: str
    keys: Mapping[str, Any]
