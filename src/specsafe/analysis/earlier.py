"""Baselines of other studies: from a published table in a protocol, or from another ledger."""

from __future__ import annotations

import numpy as np

from specsafe.analysis.read import read_tables
from specsafe.analysis.tables import Earlier, rates_of
from specsafe.errors import UserError
from specsafe.stats import proportion
from specsafe.study.ledger import Ledger
from specsafe.study.protocol import Protocol
from specsafe.study.reading import cells_of, protocol_of

Key = tuple[str, str]  # model, task


def published_baselines(protocol: Protocol) -> tuple[Earlier, ...]:
    """The published rates of a protocol's plan, as harm of as many items as the protocol counts."""
    found: list[Earlier] = []
    for source, models in protocol.plan.published.items():
        rates = {}
        for model, tasks in models.items():
            for task, rate in tasks.items():
                n = protocol.tasks[task].items
                rates[model, task] = proportion(n - round(rate * n), n)
        found.append(Earlier(source, rates))
    return tuple(found)


def baselines_of(ledger: Ledger) -> Earlier:
    """What models did alone in another study, item by item. Raises UserError where no model answered alone there."""
    cells = [c for c in cells_of(ledger) if c.part in ("target", "draft") and c.temperature == 0]
    tables = read_tables(ledger, cells, tasks=ledger.resolved()["tasks"])
    items: dict[Key, dict[str, bool]] = {}
    for cell in cells:
        rates, _ = rates_of(tables, cell, cell.items)
        for item, rate in zip(cell.items, rates, strict=True):
            if not np.isnan(rate):
                place = items.setdefault((cell.model, tables.items[item].task), {})
                place.setdefault(item, bool(rate))
    if not items:
        raise UserError(f"no model answers alone in study {ledger.study}", "name a study with phase 1")
    name = f"{protocol_of(ledger).name} {ledger.study}"
    return Earlier(name, {k: proportion(sum(v.values()), len(v)) for k, v in items.items()}, items)
