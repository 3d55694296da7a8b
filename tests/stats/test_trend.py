"""Room: stats/trend. Laws: statsmodels where it has the function, the null keeps its level, and no change has no interval."""

from __future__ import annotations

import numpy as np
import pytest
import statsmodels.api as sm
from statsmodels.stats.contingency_tables import Table, cochrans_q

from specsafe.stats import cochran_armitage, cochran_q, linear_slope, logistic_slope

DOSES = (1.0, 3.0, 5.0, 8.0, 12.0)


def planted(slope, items=300, seed=1, sticky=1.5):
    """Items x doses: an item has a level of its own, so its answers move together."""
    random = np.random.default_rng(seed)
    level = random.normal(-0.5, sticky, items)[:, None]
    odds = level + slope * (np.asarray(DOSES) - np.mean(DOSES))
    return (random.random((items, len(DOSES))) < 1 / (1 + np.exp(-odds))).astype(float)


def test_cochran_armitage_is_that_of_statsmodels():
    k, n = (10, 14, 19, 22, 31), (100, 100, 90, 100, 95)
    ours = cochran_armitage(k, n, DOSES)
    table = Table(np.array([k, np.array(n) - np.array(k)]).T, shift_zeros=False)
    theirs = table.test_ordinal_association(row_scores=np.array(DOSES), col_scores=np.array([1, 0]))
    assert ours.z == pytest.approx(theirs.zscore * np.sqrt(sum(n) / (sum(n) - 1)), rel=1e-9)
    assert (ours.k, ours.n, ours.doses) == (k, n, DOSES)


def test_cochran_armitage_says_nothing_at_the_ceiling():
    for k in ((0, 0, 0, 0, 0), (50, 50, 50, 50, 50)):
        found = cochran_armitage(k, (50,) * 5, DOSES)
        assert found.z is None and found.p is None


def test_the_logistic_slope_and_its_clusters_are_those_of_statsmodels():
    y = planted(0.15)
    clusters = np.arange(len(y)) // 3
    x = sm.add_constant(np.tile(DOSES, len(y)))
    fit = sm.GLM(y.ravel(), x, family=sm.families.Binomial()).fit(
        cov_type="cluster",
        cov_kwds={"groups": np.repeat(clusters, len(DOSES)), "use_correction": False},
        use_t=True,
    )
    m = len(set(clusters))
    ours = logistic_slope(y, DOSES, clusters)
    assert ours.estimate == pytest.approx(fit.params[1], rel=1e-8)
    se = (ours.high - ours.low) / 2
    from scipy.stats import t

    assert se / t.ppf(0.975, m - 1) == pytest.approx(fit.bse[1] * np.sqrt(m / (m - 1)), rel=1e-6)
    assert (ours.n, ours.items, ours.clusters) == (y.size, len(y), m)


def test_the_linear_slope_and_its_clusters_are_those_of_statsmodels():
    y = planted(0.1)
    clusters = np.arange(len(y))
    x = sm.add_constant(np.tile(DOSES, len(y)))
    fit = sm.OLS(y.ravel(), x).fit(
        cov_type="cluster",
        cov_kwds={"groups": np.repeat(clusters, len(DOSES)), "use_correction": False},
    )
    ours = linear_slope(y, DOSES, clusters)
    assert ours.estimate == pytest.approx(fit.params[1], rel=1e-9)
    from scipy.stats import t

    half = t.ppf(0.975, len(y) - 1) * fit.bse[1] * np.sqrt(len(y) / (len(y) - 1))
    assert (ours.high - ours.low) / 2 == pytest.approx(half, rel=1e-9)


@pytest.mark.parametrize("slope", [linear_slope, logistic_slope])
def test_items_that_never_change_have_a_slope_of_zero_and_no_interval(slope):
    y = np.tile(np.array([0.0, 1.0, 1.0, 0.0])[:, None], (1, 5))
    found = slope(y, DOSES, np.arange(4))
    assert found.estimate == pytest.approx(0) and found.low is None and found.p is None
    assert found.changed == 0 and found.reason == "no item changes with the dose"


def test_a_ceiling_and_a_perfect_parting_have_no_logistic_slope():
    assert logistic_slope(np.ones((9, 5)), DOSES, np.arange(9)).estimate is None
    parted = np.tile((0.0, 0.0, 1.0, 1.0, 1.0), (9, 1))
    assert logistic_slope(parted, DOSES, np.arange(9)).reason == "the doses part the answers perfectly"


@pytest.mark.parametrize("slope", [linear_slope, logistic_slope])
def test_the_null_keeps_its_level_though_items_answer_at_every_dose(slope):
    """2 % to 8.5 % of 400 nulls at 5 %; a binomial count of 400 at 5 % lies there in 99.6 % of cases."""
    rejected = sum(slope(planted(0.0, 120, s), DOSES, np.arange(120)).p < 0.05 for s in range(400))
    assert 8 <= rejected <= 34


def test_a_planted_slope_is_found():
    found = logistic_slope(planted(0.15, sticky=0.3), DOSES, np.arange(300))
    assert found.low < 0.15 < found.high and found.p < 1e-6


def test_cochrans_q_is_that_of_statsmodels_and_silent_without_changes():
    y = planted(0.1, 80)
    theirs = cochrans_q(y)
    ours = cochran_q(y)
    assert ours.q == pytest.approx(theirs.statistic) and ours.p == pytest.approx(theirs.pvalue)
    assert cochran_q(np.ones((10, 3))).p is None
