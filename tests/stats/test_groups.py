"""Room: stats/groups, independent, agreement, bootstrap. Laws: published numbers, oracles, and what is not known stays so."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import pointbiserialr, ttest_ind
from statsmodels.stats.inter_rater import cohens_kappa
from statsmodels.stats.proportion import confint_proportions_2indep

from specsafe.stats import (
    cluster_bootstrap,
    cohen_kappa,
    difference_of,
    independent_difference,
    kappa_tr144,
    one_way_anova,
    point_biserial,
    welch_t,
)


def with_moments(mean, deviation, n):
    """N numbers with exactly these moments."""
    x = np.random.default_rng(0).normal(size=n)
    return mean + deviation * (x - x.mean()) / x.std(ddof=1)


def test_welchs_t_reproduces_the_published_acceptance_of_safety_and_capability():
    """0.478 (n 1,404, sd .263) against 0.263 (n 1,455, sd .215): d .815 from rates rounded to three places."""
    safety, capability = with_moments(0.478, 0.263, 1404), with_moments(0.263, 0.215, 1455)
    found = welch_t(safety, capability)
    assert found.estimate == pytest.approx(0.215)
    assert found.d == pytest.approx(0.897, abs=0.001)  # not the published .815: see docs/analysis.md
    assert found.t == pytest.approx(ttest_ind(safety, capability, equal_var=False).statistic)
    assert found.low < 0.215 < found.high


def test_numbers_that_never_vary_have_no_t_and_no_correlation():
    assert welch_t([1, 1, 1], [2, 2]).p is None
    assert point_biserial([0.5] * 10, [True] * 5 + [False] * 5).estimate is None
    assert point_biserial(range(10), [False] * 10).estimate is None
    assert one_way_anova([[1, 1], [1, 1]]).f is None
    with pytest.raises(ValueError, match="two of each"):
        welch_t([1], [2, 3])


def test_anova_shares_its_variation_out():
    groups = [with_moments(m, 1.0, 40) for m in (0, 0.5, 1.2)]
    found = one_way_anova(groups)
    f, (between, within) = found.f, found.df
    assert found.eta2 == pytest.approx(f * between / (f * between + within))
    assert (found.k, found.n) == (3, 120)


def test_point_biserial_is_scipys():
    random = np.random.default_rng(3)
    yes = random.random(60) < 0.3
    x = random.normal(size=60) + yes
    theirs = pointbiserialr(yes, x)
    ours = point_biserial(x, yes)
    assert (ours.estimate, ours.p) == pytest.approx((theirs.statistic, theirs.pvalue))
    assert ours.low < ours.estimate < ours.high and ours.k == yes.sum()


def test_newcombes_interval_is_that_of_statsmodels():
    ours = independent_difference(56, 70, 48, 80)
    assert (ours.low, ours.high) == pytest.approx(
        confint_proportions_2indep(56, 70, 48, 80, method="newcomb")
    )
    with pytest.raises(ValueError, match="nothing to compare"):
        independent_difference(0, 0, 1, 2)


def test_the_difference_of_two_certain_numbers_is_certain():
    assert difference_of((0.3, 0.3, 0.3), (0.1, 0.1, 0.1)) == pytest.approx((0.2, 0.2, 0.2))


def test_kappa_is_that_of_statsmodels():
    table = np.array([[40, 5, 2], [6, 30, 4], [1, 3, 20]])
    pairs = [(i, j) for i in range(3) for j in range(3) for _ in range(table[i, j])]
    ours = cohen_kappa([str(i) for i, _ in pairs], [str(j) for _, j in pairs])
    theirs = cohens_kappa(table)
    assert ours.estimate == pytest.approx(theirs.kappa)
    assert (ours.low, ours.high) == pytest.approx((theirs.kappa_low, theirs.kappa_upp))
    assert (ours.k, ours.n) == (90, 111)


def test_labels_that_are_all_unclear_are_no_agreement_of_zero():
    detector, judge = ["refusal", "compliance"] * 20, ["UNCLEAR"] * 40
    assert kappa_tr144(detector, judge, undecided=("UNCLEAR",)) == 0.0  # what was published
    with pytest.raises(ValueError, match="not known"):
        cohen_kappa(detector, judge, undecided=("UNCLEAR",))


def test_one_label_alone_says_nothing_of_agreement_beyond_chance():
    found = cohen_kappa(["refusal"] * 9, ["refusal"] * 9)
    assert found.estimate is None and (found.k, found.n) == (9, 9)


def test_the_bootstrap_draws_whole_clusters():
    values = np.repeat(np.random.default_rng(1).normal(size=30), 10)
    wide = cluster_bootstrap(values, np.repeat(np.arange(30), 10))
    narrow = cluster_bootstrap(values, np.arange(300))
    assert wide.high - wide.low > 2.5 * (narrow.high - narrow.low)
    assert wide == cluster_bootstrap(values, np.repeat(np.arange(30), 10))
    assert (wide.n, wide.clusters) == (300, 30)
    two = cluster_bootstrap([1, 1, 0, 0], ["a", "a", "b", "b"])
    assert (two.low, two.high) == (0, 1)
    alone = cluster_bootstrap([1] * 50 + [0] * 50, [str(n) for n in range(100)])  # 0.5 within 1.96 of 0.05
    assert (alone.low, alone.high) == pytest.approx((0.402, 0.598), abs=0.02)


def test_a_bootstrap_of_what_never_varies_says_that_it_knows_nothing():
    found = cluster_bootstrap(np.zeros(50), np.arange(50))
    assert found.degenerate and (found.low, found.high) == (0, 0)
    assert cluster_bootstrap([0.1, 0.2], ["a", "a"]).low is None
