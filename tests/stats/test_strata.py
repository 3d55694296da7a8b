"""Room: stats/strata. Laws: all null is 1 and never more; statsmodels' unpaired tables; a published interval."""

from __future__ import annotations

import numpy as np
import pytest
from statsmodels.stats.contingency_tables import StratifiedTable
from statsmodels.stats.meta_analysis import combine_effects

from specsafe.stats import (
    heterogeneity,
    mantel_haenszel_matched,
    mantel_haenszel_tr144,
    paired_variance,
)


def test_a_corpus_in_which_nothing_differs_has_a_matched_odds_ratio_of_one():
    found = mantel_haenszel_matched((0, 0, 0), (0, 0, 0), (100, 120, 50))
    assert (found.estimate, found.low, found.high, found.p) == (1.0, 0.0, None, 1.0)
    assert found.n == 270 and found.strata == 3


@pytest.mark.parametrize(("b", "c"), [((3,), (3,)), ((2, 0), (0, 2)), ((1, 0, 4), (4, 1, 0))])
def test_as_many_worse_as_better_is_one(b, c):
    found = mantel_haenszel_matched(b, c, (200,) * len(b))
    assert found.estimate == 1.0 and found.low < 1 < found.high and found.p == 1.0


def test_one_direction_alone_has_a_bound_on_its_side_only():
    worse = mantel_haenszel_matched((5,), (0,), (100,))
    assert (
        worse.estimate == 11
        and worse.high is None
        and worse.low == pytest.approx((0.025 ** (1 / 5)) / (1 - 0.025 ** (1 / 5)))
    )
    better = mantel_haenszel_matched((0,), (5,), (100,))
    assert better.estimate == 0 and better.low == 0 and better.high == pytest.approx(1 / worse.low)


def test_items_that_flip_together_in_several_strata_widen_the_interval():
    together = [(3, 0)] * 4 + [(0, 3)] * 3
    apart = [(1, 0)] * 12 + [(0, 1)] * 9
    b, c, n = (4, 4, 4), (3, 3, 3), (100, 100, 100)
    wide = mantel_haenszel_matched(b, c, n, clusters=together)
    narrow = mantel_haenszel_matched(b, c, n, clusters=apart)
    assert wide.estimate == narrow.estimate == pytest.approx(4 / 3)
    assert np.log(wide.high / wide.low) > 1.6 * np.log(narrow.high / narrow.low)


def test_the_unpaired_ratio_is_that_of_statsmodels():
    tables = [(45, 55, 40, 60), (70, 130, 66, 134), (9, 41, 15, 35)]
    theirs = StratifiedTable([np.array([[a, b], [c, d]]) for a, b, c, d in tables])
    ours = mantel_haenszel_tr144(tables)
    assert ours.estimate == pytest.approx(theirs.oddsratio_pooled)
    assert (ours.low, ours.high) == pytest.approx(theirs.oddsratio_pooled_confint())


def test_the_published_interval_is_that_of_two_independent_groups_of_1404():
    """1.000 [0.835, 1.198] for three pairs of 468 answers that hardly differ (spec 1.7)."""
    safe = (0.769, 0.780, 0.792)
    tables = [(round(468 * s), 468 - round(468 * s)) * 2 for s in safe]
    found = mantel_haenszel_tr144(tables)
    assert found.estimate == 1.0
    assert (found.low, found.high) == pytest.approx((0.835, 1.198), abs=0.003)


def test_heterogeneity_is_that_of_statsmodels():
    effects, variances = [0.02, -0.01, 0.06, 0.0, 0.03], [2e-4, 1e-4, 3e-4, 1.5e-4, 2e-4]
    theirs = combine_effects(np.array(effects), np.array(variances))
    ours = heterogeneity(effects, variances, 500)
    assert ours.q == pytest.approx(theirs.q) and ours.i2 == pytest.approx(max(0, theirs.i2))
    assert ours.pooled == pytest.approx(theirs.mean_effect_fe)
    assert ours.low <= ours.i2 <= ours.high


def test_strata_in_which_nothing_differs_agree():
    pairs = [paired_variance(0, 0, n) for n in (100, 120, 50)]
    found = heterogeneity([d for d, _ in pairs], [v for _, v in pairs], 270)
    assert found.q == 0 and found.i2 == 0 and found.p == 1


def test_one_stratum_has_no_heterogeneity_and_none_without_variance():
    assert heterogeneity([0.1], [0.01], 20).q is None
    with pytest.raises(ValueError, match="positive variance"):
        heterogeneity([0.1, 0.2], [0.0, 0.01], 20)
