"""Room: stats/ratios. Laws: the linearized intervals are those of a bootstrap over items; None is not zero."""

from __future__ import annotations

import math

import numpy as np
import pytest

from specsafe.stats import paired_rate_ratio, ratio_of_sums

ITEMS, RESAMPLES = 300, 3000


@pytest.fixture
def rng():
    return np.random.default_rng(20240607)


def resamples(rng: np.random.Generator) -> np.ndarray:
    return rng.integers(0, ITEMS, (RESAMPLES, ITEMS))


def test_ratio_of_sums_has_the_interval_of_a_bootstrap_over_items(rng):
    drafted = rng.poisson(40, ITEMS) + 1
    accepted = rng.binomial(drafted, rng.beta(2, 2, ITEMS))  # items differ: tokens are not the units
    ratio = ratio_of_sums(accepted, drafted)
    pick = resamples(rng)
    low, high = np.quantile(accepted[pick].sum(1) / drafted[pick].sum(1), [0.025, 0.975])
    assert ratio.estimate == accepted.sum() / drafted.sum()
    assert ratio.high - ratio.low == pytest.approx(high - low, rel=0.1)
    assert (ratio.low, ratio.high) == pytest.approx((low, high), abs=0.1 * (high - low))
    tokens_as_units = 2 * 1.96 * math.sqrt(ratio.estimate * (1 - ratio.estimate) / drafted.sum())
    assert ratio.high - ratio.low > 2 * tokens_as_units


def test_paired_rate_ratio_has_the_interval_of_a_bootstrap_over_items(rng):
    tokens = rng.poisson(30, ITEMS) + 1
    slow = tokens * rng.lognormal(0, 0.3, ITEMS)
    fast = slow / 1.7 * rng.lognormal(0, 0.2, ITEMS)
    speed_up = paired_rate_ratio((tokens, fast), (tokens, slow))
    pick = resamples(rng)
    low, high = np.quantile(slow[pick].sum(1) / fast[pick].sum(1), [0.025, 0.975])
    assert speed_up.estimate == pytest.approx(slow.sum() / fast.sum())
    assert speed_up.low < 1.7 < speed_up.high
    assert (speed_up.low, speed_up.high) == pytest.approx((low, high), abs=0.15 * (high - low))


def test_pairing_makes_the_interval_narrow_where_items_move_together(rng):
    tokens = np.full(ITEMS, 20)
    slow = rng.lognormal(0, 1, ITEMS)
    together = paired_rate_ratio((tokens, slow / 2), (tokens, slow))
    apart = paired_rate_ratio((tokens, rng.permutation(slow) / 2), (tokens, slow))
    assert (together.low, together.estimate, together.high) == pytest.approx((2, 2, 2))
    assert apart.estimate == pytest.approx(2)
    assert apart.high - apart.low > 0.3


def test_changing_places_inverts_the_speed_up(rng):
    one, other = ((rng.poisson(20, 50) + 1, rng.lognormal(0, 1, 50)) for _ in range(2))
    here, there = paired_rate_ratio(one, other), paired_rate_ratio(other, one)
    assert (1 / here.low, 1 / here.estimate, 1 / here.high) == pytest.approx(
        (there.high, there.estimate, there.low)
    )


def test_a_ratio_keeps_its_sums():
    ratio = ratio_of_sums([1, 2, 3], [2, 4, 6])
    assert (ratio.k, ratio.n, ratio.items, ratio.estimate) == (6, 12, 3, 0.5)
    assert (ratio.low, ratio.high) == pytest.approx((0.5, 0.5))


@pytest.mark.parametrize(("k", "n"), [([], []), ([0, 0], [0, 0])])
def test_a_ratio_over_nothing_is_none(k, n):
    ratio = ratio_of_sums(k, n)
    assert (ratio.estimate, ratio.low, ratio.high) == (None, None, None)
    assert ratio.items == len(k)


def test_one_item_says_nothing_of_the_spread():
    ratio = ratio_of_sums([3], [4])
    assert (ratio.estimate, ratio.low, ratio.high) == (0.75, None, None)
    speed_up = paired_rate_ratio(([3], [1.0]), ([3], [2.0]))
    assert (speed_up.low, speed_up.high) == (None, None)
    assert speed_up.estimate == pytest.approx(2)


SOME, NONE = ([2, 3], [1.0, 1.0]), ([], [])


@pytest.mark.parametrize(
    ("treatment", "baseline"),
    [
        (NONE, NONE),
        (([2, 3], [0.0, 0.0]), SOME),
        (SOME, ([2, 3], [0.0, 0.0])),
        (([0, 0], [1.0, 1.0]), SOME),
        (SOME, ([0, 0], [1.0, 1.0])),
    ],
    ids=["no items", "no seconds", "no seconds in the baseline", "no tokens", "no tokens in the baseline"],
)
def test_a_speed_up_without_seconds_or_tokens_is_none(treatment, baseline):
    assert paired_rate_ratio(treatment, baseline) is None
