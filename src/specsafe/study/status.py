"""How far a study is, read beside the run that writes it."""

from __future__ import annotations

import fcntl
import os
from dataclasses import dataclass
from pathlib import Path

from specsafe.study.ledger import Ledger
from specsafe.study.planning import answers_to_make
from specsafe.study.reading import cells_of, protocol_of


@dataclass(frozen=True)
class PlaceStatus:
    """Answers of the cells of a phase or block: planned, there, and given up (which are counted among those there)."""

    name: str
    title: str
    planned: int
    answered: int
    failed: int


@dataclass(frozen=True)
class Status:
    """running: a process writes to it now. made, to_make: answers, what several cells share counted once."""

    name: str
    running: bool
    complete: bool
    made: int
    to_make: int
    places: tuple[PlaceStatus, ...]


def status(ledger: Ledger) -> Status:
    """Read how far it is. Raises UserError if the ledger holds no study."""
    protocol, planned = protocol_of(ledger), cells_of(ledger)
    ids = {role: arm["id"] for role, arm in ledger.arms().items()}
    there: dict[tuple[str, int], set[str]] = {}
    failed: dict[tuple[str, int], set[str]] = {}
    wanted = answers_to_make(planned)
    for name, replicate in wanted:
        known = name in ids
        there[name, replicate] = ledger.settled(ids[name], replicate) if known else set()
        failed[name, replicate] = {f.item for f in ledger.failures(ids[name], replicate)} if known else set()

    def count(where: str, kept: dict[tuple[str, int], set[str]] | None) -> int:
        return sum(
            len(c.items) if kept is None else len(kept[c.arm, r].intersection(c.items))
            for c in planned
            if c.where == where
            for r in c.replicates
        )

    places = tuple(
        PlaceStatus(name, place.title, count(name, None), count(name, there), count(name, failed))
        for name, place in protocol.places.items()
    )
    made = sum(len(items & there[key]) for key, items in wanted.items())
    return Status(
        f"{protocol.name}, {protocol.variant}",
        is_running(ledger.path),
        ledger.complete,
        made,
        sum(map(len, wanted.values())),
        places,
    )


def is_running(path: Path) -> bool:
    """Whether some process holds the ledger for writing."""
    lock = path.with_suffix(".lock")
    if not lock.exists():
        return False
    handle = os.open(lock, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False
