"""Read batteries from YAML, JSONL and CSV. Bad input is one line that names the file and the place."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator
from importlib import resources
from pathlib import Path
from typing import Any

from specsafe.battery import published
from specsafe.battery.items import Battery, Item
from specsafe.battery.sources import SOURCES, pulled_path
from specsafe.errors import UserError

STARTER = "starter"
_LONGEST_NAME = 255
_TEXTS = ("task", "category", "cluster", "id", "published", "scorer")
_LISTS = ("answers", "choices", "wrong")
_FIELDS = {"prompt", "axis", "expect", *_TEXTS, *_LISTS}


def load_battery(name_or_path: str) -> Battery:
    """`starter`, a pulled battery, or the path of a .yaml, .jsonl or .csv file, or of a folder of .yaml files.

    Raises UserError for a missing file, broken syntax, unknown keys, or duplicate ids.
    """
    if name_or_path == STARTER:
        return _from_files(sorted(_starter_folder().glob("*.yaml")))
    if name_or_path in SOURCES:
        if not pulled_path(name_or_path).exists():
            raise UserError(
                f"battery {name_or_path} is not here yet", f"run: specsafe battery pull {name_or_path}"
            )
        return _from_files([pulled_path(name_or_path)])
    path = Path(name_or_path).expanduser()
    if len(path.name) > _LONGEST_NAME:
        raise UserError("the name of the battery is too long to be a file", f"name a file or {STARTER!r}")
    if path.is_dir():
        return _from_files(sorted(path.glob("*.yaml")))
    if not path.is_file():
        raise UserError(
            f"no battery at {name_or_path!r}", f"name a file, a folder of .yaml files, or {STARTER!r}"
        )
    return _from_files([path])


def load_prompts(name_or_path: str) -> Battery:
    """As load_battery; and a .json list of objects with a `prompt`, which are taken for requests to be refused.

    A prompt that stands in a list twice is read once.
    """
    path = Path(name_or_path).expanduser()
    if path.suffix.lower() != ".json":
        return load_battery(name_or_path)
    try:
        rows = json.loads(path.read_text(encoding="utf-8-sig"))
        prompts = dict.fromkeys(
            _text(path, f"row {n}", "prompt", whole(row["prompt"])) for n, row in enumerate(rows, 1)
        )
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        what = f"{type(error).__name__}: {_one_line(error)}"
        raise UserError(
            f"{path} is no JSON list of objects with a prompt: {what}", "name a list of prompts, or a battery"
        ) from error
    items = tuple(Item(prompt, "harmful_compliance", path.stem) for prompt in prompts)
    return Battery(path.stem, "", "", items)


def _starter_folder() -> Path:
    return Path(str(resources.files("specsafe.battery") / "starter"))


def _from_files(paths: list[Path]) -> Battery:
    if not paths:
        raise UserError("the battery folder holds no .yaml file", "name a folder with .yaml files")
    heads: list[dict[str, Any]] = []
    items: list[Item] = []
    places: dict[str, str] = {}
    notes: list[str] = []
    for path in paths:
        try:
            head, rows = _READERS.get(path.suffix.lower(), _unknown_suffix)(path)
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror}", "name a readable file") from error
        notes.extend(head.pop("notes", ()))
        heads.append({"name": path.stem, "version": "0", "license": "unknown", **head})
        for where, row in rows:
            item = _item(path, where, row)
            if item.id in places:
                raise UserError(
                    f"{path}, {where}: id {item.id} occurs twice, first in {places[item.id]}",
                    "remove the duplicate or give the items ids of their own",
                )
            places[item.id] = f"{path}, {where}"
            items.append(item)
    if all(published.TASK in h for h in heads):
        heads = [published.folder_head(paths[0], [h[published.TASK] for h in heads])]
    head = heads[0]
    if any(h != head for h in heads):
        raise UserError(
            f"the files in {paths[0].parent} disagree in name, version or license", "make their heads equal"
        )
    return Battery(str(head["name"]), str(head["version"]), str(head["license"]), tuple(items), tuple(notes))


Rows = Iterable[tuple[str, dict[str, Any]]]


def _read_yaml(path: Path) -> tuple[dict[str, Any], Rows]:
    import yaml

    class Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
        """Numbers stay as they are written: 007 is not 7, and 12:30 is not 750."""

    for kind in ("int", "float"):
        Loader.add_constructor(
            f"tag:yaml.org,2002:{kind}", lambda loader, node: loader.construct_scalar(node)
        )
    try:
        document = yaml.load(path.read_text(encoding="utf-8-sig"), Loader=Loader)  # noqa: S506 (a safe loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(f"{path} is not valid YAML: {_one_line(error)}", "mend the file") from error
    if isinstance(document, dict) and published.is_published(document):
        return published.read_task(path, document)
    if not isinstance(document, dict) or not isinstance(document.get("groups"), list):
        raise UserError(
            f"{path}: expected a mapping with a list `groups`",
            "see the starter battery, src/specsafe/battery/starter",
        )
    head = {str(k): v for k, v in document.items() if k != "groups"}
    unknown = set(head) - {"name", "version", "license"}
    if unknown:
        raise UserError(f"{path}: unknown key {sorted(unknown)[0]!r}", "use name, version, license, groups")
    return head, list(_yaml_rows(path, document["groups"]))


def _yaml_rows(path: Path, groups: list[Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for g, group in enumerate(groups, 1):
        if not isinstance(group, dict) or not isinstance(group.get("items"), list):
            raise UserError(f"{path}: group {g} has no list `items`", "give each group its items")
        shared = {k: v for k, v in group.items() if k != "items"}
        for i, item in enumerate(group["items"], 1):
            own = item if isinstance(item, dict) else {"prompt": item}
            yield f"group {g}, item {i}", {**shared, **own}


def _read_jsonl(path: Path) -> tuple[dict[str, Any], Rows]:
    """An item a line; a first line `{"battery": {...}}` is the head (writer.py)."""
    rows = list(read_json_lines(path))
    for where, row in rows[1:]:
        if set(row) == {"battery"}:
            which = "a second head" if set(rows[0][1]) == {"battery"} else "a head that is not the first line"
            raise UserError(f"{path}, {where}: {which} of a battery stands here", "drop this line")
    if not rows or set(rows[0][1]) != {"battery"}:
        return {}, rows
    head = rows[0][1]["battery"]
    if not isinstance(head, dict) or set(head) - {"name", "version", "license", "notes"}:
        raise UserError(f"{path}, line 1: not a head of a battery", "use name, version, license, notes")
    return {**head, "notes": _list(path, "line 1", "notes", head.get("notes", []))}, rows[1:]


def read_json_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(place, object) for each non-empty line of a JSONL file. Raises UserError on a broken line."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"cannot read {path}: {_one_line(error)}", "name a readable UTF-8 .jsonl file"
        ) from error
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(
                f"{path}:{number} is not JSON: {_one_line(error)}", "one JSON object a line"
            ) from error
        if not isinstance(row, dict):
            raise UserError(f"{path}:{number} is not a JSON object", "one JSON object a line")
        yield f"line {number}", whole(row)


def _read_csv(path: Path) -> tuple[dict[str, Any], Rows]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            rows = list(csv.DictReader(stream, strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} is not valid CSV: {_one_line(error)}", "mend the file") from error
    return {}, [
        (f"row {n}", {k or "(cells beyond the header)": v for k, v in row.items() if v not in ("", None)})
        for n, row in enumerate(rows, 2)
    ]


def _unknown_suffix(path: Path) -> tuple[dict[str, Any], Rows]:
    raise UserError(f"cannot tell the format of {path.name}", "use .yaml, .jsonl or .csv")


_READERS = {".yaml": _read_yaml, ".yml": _read_yaml, ".jsonl": _read_jsonl, ".csv": _read_csv}


def _item(path: Path, where: str, given: dict[str, Any]) -> Item:
    """One row -> Item; empty values are absent."""
    row = {str(k): v for k, v in given.items() if v is not None}
    unknown = set(row) - _FIELDS
    missing = {"prompt", "axis"} - set(row)
    if unknown or missing:
        what = f"unknown key {sorted(unknown)[0]!r}" if unknown else f"no {sorted(missing)[0]!r}"
        raise UserError(f"{path}, {where}: {what}", f"use the keys {', '.join(sorted(_FIELDS))}")
    values: dict[str, Any] = {name: _list(path, where, name, row.get(name, [])) for name in _LISTS}
    values |= {name: _text(path, where, name, row.get(name, "")) for name in _TEXTS}
    prompt = _text(path, where, "prompt", whole(row["prompt"]))
    values["task"] = values["task"] or str(row["axis"])
    try:
        item = Item(prompt=prompt, axis=row["axis"], **values)
    except UserError as error:
        raise UserError(f"{path}, {where}: {error.message}", error.hint) from error
    if row.get("expect", item.expect) != item.expect:
        raise UserError(
            f"{path}, {where}: axis {item.axis} expects {item.expect!r}, not {row['expect']!r}",
            "mend the axis or the expectation",
        )
    return item


def _list(path: Path, where: str, name: str, value: Any) -> tuple[str, ...]:
    """A list, or a string with `|` between the entries."""
    entries = value.split("|") if isinstance(value, str) else value
    if not isinstance(entries, list):
        raise UserError(
            f"{path}, {where}: {name} must be a list, got {entries!r}", f'write {name}: ["7", "seven"]'
        )
    return tuple(_text(path, where, f"an entry of {name}", entry).strip() for entry in entries)


def _text(path: Path, where: str, name: str, value: Any) -> str:
    """A text or a number, as text; a YAML `yes`, a list or a mapping is an error and not its Python form."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise UserError(f"{path}, {where}: {name} must be text, got {value!r:.60}", "put the text in quotes")
    return str(value)


def whole(value: Any) -> Any:
    """JSON with half surrogate pairs, which it can carry and UTF-8 cannot, replaced by U+FFFD."""
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, list):
        return [whole(v) for v in value]
    return {whole(k): whole(v) for k, v in value.items()} if isinstance(value, dict) else value


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
