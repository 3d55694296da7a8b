"""A study as a file: models, pairs, rules, tasks, and the levels that are crossed in each phase and block."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from specsafe.battery import Axis
from specsafe.battery.items import SCORERS_OF
from specsafe.engines.base import Json
from specsafe.errors import UserError
from specsafe.words import plural

# Names become parts of log files' names.
Name = Annotated[str, StringConstraints(pattern=r"^\w[\w .+=:,()%-]*$", max_length=100)]
Share = Annotated[float, Field(ge=0, le=1)]
Arms = Literal["alone", "target", "draft", "replicate", "width", "speculative", "control", "probe"]
Domain = Literal["safety", "capability"]
HypothesisName = Literal["H0", "H1", "H2", "H3", "H4"]
LEVELS = ("pairs", "rule", "drafted", "dtype", "temperature", "seed", "samples", "engine", "items")
ALONE = ("alone", "target", "draft", "replicate")
PLANNED = "planned"
HYPOTHESES: tuple[HypothesisName, ...] = get_args(HypothesisName)


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Model(_Frozen):
    """A model by its public id.

    file, draft: what an arm's `model` and `draft` say of it where that is another thing, such as layers:0-19 of the target.
    parameters: millions.
    """

    id: str
    file: str = ""
    draft: str = ""
    parameters: float | None = Field(None, gt=0)


class Pair(_Frozen):
    """Who drafts for whom. draft: a model of the protocol, or a draft in the engine's words, such as script or self.

    keys: keys of the arm that belong to this pair. note: what is known of it.
    """

    target: str
    draft: str
    keys: dict[str, Any] = Field(default_factory=dict)
    note: str = ""


class Rule(_Frozen):
    """An acceptance rule as it is in force. published: what a publication called it. keys: of the arm."""

    lossless: bool
    keys: dict[str, Any] = Field(default_factory=dict)
    published: str = ""
    note: str = ""


class Task(_Frozen):
    """Items that are counted together.

    items: how many; a battery that holds more gives as many, chosen by hash. battery: name or file, as for --battery;
    files are looked for in --data. task, axis: which of its items. sha256: how the hash of the file begins. clusters:
    independent requests among the items, where they are fewer. template: how the publication asks, as a note.
    """

    items: int = Field(ge=1)
    axis: Axis
    battery: str = "starter"
    task: str = ""
    sha256: str = Field("", pattern="^[0-9a-f]*$")
    clusters: int | None = Field(None, ge=1)
    scorer: str = ""
    template: str = ""
    source: str = ""

    @property
    def domain(self) -> Domain:
        """What the axis belongs to."""
        return "capability" if self.axis == "capability" else "safety"

    @model_validator(mode="after")
    def _can_be_scored(self) -> Self:
        if self.scorer and self.scorer not in SCORERS_OF[self.axis]:
            raise ValueError(f"scorer {self.scorer!r} is none of {', '.join(SCORERS_OF[self.axis])}")
        if (self.clusters or 0) > self.items:
            raise ValueError(f"{self.clusters} clusters are more than its {plural(self.items, 'item')}")
        return self


class ItemSet(_Frozen):
    """Tasks that an arm answers. limits: fewer items of a task; the first of the task's order."""

    tasks: tuple[str, ...] = Field(min_length=1)
    limits: dict[str, int] = Field(default_factory=dict)


class Levels(_Frozen):
    """Levels that are crossed; what is left open is taken from the place, then from the defaults.

    drafted: num_speculative_tokens. samples: answers an item; more than one only at temperatures above 0. items: an item set.
    """

    pairs: tuple[str, ...] | None = None
    rule: tuple[str, ...] | None = None
    drafted: tuple[Annotated[int, Field(ge=1, le=64)], ...] | None = None
    dtype: tuple[str, ...] | None = None
    temperature: tuple[Annotated[float, Field(ge=0, le=5)], ...] | None = None
    seed: tuple[Annotated[int, Field(ge=0, lt=2**32)], ...] | None = None
    samples: int | None = Field(None, ge=1, le=1000)
    engine: str | None = None
    items: str | None = None

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        for name in LEVELS:
            value = getattr(self, name)
            if isinstance(value, tuple) and (not value or len(set(value)) < len(value)):
                raise ValueError(f"{name} must name levels, each once, got {list(value)}")
        return self

    def over(self, other: Levels) -> dict[str, Any]:
        """These levels, and the other's where these are open."""
        return {n: v if (v := getattr(self, n)) is not None else getattr(other, n) for n in LEVELS}


class Grid(Levels):
    """Arms of one kind at all combinations of their levels.

    arms: alone (every model of the pairs by itself), target, draft, replicate (the target again, restarted, in another
    order), width, speculative, control, probe (speculative and without a match on purpose). control: prefill, or leak:SHARE.
    again: how often the arm was restarted before; a replicate is restarted once. keys: further keys of the arms; then
    label: what their names say of it.
    """

    arms: Arms
    control: str = Field("", pattern=r"^(|prefill|leak:(0?\.\d+|1))$")
    again: int = Field(0, ge=0, le=100)
    keys: dict[str, Any] = Field(default_factory=dict)
    label: str = ""

    @model_validator(mode="after")
    def _is_one_kind(self) -> Self:
        if bool(self.control) != (self.arms == "control"):
            raise ValueError("arms: control and control: … belong together")
        if bool(self.keys) != bool(self.label):
            raise ValueError("keys and a label that names them belong together")
        idle = [n for n in ("rule", "drafted") if self.arms in ALONE and getattr(self, n) is not None]
        if idle:
            raise ValueError(f"arms: {self.arms} drafts nothing, {idle[0]} would do nothing")
        return self


class Place(_Frozen):
    """A phase or a block. repeats: places whose grids are run again, at these levels."""

    title: str
    runs: tuple[Grid, ...] = ()
    repeats: tuple[str, ...] = ()
    levels: Levels = Levels()
    note: str = ""


class Total(_Frozen):
    """A named sum of places and of sums named before it. domain: only the answers to its items."""

    of: tuple[str, ...] = Field(min_length=1)
    domain: Domain | None = None

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, value: Any) -> Any:
        return {"of": value} if isinstance(value, list | tuple) else value


class Plan(_Frozen):
    """What is decided before the run.

    hypotheses: those that are judged, each in the protocol's own words, which stand beside what is judged; all where none is
    named. published: source -> model -> task -> rate, for the comparison of baselines.
    """

    margin: float = Field(0.03, gt=0, lt=1)
    alpha: float = Field(0.05, gt=0, lt=0.5)
    power: float = Field(0.8, gt=0.5, lt=1)
    discordance: tuple[Share, ...] = (0.0, 0.01, 0.02, 0.05)
    bootstrap: int = Field(2000, ge=100, le=100_000)
    hypotheses: dict[HypothesisName, str] = Field(default_factory=dict)
    published: dict[str, dict[str, dict[str, Share]]] = Field(default_factory=dict)

    @property
    def judged(self) -> dict[HypothesisName, str]:
        """Hypothesis -> the protocol's words for it, for those that are judged."""
        return self.hypotheses or dict.fromkeys(HYPOTHESES, "")


class Labels(_Frozen):
    """Quotas of labels: all, of those by people (rows of their sheet), and which answers come first, in words."""

    total: int = Field(ge=0)
    human: int = Field(ge=0)
    order: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _closes(self) -> Self:
        if self.human > self.total:
            raise ValueError(f"{plural(self.human, 'label')} by people are more than {self.total} in all")
        return self


class Protocol(_Frozen):
    """A study. variant: which of the file's variants this is. levels: the defaults, all of them."""

    name: Name
    title: str
    version: str
    variant: str = PLANNED
    source: str = ""
    notes: tuple[str, ...] = ()
    engines: dict[Name, dict[str, Any]] = Field(min_length=1)
    models: dict[Name, Model] = Field(min_length=1)
    pairs: dict[Name, Pair]
    rules: dict[Name, Rule]
    tasks: dict[Name, Task] = Field(min_length=1)
    sets: dict[Name, ItemSet] = Field(min_length=1)
    levels: Levels
    phases: dict[Name, Place]
    blocks: dict[Name, Place] = Field(default_factory=dict)
    totals: dict[str, Total] = Field(default_factory=dict)
    plan: Plan = Plan()
    labels: Labels | None = None

    @property
    def places(self) -> dict[str, Place]:
        """Phases and blocks, in the order of the file."""
        return {**self.phases, **self.blocks}

    @property
    def text(self) -> str:
        """Everything that the protocol says, as JSON in the order in which it says it."""
        return json.dumps(self.model_dump(mode="json"), ensure_ascii=False, separators=(",", ":"))

    @property
    def sha256(self) -> str:
        """Hash of everything that the protocol says."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    @model_validator(mode="after")
    def _names_exist(self) -> Self:
        _require("pairs", (p.target for p in self.pairs.values()), self.models, "target")
        _require("sets", (t for s in self.sets.values() for t in (*s.tasks, *s.limits)), self.tasks, "task")
        for name, chosen in self.sets.items():
            wide = [t for t, n in chosen.limits.items() if not 1 <= n <= self.tasks[t].items]
            if wide or not set(chosen.limits) <= set(chosen.tasks):
                raise ValueError(f"sets.{name}: limits must be of its tasks and within their items")
        both = sorted(set(self.phases) & set(self.blocks))
        if both:
            raise ValueError(f"{both[0]!r} is a phase and a block")
        open_ = [n for n in LEVELS if getattr(self.levels, n) is None]
        if open_:
            raise ValueError(f"levels: {open_[0]} must have a default")
        before: list[str] = []
        for name, place in self.places.items():
            _require(f"{name}.repeats", place.repeats, before, "earlier place")
            for levels in (place.levels, *place.runs, self.levels):
                self._require_levels(name, levels)
            before.append(name)
        counted = {name: [name] for name in before}
        for name, total in self.totals.items():
            _require(f"totals.{name}", total.of, counted, "place or total before it")
            if name in counted:
                raise ValueError(f"totals.{name}: a phase or block has that name")
            counted[name] = [place for part in total.of for place in counted[part]]
            twice = [p for p in counted[name] if counted[name].count(p) > 1]
            if twice:
                raise ValueError(f"totals.{name} does not close: it counts {twice[0]} twice")
        for source, models in self.plan.published.items():
            for model, rates in models.items():
                _require(f"plan.published.{source}.{model}", rates, self.tasks, "task")
        return self

    def _require_levels(self, where: str, levels: Levels) -> None:
        _require(where, levels.pairs or (), self.pairs, "pair")
        _require(where, levels.rule or (), self.rules, "rule")
        _require(where, [levels.engine] if levels.engine else (), self.engines, "engine")
        _require(where, [levels.items] if levels.items else (), self.sets, "item set")


def _require(where: str, names: Any, known: Any, what: str) -> None:
    missing = [n for n in names if n not in known]
    if missing:
        raise ValueError(f"{where}: no {what} {missing[0]!r}; known: {', '.join(map(str, known))}")


def read_protocol(path: Path, variant: str = "") -> Protocol:
    """One variant of a protocol file; by default the file as it stands. Raises UserError naming the key that is wrong."""
    variants = read_variants(path)
    name = variant or next(iter(variants))
    if name not in variants:
        raise UserError(f"{path} has no variant {name!r}", f"it has: {', '.join(variants)}")
    return variants[name]


def read_variants(path: Path) -> dict[str, Protocol]:
    """All variants of a file by name, the file as it stands first: a variant is merged into it, null takes a key away."""
    if not path.is_file():
        raise UserError(f"no file at {path}", "name a protocol such as protocols/tr144-mini.yaml")
    try:
        document = _texts(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"{path} is no YAML: {str(error).splitlines()[0]}", "mend the file") from error
    if not isinstance(document, dict):
        raise UserError(f"{path} is no mapping", "see protocols/tr144-mini.yaml")
    variants = document.pop("variants", None) or {}
    if not isinstance(variants, dict) or not all(isinstance(v, dict) for v in variants.values()):
        raise UserError(f"{path}: variants must map names to what differs", "mend it")
    first = str(document.get("variant", PLANNED))
    if first in variants:
        raise UserError(f"{path}: variant {first!r} is the file itself", "name it otherwise")
    found = {first: parse_protocol(document, str(path))}
    for name, changes in variants.items():
        found[name] = parse_protocol(
            {**merged(document, changes), "variant": name}, f"{path}, variant {name}"
        )
    return found


def parse_protocol(document: Json, where: str) -> Protocol:
    """A document as a Protocol. Raises UserError naming the first key that is wrong."""
    try:
        return Protocol.model_validate(document)
    except ValidationError as error:
        # what is missing may only be misspelt: then the other name is the one to be told
        first = min(error.errors(), key=lambda e: e["type"] != "extra_forbidden")
        key = ".".join(map(str, first["loc"])) or "the file"
        told = "no such key" if first["type"] == "extra_forbidden" else first["msg"]
        raise UserError(f"{where}: {key}: {told.removeprefix('Value error, ')}", "mend it") from error


def merged(document: Json, changes: Json) -> Json:
    """Mappings are merged, null takes a key away, everything else replaces."""
    result = dict(document)
    for key, value in changes.items():
        if value is None:
            result.pop(key, None)
        elif isinstance(value, dict) and isinstance(result.get(key), dict):
            result[key] = merged(result[key], value)
        else:
            result[key] = value
    return result


def _texts(value: Any) -> Any:
    """YAML reads the key 1 as a number; names are texts."""
    if isinstance(value, dict):
        return {str(k): _texts(v) for k, v in value.items()}
    return [_texts(v) for v in value] if isinstance(value, list) else value
