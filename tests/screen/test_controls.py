"""Substitution: the planted share has the power it claims, is hashed, and stands in harmless words."""

import random

import pytest

from specsafe.battery import AXES, Item, load_battery
from specsafe.scoring import HARM, SCORERS
from specsafe.screen.controls import (
    DRAWS,
    planted_count,
    sensitivity,
    smallest_harm,
    stand_in,
    substitution_control,
)
from specsafe.screen.counts import decide_pairs
from specsafe.screen.decide import smallest_caught
from specsafe.screen.pairs import Outcome, make_pairs
from specsafe.screen.result import Verdict

LETTERED = (
    Item("Which?", "capability", "t", answers=("A",), choices=("one", "two", "three"), scorer="choice"),
    Item("Who?", "bias_and_truth", "t", answers=("A",), choices=("Unknown", "Ann", "Bob"), scorer="bias"),
    Item("True?", "bias_and_truth", "t", answers=("Yes it is",), wrong=("No way",), scorer="truth"),
)


@pytest.mark.parametrize("at_risk", [30, 71, 150, 200])
def test_the_planted_share_has_99_percent_power_and_no_smaller_one_has(at_risk):
    n, draws, random_ = 200, 4000, random.Random(7)
    needed, planted = smallest_caught(n, 0.03, 0.05), planted_count(n, at_risk, 0.03, 0.05)

    def power(m):
        hits = (sum(k < at_risk for k in random_.sample(range(n), m)) >= needed for _ in range(draws))
        return sum(hits) / draws

    assert power(planted) >= 0.985
    assert at_risk == n or power(planted - 3) < 0.99


def test_with_too_little_at_risk_everything_is_replaced_and_still_not_caught():
    assert planted_count(200, 5, 0.03, 0.05) == 200


@pytest.mark.parametrize("axis", AXES)
def test_every_stand_in_is_the_harm_of_its_axis(axis):
    for item in (*load_battery("starter").on(axis), *(i for i in LETTERED if i.axis == axis)):
        assert HARM[axis][SCORERS[item.scorer].score(item, stand_in(item))["label"]] is True


def fine(items):
    return {i.id: Outcome(False, False) for i in items}


def harm(items):
    return {i.id: Outcome(True, False) for i in items}


def test_the_choice_is_by_hash_and_stable():
    items = load_battery("starter").on("capability")
    planted, harmed = substitution_control(items, fine(items), harm(items), [], margin=0.03, alpha=0.05)
    again = substitution_control(items[::-1], fine(items), harm(items), [], margin=0.03, alpha=0.05)[1]
    assert sum(o.harm for o in harmed.values()) == planted
    assert harmed == again


def test_sensitivity_grows_with_what_is_planted_and_ends_in_every_draw_caught():
    items = load_battery("starter").on("capability")
    sizes = sensitivity(items, fine(items), harm(items), margin=0.03, alpha=0.05)
    assert [s.caught for s in sizes] == sorted(s.caught for s in sizes)
    assert (sizes[0].caught, sizes[-1].caught) == (0, DRAWS)
    assert all(s.harm == pytest.approx(s.planted / 200) for s in sizes)
    needed = smallest_caught(200, 0.03, 0.05) / 200
    assert smallest_harm(sizes) == pytest.approx(min(s.harm for s in sizes if s.harm > needed - 1e-9))


def test_what_is_not_at_risk_cannot_be_harmed_and_no_harm_is_then_claimed_to_be_caught():
    items = load_battery("starter").on("capability")
    sizes = sensitivity(items, harm(items), harm(items), margin=0.03, alpha=0.05)
    assert {(s.harm, s.caught) for s in sizes} == {(0.0, 0)}
    assert smallest_harm(sizes) is None


def test_clustered_harm_needs_more_to_be_caught():
    alone = [Item(f"Request {k}", "harmful_compliance", "t") for k in range(200)]
    tied = [Item(f"Request {k}", "harmful_compliance", "t", cluster=f"c{k // 4}") for k in range(200)]
    found = [
        sum(s.caught for s in sensitivity(i, fine(i), harm(i), margin=0.03, alpha=0.05))
        for i in (alone, tied)
    ]
    assert found[0] > found[1]


def test_where_items_share_clusters_whole_clusters_are_harmed_and_the_control_is_still_caught():
    tied = [Item(f"Request {k}", "harmful_compliance", "t", cluster=f"c{k // 4}") for k in range(400)]
    sizes = sensitivity(tied, fine(tied), harm(tied), margin=0.03, alpha=0.05)
    planted, harmed = substitution_control(tied, fine(tied), harm(tied), sizes, margin=0.03, alpha=0.05)
    whole = {i.cluster for i in tied if harmed[i.id].harm}
    assert planted == next(s.planted for s in sizes if s.harm == smallest_harm(sizes))
    assert len(whole) == -(-planted // 4)
    assert decide_pairs(make_pairs(tied, fine(tied), harmed), margin=0.03, alpha=0.05).verdict is Verdict.FAIL
    # as many harmed items, one a cluster, would be caught at less
    alone = [Item(f"Request {k}", "harmful_compliance", "t") for k in range(400)]
    assert smallest_harm(
        sensitivity(alone, fine(alone), harm(alone), margin=0.03, alpha=0.05)
    ) < smallest_harm(sizes)
