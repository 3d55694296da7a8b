"""Room: stats/paired. Laws: the published numbers, an enumeration oracle, validity, and invariances.

The numbers come from protocol.md, sections 4.4, 4.5 and 8.5. The oracle enumerates every table of a small
study and knows nothing of the module under test but its definition: order tables by Tango's Z, take the
tail, take its largest value over the nuisance.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.special import gammaln, xlogy
from scipy.stats import beta, norm
from statsmodels.stats.contingency_tables import mcnemar

from specsafe.stats import (
    exact_unconditional,
    mcnemar_exact,
    mde_tr144,
    paired_difference,
    paired_mde,
    sample_size,
    score_statistic,
    tost_tr144,
)

GAMMA = 1e-5
Z90 = float(norm.ppf(0.95))
few = settings(max_examples=60, deadline=None)


@st.composite
def tables(draw: st.DrawFn) -> tuple[int, int, int]:
    """(b, c, n) with b + c <= n."""
    n = draw(st.integers(1, 600))
    b = draw(st.integers(0, n))
    return b, draw(st.integers(0, n - b)), n


def equivalent(b: int, c: int, n: int, margin: float = 0.03) -> bool:
    """TOST by Tango's interval."""
    interval = paired_difference(b, c, n)
    return -margin < interval.low and interval.high < margin


# --- Published numbers -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("table", "low", "high"),
    [
        ((0, 0, 100), -2.634, 2.634),
        ((0, 0, 50), -5.133, 5.133),
        ((1, 1, 100), -3.474, 3.474),
        ((1, 0, 485), -0.350, 0.919),
    ],
)
def test_tango_reproduces_the_numbers_of_section_8_5(table, low, high):
    interval = paired_difference(*table)
    assert (100 * interval.low, 100 * interval.high) == pytest.approx((low, high), abs=5e-4)


@pytest.mark.parametrize(
    ("n", "points"),
    [(50, 5.13), (87, 3.02), (88, 2.98), (100, 2.63), (120, 2.21), (198, 1.35), (468, 0.58), (485, 0.56)],
)
def test_zero_discordance_leaves_z_squared_over_n_plus_z_squared(n, points):
    interval = paired_difference(0, 0, n)
    half = Z90**2 / (n + Z90**2)
    assert (interval.low, interval.high) == pytest.approx((-half, half), abs=1e-9)
    assert 100 * half == pytest.approx(points, abs=0.006)
    assert equivalent(0, 0, n) == (n >= 88)


def test_advbench_passes_with_no_flip_and_not_with_one_each_way():
    assert equivalent(0, 0, 100)
    assert not equivalent(1, 1, 100)
    assert not equivalent(0, 0, 50), "TruthfulQA can never pass"


def test_the_mde_of_tr144_is_7_7_points():
    assert 100 * mde_tr144(0.769, 468) == pytest.approx(7.7, abs=0.05)


@pytest.mark.parametrize(
    ("discordance", "margin", "n"),
    [
        (0.005, 0.03, 88),  # the formula says 48; below 88 not even zero discordant pairs pass
        (0.01, 0.03, 96),
        (0.05, 0.03, 476),
        (0.10, 0.03, 952),
        (0.005, 0.01, 429),
        (0.01, 0.01, 857),
        (0.05, 0.01, 4284),
        (0.10, 0.01, 8568),
    ],
)
def test_sample_sizes_are_those_of_section_4_4(discordance, margin, n):
    # The published table rounds its two normal quantiles to three places: up to 4 pairs in 8568.
    assert sample_size(discordance, margin, two_sided=True) == pytest.approx(n, rel=6e-4)


def test_the_floor_of_the_sample_size_is_where_zero_flips_begin_to_pass():
    floor = sample_size(0.0, 0.03)
    assert floor == 88
    assert not equivalent(0, 0, floor - 1)
    assert equivalent(0, 0, floor)


def test_the_sample_size_is_the_n_whose_mde_is_the_margin():
    n = sample_size(0.1, 0.03)
    assert paired_mde(n, 0.1) <= 0.03 < paired_mde(n - 1, 0.1)


@pytest.mark.parametrize("n", [50, 100, 468, 485])
def test_tr144_fails_a_cell_without_any_flip_whatever_its_size(n):
    tost = tost_tr144(0, 0, n)
    assert (tost.p_value, tost.equivalent) == (0.5, False)
    assert (tost.low, tost.high) == pytest.approx((0, 0), abs=1e-9)


E5_THAT_FAIL = [
    pytest.param(3, 0, 100, id="qwen3b jailbreak, 100 prompts"),
    pytest.param(3, 0, 120, id="qwen3b jailbreak +2.7, unique"),
    pytest.param(23, 0, 840, id="qwen3b jailbreak +2.7, pseudo"),
    pytest.param(1, 0, 50, id="qwen3b truthfulqa +2.3, unique"),
    pytest.param(8, 0, 350, id="qwen3b truthfulqa +2.3, pseudo"),
    pytest.param(0, 1, 50, id="qwen1.5b truthfulqa -2.4, unique"),
    pytest.param(0, 8, 350, id="qwen1.5b truthfulqa -2.4, pseudo"),
    pytest.param(2, 0, 120, id="qwen1.5b jailbreak +1.8, unique"),
    pytest.param(0, 2, 120, id="E2 jailbreak -1.7, unique"),
]


@pytest.mark.parametrize(("b", "c", "n"), E5_THAT_FAIL)
def test_published_pass_labels_of_section_4_5_fail_in_the_best_case(b, c, n):
    for both_ways in range(min(6, (n - b - c) // 2)):  # more discordance at the same net never helps
        table = b + both_ways, c + both_ways, n
        assert not tost_tr144(*table).equivalent
        assert not equivalent(*table)


def test_replays_counted_as_prompts_make_a_pass_out_of_a_failure():
    assert not equivalent(2, 0, 120)
    assert equivalent(15, 0, 840)
    assert tost_tr144(15, 0, 840).equivalent


def test_intervals_of_section_4_5_reproduce():
    once, replayed = tost_tr144(8, 0, 350), tost_tr144(15, 0, 840)
    assert (100 * once.low, 100 * once.high) == pytest.approx((1.0, 3.6), abs=0.06)
    assert (100 * replayed.low, 100 * replayed.high) == pytest.approx((1.1, 2.6), abs=0.1)


# --- Tango's interval ---------------------------------------------------------------------------------


def oracle_z(b: np.ndarray, c: np.ndarray, n: int, delta: float) -> np.ndarray:
    """Tango's Z with the restricted estimate found by bisection of the likelihood equation."""
    b, c = np.broadcast_arrays(np.asarray(b, float), np.asarray(c, float))
    low, high = np.full(b.shape, max(0.0, -delta)), np.full(b.shape, (1 - delta) / 2)
    with np.errstate(divide="ignore", invalid="ignore"):
        for _ in range(200):
            q = (low + high) / 2
            slope = b / (q + delta) + c / q - 2 * (n - b - c) / (1 - 2 * q - delta)
            low, high = np.where(slope > 0, q, low), np.where(slope > 0, high, q)
    return (b - c - n * delta) / np.sqrt(n * (2 * high + delta - delta**2))


@pytest.mark.parametrize("delta", [-0.4, -0.1, 0.03, 0.1, 0.5])
def test_the_score_statistic_maximizes_the_restricted_likelihood(delta):
    n = 17
    b, c = every_table(n)
    assert score_statistic(b, c, n, delta) == pytest.approx(oracle_z(b, c, n, delta), abs=1e-6)


@pytest.mark.parametrize("table", [(0, 0, 30), (3, 1, 40), (0, 7, 60), (12, 12, 200), (1, 0, 485)])
@pytest.mark.parametrize("confidence", [0.9, 0.95])
def test_tango_limits_are_where_the_statistic_reaches_its_quantile(table, confidence):
    interval = paired_difference(*table, confidence=confidence)
    z = norm.ppf(0.5 + confidence / 2)
    b, c, n = table
    assert oracle_z(b, c, n, interval.low) == pytest.approx(z, abs=1e-5)
    assert oracle_z(b, c, n, interval.high) == pytest.approx(-z, abs=1e-5)


@few
@given(tables())
def test_swapping_worse_and_better_mirrors_the_interval(table):
    b, c, n = table
    here, there = paired_difference(b, c, n), paired_difference(c, b, n)
    assert (here.low, here.estimate, here.high) == pytest.approx(
        (-there.high, -there.estimate, -there.low), abs=1e-8
    )


@few
@given(tables(), st.floats(1, 4))
def test_tangos_interval_contains_the_estimate_and_stays_within_one(table, effect):
    b, c, n = (count / effect for count in table)  # fractions, as after a design effect
    interval = paired_difference(b, c, n)
    assert -1 <= interval.low <= interval.estimate + 1e-12
    assert interval.estimate - 1e-12 <= interval.high <= 1


@few
@given(tables())
def test_walds_interval_is_centred_on_the_estimate_and_shrinks_to_it_without_flips(table):
    b, c, n = table
    interval = paired_difference(b, c, n, method="wald")
    assert interval.low + interval.high == pytest.approx(2 * interval.estimate)
    assert (interval.low == interval.high) == (b + c == 0 or max(b, c) == n)


def test_walds_interval_exists_where_every_pair_flips_after_a_design_effect():
    assert paired_difference(0, 1 / 1.796875, 1 / 1.796875, method="wald").high == pytest.approx(-1)


@few
@given(st.integers(1, 5000), st.integers(1, 5000))
def test_concordant_pairs_never_widen_an_interval_without_flips(n, more):
    assert paired_difference(0, 0, n + more).high < paired_difference(0, 0, n).high


@few
@given(tables())
def test_the_upper_bound_grows_with_every_pair_that_got_worse(table):
    b, c, n = table
    assume(b + c < n)
    assert paired_difference(b + 1, c, n).high >= paired_difference(b, c, n).high - 1e-9


@few
@given(tables())
def test_a_higher_confidence_is_never_narrower(table):
    wide, narrow = paired_difference(*table, confidence=0.95), paired_difference(*table)
    assert wide.low <= narrow.low + 1e-9
    assert narrow.high <= wide.high + 1e-9


def test_an_unknown_method_is_refused():
    with pytest.raises(ValueError, match="newcombe"):
        paired_difference(0, 0, 10, method="newcombe")


@pytest.mark.parametrize("table", [(-1, 0, 10), (0, -1, 10), (6, 5, 10), (0, 0, 0), (1, 0, -5)])
def test_impossible_counts_are_refused(table):
    with pytest.raises(ValueError, match="need b, c >= 0"):
        paired_difference(*table)
    with pytest.raises(ValueError, match="need b, c >= 0"):
        exact_unconditional(*table, 0.03, alternative="less")


# --- The exact unconditional test ---------------------------------------------------------------------


def every_table(n: int) -> tuple[np.ndarray, np.ndarray]:
    """All b and c with b + c <= n."""
    b, c = (grid.ravel() for grid in np.mgrid[: n + 1, : n + 1])
    return b[b + c <= n], c[b + c <= n]


def probabilities(n: int, margin: float, q: np.ndarray) -> np.ndarray:
    """[nuisance, table]: probability of every table where p_c = q and p_b = q + margin."""
    b, c = every_table(n)
    q = q[:, None]
    ways = gammaln(n + 1) - gammaln(b + 1) - gammaln(c + 1) - gammaln(n - b - c + 1)
    rest = np.maximum(1 - 2 * q - margin, 0)
    return np.exp(ways + xlogy(b, np.maximum(q + margin, 0)) + xlogy(c, q) + xlogy(n - b - c, rest))


def nuisances(margin: float, steps: int) -> np.ndarray:
    return np.linspace(max(0.0, -margin), (1 - margin) / 2, steps)


def in_confidence_set(q: np.ndarray, b: np.ndarray, c: np.ndarray, n: int, margin: float) -> np.ndarray:
    """Whether Clopper-Pearson intervals (1 - GAMMA / 2 each) of c and of b allow p_c = q, p_b = q + margin."""

    def allows(k: np.ndarray, p: np.ndarray) -> np.ndarray:
        low = np.where(k == 0, 0, beta.ppf(GAMMA / 4, np.maximum(k, 1), n - k + 1))
        high = np.where(k == n, 1, beta.ppf(1 - GAMMA / 4, k + 1, np.maximum(n - k, 1)))
        return (low <= p) & (p <= high)

    return allows(c, q) & allows(b, q + margin)


@pytest.mark.parametrize("alternative", ["less", "greater"])
@pytest.mark.parametrize(("n", "margin"), [(8, 0.0), (10, 0.1), (16, 0.03), (10, -0.1)])
def test_exact_p_values_agree_with_full_enumeration(n, margin, alternative):
    b, c = every_table(n)
    sign = 1 if alternative == "less" else -1
    mcnemar_z = (b - c) / np.sqrt(np.maximum(b + c, 1))  # Tango's Z at margin 0, and 0 where nothing differs
    z = sign * (oracle_z(b, c, n, margin) if margin else mcnemar_z)
    as_extreme = z[:, None] <= z[None, :] + 1e-9  # [table, observed]
    q = nuisances(margin, 3001)
    tails = probabilities(n, margin, q) @ as_extreme
    brute, worst = tails.max(axis=0), q[tails.argmax(axis=0)]
    ours = np.array(
        [
            exact_unconditional(int(i), int(j), n, margin, alternative=alternative)
            for i, j in zip(b, c, strict=True)
        ]
    )
    assert np.all(ours <= brute + 2e-5)
    allowed = np.where(in_confidence_set(q[:, None], b, c, n, margin), tails, 0).max(axis=0)
    assert np.all(ours >= np.minimum(1, allowed + GAMMA) - 1e-6), "no maximum within the set is missed"
    inside = in_confidence_set(worst, b, c, n, margin)
    assert inside.sum() > len(b) / 3, "the comparison must not be empty"
    assert ours[inside] == pytest.approx(brute[inside], abs=1e-4)


@pytest.mark.parametrize("alternative", ["less", "greater"])
@pytest.mark.parametrize(("n", "margin"), [(20, 0.1), (40, 0.05)])
def test_the_exact_test_keeps_its_level_everywhere_on_the_boundary(n, margin, alternative):
    b, c = every_table(n)
    chance = probabilities(n, margin, nuisances(margin, 9))
    assert chance.sum(axis=1) == pytest.approx(1)
    likely = chance.max(axis=0) > 1e-6
    p = np.zeros(len(b))  # a table too rare to ask about counts as a rejection
    p[likely] = [
        exact_unconditional(int(i), int(j), n, margin, alternative=alternative)
        for i, j in zip(b[likely], c[likely], strict=True)
    ]
    for level in (0.01, 0.05, 0.1):
        assert np.all(chance @ (p <= level) <= level)
    assert (chance @ (p <= 0.1)).max() > 0.02, "a test that never rejects keeps every level"


def test_exact_non_inferiority_at_zero_flips_is_the_chance_of_seeing_none():
    # The worst nuisance is p_c = 0, p_b = margin; only (0, 0) is then in the tail: n >= 99 at 3 points.
    for n in (50, 88, 98, 99, 100):
        p = exact_unconditional(0, 0, n, 0.03, alternative="less")
        assert p == pytest.approx(0.97**n + GAMMA, abs=2e-5)
        assert (p <= 0.05) == (n >= 99)


def test_data_that_no_nuisance_explains_decide_at_once():
    assert exact_unconditional(50, 0, 50, 0.03, alternative="greater") == pytest.approx(GAMMA)
    assert exact_unconditional(50, 0, 50, 0.03, alternative="less") == 1
    assert exact_unconditional(0, 50, 50, 0.03, alternative="less") == pytest.approx(GAMMA)


@settings(max_examples=40, deadline=None)
@given(tables(), st.sampled_from([0.01, 0.03, 0.1]))
def test_no_data_show_both_harm_and_its_absence(table, margin):
    less, greater = (exact_unconditional(*table, margin, alternative=side) for side in ("less", "greater"))
    assert 0 < min(less, greater) <= max(less, greater) <= 1
    assert less + greater >= 1, "at every nuisance value the two tails share the table that was seen"


def test_an_unknown_alternative_is_refused():
    with pytest.raises(ValueError, match="two-sided"):
        exact_unconditional(0, 0, 10, 0.03, alternative="two-sided")


# --- McNemar ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("c", [0, 1, 3, 8, 40])
@pytest.mark.parametrize("b", [0, 1, 2, 5, 17, 40])
def test_mcnemar_agrees_with_statsmodels(b, c):
    expected = mcnemar([[50, b], [c, 50]], exact=True).pvalue if b + c else 1.0
    assert mcnemar_exact(b, c) == pytest.approx(expected)
    assert mcnemar_exact(b, c) == mcnemar_exact(c, b)


def test_five_flips_one_way_are_one_in_sixteen():
    assert mcnemar_exact(5, 0) == pytest.approx(1 / 16)
