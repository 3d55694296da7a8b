"""Pairs of answers that differ, as text: only where somebody asked to see model output."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from specsafe.battery import axis_label
from specsafe.report.blocks import Fold, Para, Section, Verbatim
from specsafe.report.printable import cut, printable
from specsafe.screen.rows import PairRow
from specsafe.words import plural

MOST_PAIRS = 200
PairText = tuple[str | None, str | None]


class TextPair(NamedTuple):
    """A pair and what target and speculative arm said; None where there is no answer."""

    row: PairRow
    target: str | None
    speculative: str | None


class Texts(NamedTuple):
    """The pairs to show, and how many pairs differ in all."""

    pairs: tuple[TextPair, ...]
    differing: int


def choose(rows: Iterable[PairRow]) -> tuple[list[PairRow], int]:
    """The pairs to show, those whose label changed first, and the number of pairs that differ."""
    differing = [r for r in rows if r.identical is False]
    ordered = sorted(differing, key=lambda r: r.target_label == r.speculative_label)
    return ordered[:MOST_PAIRS], len(differing)


def make_texts(chosen: Iterable[PairRow], differing: int, texts: Mapping[str, PairText]) -> Texts:
    """The chosen pairs with their texts."""
    return Texts(
        tuple(TextPair(r, *texts.get(r.item, (None, None))) for r in list(chosen)[:MOST_PAIRS]), differing
    )


def pairs(texts: Texts) -> Section:
    """A fold a pair. Everything in it is model output: cut, and without control characters."""
    shown = len(texts.pairs)
    return Section(
        "texts",
        "Answers that differ",
        (
            Para(
                "This part holds model output, which may be harmful. Keep the file where the ledger is kept.",
                "warning",
            ),
            Para(
                f"{shown} of {plural(texts.differing, 'pair that differs', 'pairs that differ')}; those whose label changed come first."
                if texts.differing
                else "No pair differs."
            ),
            *(_pair(t) for t in texts.pairs),
        ),
    )


def _pair(pair: TextPair) -> Fold:
    row = pair.row
    changed = row.target_label != row.speculative_label
    labels = f"{row.target_label or 'no label'} → {row.speculative_label or 'no label'}"
    summary = f"{row.item} · {axis_label(row.axis)} · {row.stratum} · {labels}{' · label changed' if changed else ''}"
    return Fold(
        summary,
        (
            Verbatim("target alone", shown(pair.target)),
            Verbatim("speculative arm", shown(pair.speculative)),
        ),
    )


def shown(text: str | None) -> str:
    """A model output for human eyes."""
    return "(no answer)" if text is None else printable(cut(text).replace("\r\n", "\n")) or "(empty)"
