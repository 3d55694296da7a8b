"""Locking: what a protocol said on a day, and how a run departs from it."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

from specsafe import __version__
from specsafe.engines.base import Json
from specsafe.errors import UserError
from specsafe.study.protocol import PLANNED, Protocol
from specsafe.study.schema import differences

SCHEMA = "specsafe-study-lock-1"


def lock_path(file: Path, protocol: Protocol) -> Path:
    """Where the lock of a protocol lies: beside its file, a lock each variant."""
    variant = "" if protocol.variant == PLANNED else f".{protocol.variant}"
    return file.with_suffix(f"{variant}.lock.json")


def write_lock(path: Path, protocol: Protocol, batteries: dict[str, str]) -> Path:
    """Write the lock of a protocol beside its file. batteries: task -> hash of its items.

    Raises UserError if another lock is there: a lock that could be renewed would hold nothing.
    """
    made = {
        "schema": SCHEMA,
        "name": protocol.name,
        "variant": protocol.variant,
        "sha256": protocol.sha256,
        "at": datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S"),
        "version": __version__,
        "batteries": batteries,
        "protocol": json.loads(protocol.text),
    }
    place = lock_path(path, protocol)
    kept = read_lock(path, protocol)
    if kept is not None:
        if {**kept, "at": "", "version": ""} == {**made, "at": "", "version": ""}:
            return place
        raise UserError(
            f"{place} is there, and locks something else: {deviations(kept, protocol, batteries)[0]}",
            "run the study with its deviations, or give the changed protocol a file of its own",
        )
    place.write_text(json.dumps(made, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return place


def read_lock(path: Path, protocol: Protocol) -> Json | None:
    """The lock beside a protocol file; None if there is none. Raises UserError if it cannot be read."""
    place = lock_path(path, protocol)
    if not place.exists():
        return None
    try:
        found = json.loads(place.read_text(encoding="utf-8"))
        known = found["schema"] == SCHEMA and {"sha256", "at", "version", "batteries", "protocol"} <= set(
            found
        )
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"{place} is no lock: {type(error).__name__}", "restore it") from error
    if not known:
        raise UserError(f"{place} is no lock of this version", "restore it")
    return dict(found)


def deviations(lock: Json | None, protocol: Protocol, batteries: dict[str, str]) -> list[str]:
    """How what is about to run departs from its lock, a line each; a study that was never locked says so."""
    if lock is None:
        return ["the protocol was not locked before the run"]
    found = []
    now = json.loads(protocol.text)
    if lock["protocol"] != now:
        found += differences(lock["protocol"], now).split("; ")
    elif lock["sha256"] != protocol.sha256:
        found.append("names stand in another order in the protocol")
    for task in sorted({*lock["batteries"], *batteries}):
        was, is_ = (h.get(task, "") for h in (lock["batteries"], batteries))
        if was != is_:
            found.append(f"items of task {task}: hash was {was[:16] or 'none'}, is {is_[:16] or 'none'}")
    if lock["version"] != __version__:
        found.append(f"specsafe was {lock['version']}, is {__version__}")
    return found
