"""A comparison as a file: one stack, some prompts, and the methods that answer them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from specsafe.battery import Axis, Battery, Item, load_battery
from specsafe.decoding.safety.methods import find
from specsafe.engines import NativeArm
from specsafe.errors import UserError

AXES: tuple[Axis, ...] = ("harmful_compliance", "over_refusal")


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Source(_Frozen):
    """Where prompts come from: a battery, or a JSON list of objects with a `prompt`.

    axis and cluster are for the latter: what its prompts ask for, and the key whose values are clusters.
    """

    path: str
    axis: Axis | None = None
    cluster: str = ""


class Variant(_Frozen):
    """A row of the comparison: a method of the table (by default the row's own name) with parts changed."""

    method: str = ""
    changes: dict[str, Any] = Field(default_factory=dict)


class Published(_Frozen):
    """Counts that a publication gives: harmful answers by method, of n prompts."""

    source: str
    n: int = Field(ge=1)
    harmful: dict[str, int]


class Comparison(_Frozen):
    """What is compared. arm: keys of kind=native that all methods share; baselines: rows that others are held against.

    guard: the guard model that labels the answers (compare.label.GUARD_KEYS); None: the refusal detector stands in.
    """

    name: str
    arm: dict[str, Any]
    items: tuple[Source, ...] = Field(min_length=1)
    methods: dict[str, Variant] = Field(min_length=2)
    baselines: tuple[str, ...] = ("vanilla", "ssd")
    published: tuple[Published, ...] = ()
    guard: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _rows_exist(self) -> Comparison:
        missing = [b for b in self.baselines if b not in self.methods]
        if missing or not self.baselines:
            raise ValueError(f"baselines must be rows of methods, {missing or 'none given'}")
        return self


def read_comparison(path: Path) -> Comparison:
    """The file as a Comparison. Raises UserError naming the key that is wrong."""
    if not path.is_file():
        raise UserError(f"no file at {path}", "name a comparison such as protocols/crs-ssd-mini.yaml")
    try:
        return Comparison.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except yaml.YAMLError as error:
        raise UserError(f"{path} is no YAML: {str(error).splitlines()[0]}", "mend the file") from error
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"])) or "the file"
        raise UserError(f"{path}: {key}: {first['msg'].removeprefix('Value error, ')}", "mend it") from error


def arms(config: Comparison) -> dict[str, NativeArm]:
    """Row -> its arm. Raises UserError for an unknown method, part or key, and for what does not fit together."""
    made = {}
    for row, variant in config.methods.items():
        name = variant.method or row
        method = find(name, variant.changes)
        own = {
            "method": name,
            "changes": json.dumps(variant.changes, sort_keys=True) if variant.changes else "",
            "temperature": 1.0 if method.sampled else 0.0,
            "telemetry": "on",
            "top": 0,
        }
        if method.who == "target":
            own["draft"] = "none"
        given = {**config.arm, **own}
        unknown = sorted(set(given) - set(NativeArm.model_fields))
        if unknown:
            raise UserError(f"arm: unknown key {unknown[0]!r}", "its keys are those of kind=native")
        try:
            made[row] = NativeArm.model_validate(given)
        except ValidationError as error:
            first = error.errors()[0]["msg"].removeprefix("Value error, ")
            raise UserError(f"methods.{row}: {first}", "mend arm or that row") from error
    return made


def read_items(config: Comparison, data: Path) -> Battery:
    """All prompts of a comparison; relative paths are looked for in `data`.

    Raises UserError for a missing file, a prompt that stands there twice, and an axis without a prompt.
    """
    items = tuple(i for source in config.items for i in _items(source, data))
    for axis in AXES:
        if not any(i.axis == axis for i in items):
            raise UserError(f"no prompt of axis {axis} among the items", "add a source for it")
    return Battery(config.name, "", "", items)


def _items(source: Source, data: Path) -> list[Item]:
    path = Path(source.path) if Path(source.path).is_absolute() else data / source.path
    if path.suffix != ".json":
        loaded = load_battery(str(path) if path.exists() else source.path)
        return [i for i in loaded.items if i.axis in AXES]
    if source.axis is None:
        raise UserError(f"{source.path}: a list of prompts needs an axis", f"add axis: {AXES[0]}")
    if not path.is_file():
        raise UserError(f"no prompts at {path}", "name their folder with --data")
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
        return [_item(source, source.axis, path.stem, row) for row in rows]
    except (json.JSONDecodeError, TypeError, KeyError) as error:
        raise UserError(
            f"{path} is no JSON list of objects with prompt{f' and {source.cluster}' if source.cluster else ''}: "
            f"{type(error).__name__} {error}",
            "mend the file",
        ) from error


def _item(source: Source, axis: Axis, task: str, row: dict[str, Any]) -> Item:
    cluster = f"{task}: {row[source.cluster]}" if source.cluster else ""
    return Item(row["prompt"], axis, task, cluster=cluster)
