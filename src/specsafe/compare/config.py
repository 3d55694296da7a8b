"""A comparison as a file: one stack, some prompts, the methods that answer them, and what is tuned on other prompts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from specsafe.battery import Axis, Battery, Item, load_battery
from specsafe.decoding.safety.methods import find
from specsafe.engines import NativeArm
from specsafe.errors import UserError

AXES: tuple[Axis, ...] = ("harmful_compliance", "over_refusal")
# A row names a log file too, a comparison its folder.
Name = Annotated[str, StringConstraints(pattern=r"^\w[\w .+=:,()%-]*$", max_length=200)]
# Keys of kind=native that a row's method decides, or that a comparison needs as they are.
_ROWS_OWN = ("method", "changes", "steering", "temperature", "telemetry", "top")


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Source(_Frozen):
    """Where prompts come from: a battery, or a JSON list of objects with a `prompt`.

    axis and cluster are for the latter: what its prompts ask for, and the key whose values are clusters. limit: so many
    prompts an axis, chosen by hash; 0: all.
    """

    path: str
    axis: Axis | None = None
    cluster: str = ""
    limit: int = Field(0, ge=0)


class Variant(_Frozen):
    """A row of the comparison: a method of the table (by default the row's own name) with parts changed.

    matched: control.share becomes the share of union that this other row had, on the same prompts. false_alarms:
    control.tau becomes the number above which this share of the scores lies, over the tokens that the method says to
    harmless tuning prompts in intersection. steering: the projection of a method that is steered; left open, it is trained
    on the harmful tuning prompts.
    """

    method: str = ""
    changes: dict[str, Any] = Field(default_factory=dict)
    steering: str = ""
    matched: str = ""
    false_alarms: float | None = Field(None, gt=0, lt=1)


class Ablated(_Frozen):
    """A method on the tuning prompts, with parts changed. varied: what differs; settings: name -> changes."""

    method: str
    varied: str
    settings: dict[Name, dict[str, Any]] = Field(min_length=1)


class TuningPrompts(_Frozen):
    """What is looked at before the comparison, on prompts that are proved to be others."""

    items: tuple[Source, ...] = Field(min_length=1)
    ablations: dict[Name, Ablated] = Field(default_factory=dict)


class Published(_Frozen):
    """Counts that a publication gives: harmful answers by method, of n prompts.

    files: method -> its result file (harmful.n, harmful.label_counts.unsafe), from which the count is read.
    """

    source: str
    n: int = Field(ge=1)
    harmful: dict[str, int]
    files: dict[str, str] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _counts_fit(self) -> Published:
        for method, count in self.harmful.items():
            if not 0 <= count <= self.n:
                raise ValueError(f"{method} has {count} harmful answers of {self.n}")
        return self


class Comparison(_Frozen):
    """What is compared. arm: keys of kind=native that all methods share; baselines: rows that others are held against.

    guard: the guard model that labels the answers (compare.label.GUARD_KEYS); None: the refusal detector stands in.
    """

    name: Name
    arm: dict[str, Any]
    items: tuple[Source, ...] = Field(min_length=1)
    methods: dict[Name, Variant] = Field(min_length=2)
    baselines: tuple[str, ...] = ("vanilla", "ssd")
    tuning: TuningPrompts | None = None
    published: tuple[Published, ...] = ()
    guard: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _rows_exist(self) -> Comparison:
        missing = [b for b in self.baselines if b not in self.methods]
        if missing or not self.baselines:
            raise ValueError(f"baselines must be rows of methods, {missing or 'none given'}")
        if len(set(self.baselines)) < len(self.baselines):
            raise ValueError("baselines has a row twice")
        for row, variant in self.methods.items():
            other = self.methods.get(variant.matched)
            if variant.matched and (other is None or other.matched):
                raise ValueError(
                    f"{row} is matched to {variant.matched!r}, which is no row with a share of its own"
                )
            if variant.matched and variant.false_alarms is not None:
                raise ValueError(f"{row} is matched and has false_alarms; one number is measured at a time")
            if variant.false_alarms is not None and self.tuning is None:
                raise ValueError(f"{row} has false_alarms, which needs tuning prompts")
        return self


def with_changes(config: Comparison, row: str, **changes: Any) -> Comparison:
    """The comparison with one part of a row set; keys are paths, such as control.tau."""
    old = config.methods[row]
    new = old.model_copy(
        update={
            "method": old.method or row,
            "changes": old.changes | changes,
            "matched": "",
            "false_alarms": None,
        }
    )
    return config.model_copy(update={"methods": {**config.methods, row: new}})


def is_comparison(config: dict[str, Any]) -> bool:
    """Whether the configuration of a ledger is that of a comparison, not of a screen."""
    return {"methods", "baselines"} <= config.keys()


def read_comparison(path: Path) -> Comparison:
    """The file as a Comparison. Raises UserError naming the key that is wrong."""
    if not path.is_file():
        raise UserError(f"no file at {path}", "name a comparison such as protocols/crs-ssd-mini.yaml")
    try:
        return Comparison.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is no YAML: {str(error).splitlines()[0]}", "mend the file") from error
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"])) or "the file"
        raise UserError(f"{path}: {key}: {first['msg'].removeprefix('Value error, ')}", "mend it") from error


def arms(config: Comparison) -> dict[str, NativeArm]:
    """Row -> its arm. Raises UserError for an unknown method, part or key, and for what does not fit together."""
    made = {}
    owned = [key for key in _ROWS_OWN if key in config.arm]
    if owned:
        raise UserError(
            f"arm: {owned[0]} is what a row's method decides", "leave it out, or set it in the row"
        )
    for row, variant in config.methods.items():
        name = variant.method or row
        method = find(name, variant.changes)
        own = {
            "method": name,
            "changes": json.dumps(variant.changes, sort_keys=True) if variant.changes else "",
            "steering": variant.steering,
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


def with_published_counts(config: Comparison, data: Path) -> Comparison:
    """The comparison with the counts of the publications' own result files; paths as of items.

    Raises UserError for a file that is missing, is no such document, or contradicts the comparison.
    """
    published = tuple(
        p.model_copy(update={"harmful": p.harmful | {m: _count(p, m, data / f) for m, f in p.files.items()}})
        for p in config.published
    )
    return config.model_copy(update={"published": published})


def _count(published: Published, method: str, path: Path) -> int:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))["harmful"]
        n, count = int(found["n"]), int(found["label_counts"]["unsafe"])
    except FileNotFoundError as error:
        raise UserError(f"no published result at {path}", "name its folder with --data") from error
    except (json.JSONDecodeError, TypeError, KeyError, ValueError) as error:
        raise UserError(
            f"{path} has no harmful.n and harmful.label_counts.unsafe", "name another file"
        ) from error
    if n != published.n or published.harmful.get(method, count) != count:
        said = published.harmful.get(method, "no count")
        raise UserError(
            f"{path}: {count} of {n} harmful, the comparison says {said} of {published.n}",
            "mend the comparison",
        )
    return count


def read_items(config: Comparison, data: Path) -> Battery:
    """All prompts of a comparison; relative paths are looked for in `data`.

    Raises UserError for a missing file, a prompt that stands there twice, and an axis without a prompt.
    """
    items = tuple(i for source in config.items for i in _limited(source, _items(source, data)))
    for axis in AXES:
        if not any(i.axis == axis for i in items):
            raise UserError(f"{config.name}: no prompt of axis {axis} among the items", "add a source for it")
    return Battery(config.name, "", "", items)


def _limited(source: Source, items: list[Item]) -> tuple[Item, ...]:
    """At most `limit` of each axis, chosen by hash, in the order of the file."""
    whole = Battery(source.path, "", "", tuple(items))
    return (whole.limit(source.limit) if source.limit else whole).items


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
    except (json.JSONDecodeError, UnicodeDecodeError, TypeError, KeyError) as error:
        raise UserError(
            f"{path} is no JSON list of objects with prompt{f' and {source.cluster}' if source.cluster else ''}: "
            f"{type(error).__name__} {error}",
            "mend the file",
        ) from error


def _item(source: Source, axis: Axis, task: str, row: dict[str, Any]) -> Item:
    if not isinstance(row["prompt"], str):
        raise TypeError(f"prompt {row['prompt']!r} is no text")
    cluster = f"{task}: {row[source.cluster]}" if source.cluster else ""
    return Item(row["prompt"], axis, task, cluster=cluster)
