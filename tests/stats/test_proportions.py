"""Room: stats/proportions. Laws: statsmodels is the oracle; the published numbers; Holm is Holm."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

from specsafe.stats import cohen_h, holm, proportion

few = settings(max_examples=80, deadline=None)
rates = st.floats(0, 1)


@st.composite
def counts(draw: st.DrawFn) -> tuple[int, int]:
    n = draw(st.integers(1, 1000))
    return draw(st.integers(0, n)), n


@pytest.mark.parametrize(
    ("k", "n", "low", "high"), [(587, 700, 0.8095, 0.8640), (84, 100, 0.756, 0.899)], ids=["x7", "honest"]
)
def test_wilson_reproduces_the_published_intervals(k, n, low, high):
    rate = proportion(k, n, method="wilson")
    assert (rate.low, rate.high) == pytest.approx((low, high), abs=5e-4)


def test_wilson_of_587_in_700_has_four_right_digits():
    rate = proportion(587, 700, method="wilson")
    assert (round(rate.low, 4), round(rate.high, 4)) == (0.8095, 0.8640)


@few
@given(counts(), st.sampled_from([0.8, 0.9, 0.95, 0.99]), st.sampled_from(["exact", "wilson"]))
def test_intervals_agree_with_statsmodels(count, confidence, method):
    rate = proportion(*count, method=method, confidence=confidence)
    oracle = {"exact": "beta", "wilson": "wilson"}[method]
    expected = proportion_confint(*count, alpha=1 - confidence, method=oracle)
    assert (rate.low, rate.high) == pytest.approx(expected, abs=1e-8)


@few
@given(counts(), st.sampled_from(["exact", "wilson"]))
def test_a_rate_keeps_its_counts_and_lies_in_its_interval(count, method):
    rate = proportion(*count, method=method)
    assert (rate.k, rate.n, rate.method) == (*count, method)
    assert 0 <= rate.low <= rate.estimate + 1e-12
    assert rate.estimate - 1e-12 <= rate.high <= 1


def test_no_trials_have_no_rate():
    nothing = proportion(0, 0)
    assert (nothing.estimate, nothing.low, nothing.high) == (None, None, None)


@pytest.mark.parametrize(("k", "n"), [(-1, 10), (11, 10), (1, 0), (0, -1)])
def test_impossible_counts_are_refused(k, n):
    with pytest.raises(ValueError, match="k must lie within"):
        proportion(k, n)


@pytest.mark.parametrize(
    ("baseline", "treatment", "h"),
    [  # the publication writes h(baseline, treatment)
        (0.79, 0.78, -0.0243),
        (0.408, 0.435, 0.0547),
        (1.00, 0.99, -0.2003),
        (0.98, 0.97, -0.0644),
        (1.00, 0.98, -0.2838),
    ],
)
def test_cohen_h_is_positive_where_the_treatment_has_the_higher_rate(baseline, treatment, h):
    assert cohen_h(treatment, baseline) == pytest.approx(h, abs=5e-5)


@pytest.mark.parametrize(
    ("base", "drop"), [(0.5, 5.0), (0.79, 4.2), (0.9, 3.2), (0.95, 2.4), (0.98, 1.6), (1.0, 0.25)]
)
def test_the_cutoff_of_a_tenth_is_the_drop_of_section_4_3(base, drop):
    assert cohen_h(base - drop / 100, base) == pytest.approx(-0.1, abs=0.0025)


@few
@given(rates, rates)
def test_cohen_h_changes_sign_when_the_arms_change_places(one, other):
    assert cohen_h(one, other) == -cohen_h(other, one)


@settings(max_examples=20, deadline=None)  # each call of multipletests collects garbage
@given(st.lists(rates, min_size=1, max_size=20))
def test_holm_agrees_with_statsmodels(p_values):
    assert holm(p_values) == pytest.approx(multipletests(p_values, method="holm")[1])


def test_holm_of_no_tests_is_no_tests():
    assert holm([]) == []


def test_holm_keeps_the_order_given():
    assert holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
