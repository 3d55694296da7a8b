"""Item and Battery: the record of one prompt, and a hashed set of them."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

from specsafe.errors import UserError

Axis = Literal["harmful_compliance", "over_refusal", "capability", "bias_and_truth"]
AXES: tuple[Axis, ...] = get_args(Axis)
# What the baseline ought to do with an item of an axis; the opposite is the harm that the axis counts.
EXPECTATION: dict[Axis, str] = {
    "harmful_compliance": "refuse",
    "over_refusal": "comply",
    "capability": "answer",
    "bias_and_truth": "answer",
}
# How an answer to an item of an axis may be scored; the first is the default.
SCORERS_OF: dict[Axis, tuple[str, ...]] = {
    "harmful_compliance": ("refusal",),
    "over_refusal": ("refusal",),
    "capability": ("exact", "choice", "choice:likelihood"),
    "bias_and_truth": ("truth", "bias"),
}
LETTERS = "ABCDEFGHIJ"


def axis_label(axis: str) -> str:
    """`harmful_compliance` -> `harmful compliance`, as people read it."""
    return axis.replace("_", " ").replace("over refusal", "over-refusal")


@dataclass(frozen=True, slots=True)
class Item:
    """One prompt.

    task: the stratum it belongs to. cluster: items with the same cluster share one request (they are not
    independent); by default an item is its own cluster. answers: accepted answers where expect is "answer";
    the letter where there are choices (A is the first). wrong: answers that are the harm looked for: false
    statements, or the letter of the stereotyped choice. published: a label as a publication had it, where
    its own scorer needs it. scorer: one of SCORERS_OF[axis].
    """

    prompt: str
    axis: Axis
    task: str
    category: str = ""
    cluster: str = ""
    answers: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    wrong: tuple[str, ...] = ()
    published: str = ""
    scorer: str = ""
    id: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        if not self.prompt.strip():
            raise UserError(f"an item of task {self.task!r} has an empty prompt", "give every item a prompt")
        if self.axis not in AXES:
            raise UserError(f"unknown axis {self.axis!r}", f"use one of: {', '.join(AXES)}")
        if EXPECTATION[self.axis] == "answer" and not all(map(str.strip, self.answers or ("",))):
            raise UserError(
                f"{axis_label(self.axis)} item {self.prompt[:40]!r} has no answers, or an empty one",
                "list the accepted answers",
            )
        object.__setattr__(self, "scorer", self.scorer or SCORERS_OF[self.axis][0])
        if self.scorer not in SCORERS_OF[self.axis]:
            raise UserError(
                f"unknown scorer {self.scorer!r} for {axis_label(self.axis)}",
                f"use one of: {', '.join(SCORERS_OF[self.axis])}",
            )
        self._require_letters()
        object.__setattr__(self, "id", self.id or _content_id(self))
        object.__setattr__(self, "cluster", self.cluster or self.id)

    def _require_letters(self) -> None:
        """Where a letter is the answer, every letter must name a choice, and not every choice be right."""
        if self.scorer not in ("choice", "choice:likelihood", "bias"):
            return
        known = set(LETTERS[: len(self.choices)])
        if not 2 <= len(self.choices) <= len(LETTERS) or not known.issuperset((*self.answers, *self.wrong)):
            raise UserError(
                f"item {self.prompt[:40]!r}: answers {list(self.answers)} and wrong {list(self.wrong)} must be "
                f"letters of its {len(self.choices)} choices",
                f"give 2 to {len(LETTERS)} choices, and answers such as B",
            )
        if known.issubset(self.answers) or not set(self.wrong).isdisjoint(self.answers):
            raise UserError(
                f"item {self.prompt[:40]!r}: answers {list(self.answers)} are all of its choices, or also in "
                f"wrong {list(self.wrong)}",
                "leave at least one choice out of answers, and name no letter in both",
            )

    @property
    def expect(self) -> str:
        """refuse, comply or answer."""
        return EXPECTATION[self.axis]

    @property
    def stratum(self) -> str:
        """The stratum in which the item is shown: its task, and its category where it has one."""
        return f"{self.task}/{self.category}" if self.category else self.task


@dataclass(frozen=True, slots=True)
class Battery:
    """A named, versioned set of items with unique ids, in a fixed order; notes: corrections and cautions."""

    name: str
    version: str
    licence: str
    items: tuple[Item, ...]
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        seen: dict[str, Item] = {}
        for item in self.items:
            if item.id in seen:
                raise UserError(
                    f"battery {self.name}: id {item.id} occurs twice (task {item.task!r} and {seen[item.id].task!r})",
                    "remove the duplicate or give the items ids of their own",
                )
            seen[item.id] = item
        if not self.items:
            raise UserError(f"battery {self.name} has no items", "give it at least one")

    @property
    def sha256(self) -> str:
        """Hash of everything that a run depends on: ids and contents of all items, order aside."""
        rows = sorted(json.dumps([i.id, _content(i)], ensure_ascii=False) for i in self.items)
        return hashlib.sha256("\n".join(rows).encode()).hexdigest()

    @property
    def axes(self) -> tuple[Axis, ...]:
        """The axes that have items, in the order of AXES."""
        return tuple(a for a in AXES if any(i.axis == a for i in self.items))

    def on(self, axis: str) -> tuple[Item, ...]:
        """The items of one axis."""
        return tuple(i for i in self.items if i.axis == axis)

    def share(self, fraction: float) -> Battery:
        """The hashed part of the battery: per axis the first round(fraction * n) items by hash.

        The choice depends on ids alone, so it is the same on every machine and after a resume.
        """
        return self._first({a: max(1, round(fraction * len(self.on(a)))) for a in self.axes}, "share")

    def limit(self, per_axis: int) -> Battery:
        """At most `per_axis` items of each axis, chosen by hash."""
        return self._first(dict.fromkeys(self.axes, per_axis), "limit")

    def _first(self, counts: dict[Axis, int], salt: str) -> Battery:
        chosen: set[str] = set()
        for axis, count in counts.items():
            ranked = sorted(self.on(axis), key=lambda i: hash_rank(i.id, salt))
            chosen.update(i.id for i in ranked[:count])
        return replace(self, items=tuple(i for i in self.items if i.id in chosen))


def hash_rank(item_id: str, salt: str) -> str:
    """A sort key that looks random and never changes."""
    return hashlib.sha256(f"{salt}:{item_id}".encode()).hexdigest()


def _content(item: Item) -> list[object]:
    core: list[object] = [item.prompt, item.axis, item.task, item.category, item.cluster, list(item.answers)]
    more = {k: v for k in ("choices", "wrong", "published") if (v := getattr(item, k))}
    return [*core, more, item.scorer] if more or item.scorer != SCORERS_OF[item.axis][0] else core


def _content_id(item: Item) -> str:
    return hashlib.sha256(json.dumps(_content(item), ensure_ascii=False).encode()).hexdigest()[:16]
