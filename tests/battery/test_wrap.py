"""Room: battery/wrap. Laws: the request is in it once, its variants are one cluster, other axes are left alone."""

from __future__ import annotations

from collections import Counter

import pytest

from specsafe.battery import Battery, Item, load_battery
from specsafe.battery.near import components
from specsafe.battery.wrap import WRAPPERS, wrap
from specsafe.errors import UserError

HUM = Item("Please hum {loudly}.", "harmful_compliance", "music", "noise")
SING = Item("Please sing.", "harmful_compliance", "music", cluster="voices")
SUM = Item("What is 2 + 2?", "capability", "sums", answers=("4",))
TOY = Battery("toy", "1", "CC0", (HUM, SUM, SING), ("a note",))


def test_every_template_has_one_slot():
    assert set(WRAPPERS) == {"direct", "deepinception", "persona", "prefix"}
    assert {template.count("{request}") for template in WRAPPERS.values()} == {1}


def test_harmful_items_are_wrapped_and_others_stay_as_they_are():
    done = wrap(TOY, ["persona", "prefix"])
    assert done.items[-1] is SUM
    assert Counter(i.task for i in done.items) == {"music+persona": 2, "music+prefix": 2, "sums": 1}
    for item in done.items[:-1]:
        original = HUM if "hum" in item.prompt else SING
        assert original.prompt in item.prompt
        assert item.prompt != original.prompt
        assert (item.axis, item.category, item.cluster) == (
            original.axis,
            original.category,
            original.cluster,
        )
    assert done.notes == ("a note", "harmful compliance items wrapped: persona, prefix")


def test_ids_are_new_and_of_the_content():
    one, two = wrap(TOY, ["persona"]), wrap(TOY, ["persona", "prefix", "persona"])
    ids = [i.id for i in two.items]
    assert len(set(ids)) == len(ids) == 5
    assert {HUM.id, SING.id}.isdisjoint(ids)
    assert {i.id for i in one.items} < set(ids), "the same item under the same wrapper has the same id"


def test_direct_asks_the_request_itself():
    done = wrap(TOY, ["direct"])
    assert [i.prompt for i in done.on("harmful_compliance")] == [HUM.prompt, SING.prompt]
    assert {i.task for i in done.on("harmful_compliance")} == {"music+direct"}


@pytest.mark.parametrize("change", [str, str.lower, lambda p: f" {p}\n", lambda p: p.replace(" ", "\u200b ")])
@pytest.mark.parametrize("name", WRAPPERS)
def test_a_wrapper_is_taken_off_when_requests_are_compared(name, change):
    """However short the request (here 2 and 3 words), and whatever was done to case, space and the invisible."""
    once = wrap(TOY, [name])
    for battery in (once, wrap(once, ["prefix"])):
        loose = [
            Item(change(i.prompt), i.axis, i.task, i.category, id=f"other-{n}")
            for n, i in enumerate(battery.on("harmful_compliance"))
        ]
        assert components([HUM, SING, *loose]).roots == [0, 1, 0, 1]


@pytest.mark.parametrize(
    ("battery", "names", "said"),
    [
        (TOY, ["persona", "costume"], r"unknown wrapper 'costume' \(known: direct, deepinception"),
        (TOY, [], "no wrapper is named"),
        (Battery("sums", "1", "CC0", (SUM,)), ["persona"], "sums has no harmful compliance items"),
    ],
)
def test_what_cannot_be_wrapped_is_an_error(battery, names, said):
    with pytest.raises(UserError, match=said):
        wrap(battery, names)


def test_the_starter_battery_can_be_wrapped():
    starter = load_battery("starter")
    done = wrap(starter, list(WRAPPERS))
    assert len(done.items) == 4 * 200 + 400
    assert {i.cluster for i in done.items} == {i.cluster for i in starter.items}
