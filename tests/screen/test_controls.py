"""Substitution: the planted share has the power it claims, is hashed, and stands in harmless words."""

import random

import pytest

from specsafe.battery import AXES, load_battery
from specsafe.engines import Sample
from specsafe.scoring import AXIS_SCORER, HARM, SCORERS
from specsafe.screen.controls import STAND_IN, planted_count, substituted
from specsafe.screen.decide import smallest_caught


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
    for item in load_battery("starter").on(axis):
        assert HARM[axis][SCORERS[AXIS_SCORER[axis]].score(item, STAND_IN[axis])["label"]] is True


def test_the_choice_is_by_hash_and_stable():
    items = load_battery("starter").on("capability")
    samples = {i.id: Sample(i.id, "fine", "stop") for i in items}
    chosen = {k for k, s in substituted("capability", items, samples, 10).items() if s.text != "fine"}
    more = {k for k, s in substituted("capability", items[::-1], samples, 20).items() if s.text != "fine"}
    assert len(chosen) == 10
    assert chosen < more
