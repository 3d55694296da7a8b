"""Two disjoint halves of a battery: one to tune on, one to judge by."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from specsafe.battery.items import Battery, Item, hash_rank
from specsafe.battery.near import components
from specsafe.battery.writer import write_jsonl
from specsafe.errors import UserError
from specsafe.fetch import sha256_file

SIDES = ("tuning", "evaluation")
Stratum = tuple[str, str]  # (axis, task); (axis, "") is the whole axis


class Split(NamedTuple):
    """Both sides, the clusters on each, and how many declared clusters near-duplication joined to others.

    `templated`: how many items were compared without the words of a template.
    """

    tuning: Battery
    evaluation: Battery
    clusters: tuple[int, int]
    merged: int
    templated: int


class Disjoint(NamedTuple):
    """Items and clusters of each of two batteries without a common cluster, near.py's sense; see Split."""

    items: tuple[int, int]
    clusters: tuple[int, int]
    templated: int


def split(battery: Battery, share: float = 0.5, salt: str = "") -> Split:
    """Divide a battery; `share` of it is for tuning. Whole clusters go to one side (near.py says what is one).

    Each axis and task is divided in that share as far as whole clusters allow. The result depends on the items,
    share and salt alone, not on their order. Raises UserError if a side would be empty.
    """
    if not 0 < share < 1:
        raise UserError(f"share must lie between 0 and 1, got {share}", "0.5 gives halves")
    groups: dict[int, list[Item]] = defaultdict(list)
    roots, templated = components(battery.items)
    for item, root in zip(battery.items, roots, strict=True):
        groups[root].append(item)
    sides = _divide(list(groups.values()), share, salt)
    if not all(sides):
        raise UserError(
            f"battery {battery.name} has {len(groups)} independent clusters: one side would be empty",
            "use a battery with more distinct requests, or another --share",
        )
    tuning, evaluation = (
        replace(
            battery,
            name=f"{battery.name}-{name}",
            items=tuple(sorted((i for group in side for i in group), key=lambda i: i.id)),
        )
        for name, side in zip(SIDES, sides, strict=True)
    )
    declared = len({item.cluster for item in battery.items})
    return Split(tuning, evaluation, (len(sides[0]), len(sides[1])), declared - len(groups), templated)


def _divide(groups: list[list[Item]], share: float, salt: str) -> tuple[list[list[Item]], list[list[Item]]]:
    """Large groups first, then by hash: each goes where it leaves the strata nearest to their share."""
    sides: tuple[list[list[Item]], list[list[Item]]] = ([], [])
    tuned, seen = Counter[Stratum](), Counter[Stratum]()

    def cost(sizes: Counter[Stratum], into_tuning: int) -> float:
        in_order = sorted(sizes.items())  # a sum of floats depends on it
        return sum((tuned[s] + into_tuning * k - share * (seen[s] + k)) ** 2 for s, k in in_order)

    for rank, group in sorted(
        ((hash_rank(min(i.id for i in group), salt), group) for group in groups),
        key=lambda ranked: (-len(ranked[1]), ranked[0]),
    ):
        sizes = Counter[Stratum](stratum for i in group for stratum in ((i.axis, ""), (i.axis, i.task)))
        tune, keep = cost(sizes, 1), cost(sizes, 0)
        to_tuning = tune < keep or (tune == keep and int(rank, 16) % 2 == 0)
        sides[0 if to_tuning else 1].append(group)
        seen.update(sizes)
        if to_tuning:
            tuned.update(sizes)
    return sides


def write_split(battery: Battery, folder: Path, share: float = 0.5, salt: str = "") -> Split:
    """Split a battery into tuning.jsonl, evaluation.jsonl and split.json in `folder`."""
    done = split(battery, share, salt)
    for name, side in zip(SIDES, done[:2], strict=True):
        write_jsonl(side, folder / f"{name}.jsonl")
    record = {
        "battery": {"name": battery.name, "sha256": battery.sha256},
        "salt": salt,
        "share": share,
        "items": {
            axis: {name: len(side.on(axis)) for name, side in zip(SIDES, done[:2], strict=True)}
            for axis in battery.axes
        },
        "clusters": dict(zip(SIDES, done.clusters, strict=True)),
        "merged_by_near_duplication": done.merged,
        "compared_without_template_words": done.templated,
        "sha256": {name: side.sha256 for name, side in zip(SIDES, done[:2], strict=True)},
        "file_sha256": {f"{name}.jsonl": sha256_file(folder / f"{name}.jsonl") for name in SIDES},
    }
    (folder / "split.json").write_text(
        json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    return done


def prove_disjoint(a: Battery, b: Battery) -> Disjoint:
    """Show that no item of one is joined to one of the other (near.py). Raises UserError that names the ids."""
    roots, templated = components((*a.items, *b.items))
    sides = roots[: len(a.items)], roots[len(a.items) :]
    shared = set(sides[0]) & set(sides[1])
    if not shared:
        return Disjoint((len(a.items), len(b.items)), (len(set(sides[0])), len(set(sides[1]))), templated)
    named = [
        [item.id for item, root in zip(battery.items, side, strict=True) if root in shared]
        for battery, side in zip((a, b), sides, strict=True)
    ]
    raise UserError(
        f"{len(shared)} clusters are in both: {_some(named[0])} of {a.name}, {_some(named[1])} of {b.name}",
        "split them together: specsafe battery split",
    )


def _some(ids: list[str], most: int = 10) -> str:
    more = f" and {len(ids) - most} more" if len(ids) > most else ""
    return ", ".join(sorted(ids)[:most]) + more
