"""A cell that has no items yet: what a plan can count without any battery."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from specsafe.study.cells import Part


@dataclass(frozen=True, slots=True)
class Slot:
    """As study.cells.Cell, with the name of an item set for the items, and what else makes an arm.

    engine: of the protocol. control: prefill or leak:SHARE. keys: further keys of the arm.
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
    items: str
    engine: str
    control: str
    keys: Mapping[str, Any]
