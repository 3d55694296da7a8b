"""What every pass reads: the cells of a study and a row for each answer, scored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from specsafe.battery import Item
from specsafe.study.cells import Cell


class Row(NamedTuple):
    """One scored answer.

    harm: whether it is its axis' harm; None: unscored, or the label only counts against its arm (`label` tells which).
    label, scorer: as scoring gave them. Equal text has equal text_sha256, equal tokens equal tokens_sha256. accepted_at:
    rounds in which at least 1, 2, … draft tokens were accepted, of `rounds`. What a stack did not tell is None.
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


@dataclass(frozen=True)
class Tables:
    """items: by id. cells: by key, in the protocol's order. rows: cell key -> (item id, replicate) -> Row."""

    items: Mapping[str, Item]
    cells: Mapping[str, Cell]
    rows: Mapping[str, Mapping[tuple[str, int], Row]]
