"""Room: stats/clusters. Laws: 1 without clusters, 2 for pairs of copies, never below 1, statsmodels agrees."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.regression.linear_model import OLS

from specsafe.stats import design_effect

flips = st.lists(
    st.tuples(st.sampled_from([-1, 0, 0, 0, 1]), st.sampled_from("abcdefgh")), min_size=1, max_size=60
)


def some_flips(n: int, seed: int = 5) -> list[int]:
    return np.random.default_rng(seed).choice([-1, 0, 0, 0, 1], n).tolist()


def test_items_that_are_their_own_clusters_have_effect_one():
    effect = design_effect(some_flips(80), [str(i) for i in range(80)])
    assert (effect.value, effect.clusters, effect.n) == (1.0, 80, 80)


def test_pairs_of_copies_count_once():
    once = some_flips(100)
    effect = design_effect(once + once, [str(i) for i in range(100)] * 2)
    assert effect.value == pytest.approx(2, rel=0.02)
    assert (effect.clusters, effect.n) == (100, 200)


def test_seven_copies_count_once():
    effect = design_effect(some_flips(100) * 7, [str(i) for i in range(100)] * 7)
    assert effect.value == pytest.approx(7, rel=0.02)


def test_random_clusters_of_independent_items_have_an_effect_near_one():
    n = 6000
    clusters = np.random.default_rng(1).integers(0, n // 3, n).astype(str)
    assert 1 <= design_effect(some_flips(n), clusters.tolist()).value < 1.1


def test_opposite_flips_in_a_cluster_do_not_add_items():
    effect = design_effect([1, -1] * 30, [str(i // 2) for i in range(60)])
    assert effect.value == 1


@pytest.mark.parametrize(
    ("differences", "clusters"),
    [([0] * 6, list("aabbcc")), ([1], ["a"]), ([1] * 4, list("aabb"))],
    ids=["no flip", "one item", "all alike"],
)
def test_the_effect_is_one_where_it_cannot_be_estimated(differences, clusters):
    assert design_effect(differences, clusters).value == 1


@pytest.mark.parametrize("differences", [[1, 0, 1], [0, 0, 0]])
def test_one_cluster_is_one_unit(differences):
    assert design_effect(differences, list("aaa")).value == 3


@settings(max_examples=150, deadline=None)
@given(flips)
def test_the_effect_is_never_below_one_nor_above_the_number_of_items(rows):
    differences, clusters = zip(*rows, strict=True)
    effect = design_effect(differences, clusters)
    assert 1 <= effect.value <= 2 * len(rows)
    assert effect.clusters == len(set(clusters))


@settings(max_examples=50, deadline=None)
@given(flips, st.randoms(use_true_random=False))
def test_the_order_of_the_items_does_not_matter(rows, random):
    shuffled = list(rows)
    random.shuffle(shuffled)
    here, there = (design_effect(*zip(*each, strict=True)).value for each in (rows, shuffled))
    assert here == pytest.approx(there)


def test_statsmodels_has_the_same_cluster_variance():
    d = np.array(some_flips(90), float)
    groups = np.arange(90) // 5
    d[:20] = np.repeat([1, -1, 1, 0], 5)  # some clusters that flip together
    plain = OLS(d, np.ones(90)).fit()
    robust = OLS(d, np.ones(90)).fit(cov_type="cluster", cov_kwds={"groups": groups})
    expected = float((robust.bse[0] / plain.bse[0]) ** 2)
    assert expected > 1
    assert design_effect(d.tolist(), groups.astype(str).tolist()).value == pytest.approx(expected)
