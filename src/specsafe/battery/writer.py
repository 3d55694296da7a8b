"""Write a battery as JSONL: a head line, then an item a line; reading it back gives the same hash."""

from __future__ import annotations

import json
from pathlib import Path

from specsafe.battery.items import Battery, Item
from specsafe.errors import UserError

_FIELDS = (
    "id", "axis", "task", "category", "cluster", "prompt", "answers", "choices", "wrong", "published", "scorer"
)  # fmt: skip


def write_jsonl(battery: Battery, path: Path) -> None:
    """Write `battery` to `path`, whole or not at all. Raises UserError if it cannot be written."""
    head = {
        "name": battery.name,
        "version": battery.version,
        "license": battery.licence,
        "notes": battery.notes,
    }
    rows = [{"battery": head}, *map(_row, battery.items)]
    part = path.with_name(f"{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
        part.replace(path)
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {error.strerror}", "name a file in a writable folder"
        ) from error


def _row(item: Item) -> dict[str, object]:
    return {name: value for name in _FIELDS if (value := getattr(item, name))}
