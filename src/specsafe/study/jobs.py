"""From cells to jobs: which arms answer which items, in an order in which models stay loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from specsafe.battery import Item
from specsafe.engines import AnyArm, LocalArm, NativeArm, OpenAIArm, arm_id, check_arm
from specsafe.engines.base import Json
from specsafe.errors import UserError
from specsafe.study.arms import make_arm
from specsafe.study.cells import Cell
from specsafe.study.planning import answers_to_make, slots
from specsafe.study.protocol import Protocol
from specsafe.study.reading import role_of
from specsafe.study.run import Job, require_unique_roles


def arms_of(
    protocol: Protocol, cells: Sequence[Cell], own: Mapping[str, Mapping[str, Any]]
) -> dict[str, AnyArm]:
    """Name -> arm, for every arm of these cells. own: name -> keys that belong to this machine.

    Raises UserError for an arm that its engine cannot make, and for the name of none.
    """
    wanted, planned = {c.arm for c in cells}, slots(protocol)
    unknown = sorted(set(own) - {slot.arm for slot in planned})
    if unknown:
        raise UserError(f"no arm {unknown[0]!r} in the protocol", "see: specsafe study plan FILE --arms")
    found: dict[str, AnyArm] = {}
    for slot in planned:
        if slot.arm in wanted and slot.arm not in found:
            found[slot.arm] = make_arm(protocol, slot, own.get(slot.arm))
    return found


def make_jobs(
    cells: Sequence[Cell], arms: Mapping[str, AnyArm], items: Sequence[Item], chosen: set[str]
) -> list[Job]:
    """A job for every sample of every arm, over all items that some cell asks of it.

    arms: with numbers for everything that was auto. items: of the study, in order. chosen: ids of those that may be asked.
    Samples of one arm that are no restart share a session, and arms of the same models follow each other.
    Raises UserError for files that cannot be used.
    """
    asked = answers_to_make(cells)
    samples = _samples(cells)
    ids = {name: arm_id(arm, check_arm(arm)) for name, arm in arms.items()}
    jobs = []
    for (name, replicate), wanted in asked.items():
        mine = wanted & chosen
        part = tuple(i for i in items if i.id in mine)
        if part:
            restart = replicate // samples[name]
            session = f"{restart} {' '.join(_shared(name, arms[name]))}"
            jobs.append(Job(role_of(name, replicate), arms[name], ids[name], replicate, part, session))
    require_unique_roles(jobs)
    return _adjacent(jobs)


def _adjacent(jobs: Sequence[Job]) -> list[Job]:
    """Jobs of one session together, sessions of one target too, and within a session jobs of one draft."""
    first: dict[tuple[str, ...], int] = {}
    for n, job in enumerate(jobs):
        models = loaded(job.arm)
        for key in (models[:3], ("session", job.session), models):
            first.setdefault(key, n)
    return sorted(
        jobs, key=lambda j: (first[loaded(j.arm)[:3]], first["session", j.session], first[loaded(j.arm)])
    )


def _samples(cells: Sequence[Cell]) -> dict[str, int]:
    """Arm -> samples an item in one go; further ones are restarts."""
    return {c.arm: len(c.replicates) for c in cells}


def _shared(name: str, arm: AnyArm) -> tuple[str, ...]:
    """What may stay open from one arm to the next: the native engine's worker with a target, elsewhere the arm alone."""
    return loaded(arm)[:3] if isinstance(arm, NativeArm) else (name,)


def loaded(arm: AnyArm) -> tuple[str, ...]:
    """What an engine has to load for an arm, or where it is: arms that agree in it follow each other."""
    if isinstance(arm, OpenAIArm):
        return arm.kind, arm.address
    if not isinstance(arm, LocalArm):
        return (arm.kind,)
    return arm.kind, arm.model, getattr(arm, "dtype", ""), arm.draft


def settled(arm: AnyArm, resolved: Json) -> AnyArm:
    """The arm with every auto replaced by what was settled at the start."""
    if not isinstance(arm, LocalArm):
        return arm
    found = {name: resolved[arm.kind][name] for name in ("threads", "slots")}
    return arm.model_copy(update={k: v for k, v in found.items() if getattr(arm, k) == "auto"})
