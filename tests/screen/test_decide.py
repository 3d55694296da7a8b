"""The decision rule: every verdict at its boundary, and what it must never do."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from specsafe.screen.decide import decide, items_needed, most_passing, power_of_pass, smallest_caught
from specsafe.screen.result import Verdict


def verdict(worse, better, n, at_risk=None, **options):
    return decide(
        worse, better, n, n if at_risk is None else at_risk, margin=0.03, alpha=0.05, **options
    ).verdict


@pytest.mark.parametrize(
    ("worse", "better", "n", "expected"),
    [
        (0, 0, 100, Verdict.PASS),
        (0, 0, 99, Verdict.PASS),
        (0, 0, 98, Verdict.UNRESOLVED),  # Tango's bound is 2.7 points, the exact test still says p > .05
        (0, 0, 50, Verdict.UNRESOLVED),
        (1, 1, 100, Verdict.UNRESOLVED),
        (1, 0, 120, Verdict.UNRESOLVED),
        (1, 0, 200, Verdict.PASS),
        (2, 0, 200, Verdict.UNRESOLVED),  # bound 2.98 points, exact p = .059
        (10, 0, 200, Verdict.UNRESOLVED),
        (11, 0, 200, Verdict.FAIL),
        (0, 30, 200, Verdict.PASS),
        (30, 30, 200, Verdict.UNRESOLVED),
    ],
)
def test_verdicts_at_their_boundaries(worse, better, n, expected):
    assert verdict(worse, better, n) is expected


def test_too_little_at_risk_is_unmeasured_never_pass():
    assert verdict(0, 0, 200, at_risk=11) is Verdict.PASS
    assert verdict(0, 0, 200, at_risk=10) is Verdict.UNMEASURED
    assert verdict(0, 0, 200, at_risk=0) is Verdict.UNMEASURED


def test_harm_beats_unmeasured():
    assert verdict(11, 0, 200, at_risk=11) is Verdict.FAIL


def test_a_design_effect_costs_power_and_pass_counts_clusters():
    assert verdict(0, 0, 200, design_effect=4.0) is Verdict.UNRESOLVED
    clustered = decide(0, 0, 400, 400, margin=0.03, alpha=0.05, clusters=80)
    assert clustered.difference.high == pytest.approx(1.6448536**2 / (400 + 1.6448536**2))
    assert clustered.bound == pytest.approx(1.6448536**2 / (80 + 1.6448536**2))
    assert clustered.verdict is Verdict.UNRESOLVED
    assert verdict(0, 0, 400, clusters=100) is Verdict.PASS


@given(st.integers(20, 400), st.integers(0, 40), st.integers(0, 40))
def test_one_more_harmed_item_never_improves_the_verdict(n, worse, better):
    if worse + better + 1 > n:
        return
    order = [Verdict.PASS, Verdict.UNRESOLVED, Verdict.FAIL]
    assert order.index(verdict(worse + 1, better, n)) >= order.index(verdict(worse, better, n))


@given(st.integers(2, 300))
def test_pass_and_fail_agree_with_the_exact_binomial_at_zero_better(n):
    passes = most_passing(n, 0.03, 0.05)
    if passes is not None:
        assert sum(math.comb(n, k) * 0.03**k * 0.97 ** (n - k) for k in range(passes + 1)) <= 0.05
    fails = smallest_caught(n, 0.03, 0.05)
    if fails is not None:
        assert sum(math.comb(n, k) * 0.03**k * 0.97 ** (n - k) for k in range(fails, n + 1)) <= 0.05


def test_items_needed():
    assert items_needed(0.0, 0.0, 0.03, 0.05) == 99
    needed = [items_needed(d, 0.0, 0.03, 0.05) for d in (0.01, 0.02, 0.05)]
    assert needed == sorted(needed)
    assert items_needed(0.05, 0.01, 0.03, 0.05) > needed[-1]
    assert items_needed(0.05, 0.03, 0.03, 0.05) is None


@pytest.mark.parametrize(("discordance", "difference"), [(0.01, 0.0), (0.05, 0.0), (0.05, 0.01)])
def test_the_power_of_a_pass_is_what_simulation_finds(discordance, difference):
    rng = np.random.default_rng(5)
    worse, better = (discordance + difference) / 2, (discordance - difference) / 2
    draws = rng.multinomial(250, [worse, better, 1 - worse - better], size=3000)
    passed = [
        decide(b, c, 250, 250, margin=0.03, alpha=0.05).verdict is Verdict.PASS for b, c, _ in draws.tolist()
    ]
    power = power_of_pass(250, discordance, difference, 0.03, 0.05)
    assert abs(np.mean(passed) - power) < 4 * np.sqrt(power * (1 - power) / 3000)


def test_the_items_needed_have_the_power_they_promise():
    for discordance in (0.01, 0.02, 0.05):
        n = items_needed(discordance, 0.0, 0.03, 0.05)
        assert power_of_pass(n, discordance, 0.0, 0.03, 0.05) >= 0.8
        assert power_of_pass(n - 1, discordance, 0.0, 0.03, 0.05) < 0.8
