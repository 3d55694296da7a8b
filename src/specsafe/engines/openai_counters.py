"""Prometheus counters of speculation: read by the names that a server's dialect has, and by no others."""

from __future__ import annotations

from typing import NamedTuple

from specsafe.engines.openai_dialects import DIALECTS, ImpossibleCounts
from specsafe.errors import UserError

KNOWN = ("num_drafts", "num_draft_tokens", "num_accepted_tokens", "num_accepted_tokens_per_pos")


class Counters(NamedTuple):
    """Sums since the server began: rounds, drafted tokens, accepted ones."""

    rounds: int
    drafted: int
    accepted: int

    def since(self, before: Counters) -> Counters:
        """What was added. Raises UserError if a counter went backwards, ImpossibleCounts for what cannot be."""
        added = Counters(*(now - then for now, then in zip(self, before, strict=True)))
        if min(added) < 0:
            raise UserError(
                "the server's counters went backwards: it was restarted meanwhile",
                "finished answers are kept; run the same command to continue, if the same server answers",
            )
        if added.accepted > added.drafted:
            raise ImpossibleCounts(f"{added.accepted} accepted of {added.drafted} drafted tokens by counters")
        return added


def read_counters(text: str, dialect: str, model: str) -> Counters | None:
    """The text of /metrics -> the counters; None where this server has none.

    Sums over engines, of the model asked for where the counters name one. Raises UserError for text that is no
    metrics, for counters of speculation whose names this specsafe does not know, and where one is missing.
    """
    from prometheus_client.parser import text_string_to_metric_families

    prefix = DIALECTS[dialect].counters
    if not prefix:
        return None
    sums: dict[str, float] = {}
    try:
        for family in text_string_to_metric_families(text):
            if not family.name.startswith(prefix):
                continue
            name = family.name.removeprefix(prefix).removesuffix("_total").removesuffix("_created")
            if name not in KNOWN:
                raise UserError(
                    f"the server has a counter that this specsafe does not know: {family.name[:80]}",
                    "its meaning may have changed with the server's version; use telemetry=none, and report it",
                )
            for sample in family.samples:
                if sample.name.endswith("_created") or sample.labels.get("model_name", model) != model:
                    continue
                sums[name] = sums.get(name, 0) + sample.value
    except ValueError as error:
        raise UserError(
            "the server's /metrics cannot be read", "see what answers there; or use telemetry=none"
        ) from error
    if not sums:
        return None
    missing = [n for n in KNOWN[:3] if n not in sums]
    if missing:
        raise UserError(
            f"the server's /metrics lack {prefix}{missing[0]}", "use telemetry=none, and report it"
        )
    values = [sums[n] for n in KNOWN[:3]]
    if not all(0 <= v < 2**53 and v == int(v) for v in values):
        raise ImpossibleCounts("a counter is no count")
    return Counters(*map(int, values))
