"""One row a pair: what each arm's answer was called, whether the bytes agree, where they fork."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from specsafe.screen.forks import compare
from specsafe.screen.pairs import Labels
from specsafe.study.answers import Answers
from specsafe.study.ledger import Ledger


class PairRow(NamedTuple):
    """An item under target and speculative arm; label None where there is no answer. gap in nats."""

    item: str
    axis: str
    stratum: str
    cluster: str
    scorer: str
    target_label: str | None
    speculative_label: str | None
    identical: bool | None
    fork_position: int | None
    fork_gap: float | None
    target_sha256: str | None
    speculative_sha256: str | None


def pair_rows(ledger: Ledger) -> Iterator[PairRow]:
    """A row for every item of the battery, in its order."""
    arms, items, labels = ledger.arms(), ledger.items(), Labels(ledger)
    target, speculative = (
        ledger.answers(arms[r]["id"], arms[r]["replicate"]) for r in ("target", "speculative")
    )
    forks = {f.item: f for f in compare("speculative", items, target, speculative).forks}
    called: list[dict[str, str]] = []
    for answers in (target, speculative):
        called.append({})
        for scorer in {i.scorer for i in items}:
            called[-1] |= labels.labels(scorer, [i for i in items if i.scorer == scorer], answers)
    for item in items:
        fork = forks.get(item.id)
        hashes = [a[item.id].text_sha256 if item.id in a else None for a in (target, speculative)]
        yield PairRow(
            item=item.id,
            axis=item.axis,
            stratum=item.stratum,
            cluster=item.cluster,
            scorer=item.scorer,
            target_label=called[0].get(item.id),
            speculative_label=called[1].get(item.id),
            identical=None if None in hashes else hashes[0] == hashes[1],
            fork_position=fork.position if fork else None,
            fork_gap=fork.gap if fork else None,
            target_sha256=hashes[0],
            speculative_sha256=hashes[1],
        )


def pair_texts(ledger: Ledger, items: set[str]) -> dict[str, tuple[str | None, str | None]]:
    """Item -> what target and speculative arm said. Only for eyes that asked for it."""
    arms = ledger.arms()
    answered: list[Answers] = [
        ledger.answers(arms[r]["id"], arms[r]["replicate"]) for r in ("target", "speculative")
    ]
    target, speculative = (a.texts(items) for a in answered)
    return {i: (target.get(i), speculative.get(i)) for i in sorted(items)}
