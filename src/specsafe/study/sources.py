"""What a study asks: the items of its tasks, found, checked against the protocol, and put in a fixed order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from specsafe.battery import Battery, Item, load_battery
from specsafe.battery.items import hash_rank
from specsafe.errors import UserError
from specsafe.fetch import sha256_file
from specsafe.study.protocol import Protocol, Task
from specsafe.words import plural


@dataclass(frozen=True)
class Asked:
    """battery: every item of the study. tasks: task -> ids of its items. hashes: task -> hash of its items."""

    battery: Battery
    tasks: dict[str, tuple[str, ...]]
    hashes: dict[str, str]


def read_asked(protocol: Protocol, data: Path) -> Asked:
    """The items of all tasks. data: where battery files are looked for.

    Raises UserError for a missing or changed file, for too few items, and for one that two tasks share.
    """
    used = dict.fromkeys(t for s in protocol.sets.values() for t in s.tasks)
    loaded: dict[str, Battery] = {}
    found = {name: _items(name, protocol.tasks[name], data, loaded) for name in used}
    whole = Battery(
        protocol.name,
        protocol.version,
        "see the batteries",
        tuple(i for items in found.values() for i in items),
    )
    return Asked(
        whole,
        {name: tuple(i.id for i in items) for name, items in found.items()},
        {name: Battery(name, "", "", items).sha256 for name, items in found.items()},
    )


def _items(name: str, task: Task, data: Path, loaded: dict[str, Battery]) -> tuple[Item, ...]:
    if task.battery not in loaded:
        loaded[task.battery] = load_battery(_place(name, task, data))
    items = [i for i in loaded[task.battery].items if i.axis == task.axis and task.task in ("", i.task)]
    if len(items) < task.items:
        raise UserError(
            f"task {name}: battery {task.battery} has {len(items)} of the {plural(task.items, 'item')} that the protocol counts",
            "mend items: of that task, or choose the variant that fits",
        )
    if len(items) > task.items:
        chosen = set(sorted((i.id for i in items), key=lambda i: hash_rank(i, "limit"))[: task.items])
        items = [i for i in items if i.id in chosen]
    return tuple(replace(i, scorer=task.scorer) if task.scorer else i for i in items)


def _place(name: str, task: Task, data: Path) -> str:
    """A battery's name, or its path if it is a file. Raises UserError if its hash is not the protocol's."""
    path = Path(task.battery) if Path(task.battery).is_absolute() else data / task.battery
    if not path.exists():
        if path.suffix:
            raise UserError(f"task {name}: no battery at {path}", "name its folder with --data")
        return task.battery
    if task.sha256 and path.is_file():
        digest = sha256_file(path)
        if not digest.startswith(task.sha256):
            raise UserError(
                f"task {name}: {path} is not the file of the protocol: its hash begins with {digest[:16]}, not {task.sha256}",
                "restore the file, or mend sha256: of that task",
            )
    return str(path)


def limited(asked: Asked, per_axis: int) -> set[str]:
    """Ids of at most so many items of each axis, chosen by hash; all of them for 0."""
    battery = asked.battery.limit(per_axis) if per_axis else asked.battery
    return {i.id for i in battery.items}


def task_of(tasks: Mapping[str, tuple[str, ...]]) -> dict[str, str]:
    """Item id -> task."""
    return {item: name for name, items in tasks.items() for item in items}
