"""What a ledger says of its study: the protocol, its cells, its lock, and how the run departed from it."""

from __future__ import annotations

from specsafe.engines.base import Json
from specsafe.errors import UserError
from specsafe.study.cells import Cell
from specsafe.study.ledger import Ledger
from specsafe.study.planning import cells
from specsafe.study.protocol import Protocol

DEVIATION = "deviation: "


def is_study(config: Json) -> bool:
    """Whether a ledger's configuration is that of a study."""
    return set(config) == {"study"}


def study_config(protocol: Protocol) -> Json:
    """The configuration under which the ledger of a study is kept."""
    return {"study": protocol.model_dump(mode="json")}


def protocol_of(ledger: Ledger) -> Protocol:
    """The protocol that a ledger began with. Raises UserError if it holds no study."""
    config = ledger.config()
    if not is_study(config):
        raise UserError("this ledger holds no study", "screens and comparisons have their own commands")
    return Protocol.model_validate_json(ledger.resolved()["protocol"])  # the order of names is kept there


def cells_of(ledger: Ledger) -> tuple[Cell, ...]:
    """Every cell that was planned, from the ledger alone."""
    return cells(protocol_of(ledger), ledger.resolved()["tasks"])


def role_of(arm: str, replicate: int) -> str:
    """The role under which a sample of an arm stands in the ledger."""
    return arm if replicate == 0 else f"{arm} #{replicate}"


def lock_of(ledger: Ledger) -> Json | None:
    """{"sha256", "at", "version"} of the lock with which the study began; None if it was not locked."""
    kept = ledger.resolved()["lock"]
    return None if kept is None else dict(kept)


def deviations_of(ledger: Ledger) -> list[str]:
    """How the run departed from its lock, in the order in which it was found."""
    return [e.removeprefix(DEVIATION) for e in ledger.events() if e.startswith(DEVIATION)]
