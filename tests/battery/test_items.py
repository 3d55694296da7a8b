"""Room: battery/items. Laws: an id is the hash of the content, choices depend on ids alone, the starter set."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from specsafe.battery import AXES, STARTER, Battery, Item, axis_label, load_battery
from specsafe.battery.items import EXPECTATION
from specsafe.errors import UserError

SHARED = Path(__file__).parents[3] / "shared" / "data"
PLAIN = {"prompt": "What is two plus two?", "axis": "capability", "task": "answer", "answers": ("4",)}


def battery(items: tuple[Item, ...], **head: str) -> Battery:
    return Battery(**{"name": "toy", "version": "1", "licence": "Apache-2.0", **head}, items=items)


def toy(per_axis: int = 40) -> Battery:
    return battery(
        tuple(
            Item(
                prompt=f"{axis} {i}",
                axis=axis,
                task="t",
                answers=("x",) if EXPECTATION[axis] == "answer" else (),
            )
            for axis in AXES
            for i in range(per_axis)
        )
    )


@pytest.fixture(scope="module")
def starter() -> Battery:
    return load_battery(STARTER)


# --- Items ----------------------------------------------------------------------------------------------


def test_an_id_never_changes_between_releases():
    assert Item(**PLAIN).id == "5999441c932e37c4"


@pytest.mark.parametrize(
    "change",
    [
        {"prompt": "What is two plus three?"},
        {"axis": "over_refusal"},
        {"task": "sums"},
        {"category": "sums"},
        {"cluster": "twos"},
        {"answers": ("4", "four")},
    ],
    ids=lambda change: next(iter(change)),
)
def test_an_id_changes_with_every_part_of_the_content(change):
    assert Item(**PLAIN | change).id != Item(**PLAIN).id


def test_an_id_of_ones_own_is_kept():
    assert Item(**PLAIN, id="mine").id == "mine"


def test_an_item_is_its_own_cluster_unless_told_otherwise():
    assert Item(**PLAIN).cluster == Item(**PLAIN).id
    assert Item(**PLAIN, cluster="twos").cluster == "twos"


def test_each_axis_expects_something_else():
    assert [Item(**PLAIN | {"axis": axis}).expect for axis in AXES] == [
        "refuse",
        "comply",
        "answer",
        "answer",
    ]
    assert [axis_label(axis) for axis in AXES] == [
        "harmful compliance",
        "over-refusal",
        "capability",
        "bias and truth",
    ]


def test_a_stratum_is_the_task_and_the_category_if_there_is_one():
    assert Item(**PLAIN).stratum == "answer"
    assert Item(**PLAIN, category="sums").stratum == "answer/sums"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"prompt": " \n"}, "empty prompt"),
        ({"axis": "kindness"}, "unknown axis 'kindness'"),
        ({"answers": ()}, "no answers"),
    ],
)
def test_an_item_that_cannot_be_asked_is_refused(change, said):
    with pytest.raises(UserError, match=said):
        Item(**PLAIN | change)


CHOICE = PLAIN | {"scorer": "choice", "choices": ("x", "y", "z")}


@pytest.mark.parametrize("own", [{}, {"axis": "bias_and_truth", "scorer": "bias"}], ids=["choice", "bias"])
@pytest.mark.parametrize(
    "letters",
    [{"answers": ("A", "B", "C")}, {"answers": ("A", "B"), "wrong": ("B",)}, {"answers": ("D",)}],
    ids=["all right", "right and wrong", "no such choice"],
)
def test_letters_that_leave_nothing_to_be_wrong_are_refused(own, letters):
    assert Item(**CHOICE | own | {"answers": ("A", "B"), "wrong": ("C",)}).wrong == ("C",)
    with pytest.raises(UserError, match=r"What is two plus two.*choices"):
        Item(**CHOICE | own | letters)


# --- Batteries ------------------------------------------------------------------------------------------


def test_duplicate_ids_are_refused_with_both_tasks():
    one = Item(prompt="a", axis="over_refusal", task="first", id="same")
    with pytest.raises(UserError, match=r"id same occurs twice.*'second'.*'first'"):
        battery((one, replace(one, task="second")))


def test_the_same_content_twice_is_a_duplicate():
    with pytest.raises(UserError, match="occurs twice"):
        battery((Item(**PLAIN), Item(**PLAIN)))


def test_an_empty_battery_is_refused():
    with pytest.raises(UserError, match="battery toy has no items"):
        battery(())


def test_the_hash_of_a_battery_is_of_ids_and_contents_in_any_order():
    here = toy(3)
    assert battery(here.items[::-1]).sha256 == here.sha256
    assert battery(here.items[1:]).sha256 != here.sha256
    same_id = replace(here.items[0], prompt="another prompt under the same id")
    assert battery((same_id, *here.items[1:])).sha256 != here.sha256


def test_axes_are_those_that_have_items_in_their_own_order():
    here = toy(2)
    assert battery(here.items[::-1]).axes == AXES
    assert battery(here.on("capability")).axes == ("capability",)


@pytest.mark.parametrize("choose", [lambda b: b.share(0.25), lambda b: b.limit(10)], ids=["share", "limit"])
def test_a_part_is_chosen_by_axis_and_by_ids_alone(choose):
    here = toy(40)
    part = choose(here)
    assert Counter(i.axis for i in part.items) == dict.fromkeys(AXES, 10)
    assert choose(here) == part
    assert {i.id for i in choose(battery(here.items[::-1])).items} == {i.id for i in part.items}
    alone = choose(battery(here.on("over_refusal")))
    assert alone.items == part.on("over_refusal"), "other axes must not matter"


def test_a_part_keeps_the_order_and_the_head_of_the_whole():
    here = toy(40)
    part = here.share(0.5)
    assert list(part.items) == [i for i in here.items if i in part.items]
    assert (part.name, part.version, part.licence) == (here.name, here.version, here.licence)


def test_a_larger_part_holds_the_smaller_one():
    here = toy(40)
    small, large = ({i.id for i in here.share(f).items} for f in (0.1, 0.3))
    assert small < large
    assert here.share(1.0) == here
    assert here.limit(1000) == here


def test_a_share_of_almost_nothing_is_one_item_an_axis():
    assert [len(toy(40).share(0.001).on(axis)) for axis in AXES] == [1, 1, 1, 1]


# --- The starter battery --------------------------------------------------------------------------------


@pytest.mark.parametrize("axis", AXES[:3])
def test_the_starter_battery_has_200_items_in_ten_categories_or_more(starter, axis):
    items = starter.on(axis)
    assert len(items) == 200
    per_category = Counter(i.category for i in items)
    assert "" not in per_category
    assert len(per_category) >= 10
    assert min(per_category.values()) >= 5, "a category is a stratum, not an anecdote"


def test_no_starter_prompt_occurs_twice_across_axes(starter):
    prompts = Counter(plain(i.prompt) for i in starter.items)
    assert [p for p, k in prompts.items() if k > 1] == []


def test_starter_items_are_clusters_of_their_own(starter):
    assert len({i.cluster for i in starter.items}) == len(starter.items)


def test_starter_prompts_are_not_those_of_published_sets(starter):
    if not SHARED.is_dir():
        pytest.skip(f"no published prompt sets at {SHARED}")
    published = {plain(s) for path in sorted(SHARED.rglob("*.*")) for s in strings_in(path)}
    assert len(published) > 1000
    assert [i.id for i in starter.items if plain(i.prompt) in published] == []


def plain(text: str) -> str:
    return " ".join(re.sub(r"[\W_]+", " ", text.casefold()).split())


def strings_in(path: Path) -> list[str]:
    if path.suffix == ".json":
        return leaves(json.loads(path.read_text(encoding="utf-8")))
    if path.suffix == ".yaml":
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        return leaves(yaml.load(path.read_text(encoding="utf-8"), Loader=loader))  # noqa: S506 (a safe loader)
    return []


def leaves(node: object) -> list[str]:
    if isinstance(node, str):
        return [node]
    children = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    return [leaf for child in children for leaf in leaves(child)]
