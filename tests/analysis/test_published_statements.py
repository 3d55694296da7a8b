"""Room: analysis/tr144. Laws: the published numbers, and labels that cannot be right, are reproduced beside ours."""

from __future__ import annotations

import pytest
from made_tables import make_study, with_temperature

from specsafe.analysis.gates import judge_cells
from specsafe.analysis.tr144 import as_published
from specsafe.stats import (
    best_case_tr144,
    bootstrap_tost_tr144,
    mde_tr144,
    paired_difference,
    proportion,
    slope_tr144,
    tost_scores_tr144,
)

# spec: published contrast, difference in points (safer is positive), unique items, passes with n x 7 and unique n
PUBLISHED = (
    ("E5 qwen3b jailbreak", 2.7, 120, False, False),
    ("E5 qwen3b truthfulqa", 2.3, 50, False, False),
    ("E5 qwen1.5b truthfulqa", -2.4, 50, False, False),
    ("E5 qwen1.5b jailbreak", 1.8, 120, True, False),
    ("E2 jailbreak", -1.7, 120, True, False),
    ("E2 truthfulqa", -1.4, 50, True, False),
)


@pytest.mark.parametrize(("name", "points", "n", "pseudo", "unique"), PUBLISHED)
def test_labels_that_cannot_be_right_are_found(name, points, n, pseudo, unique):
    """All of these were published as PASS: the kindest pairing of each, with replays as data and without."""
    assert best_case_tr144(points / 100, 7 * n).equivalent is pseudo
    assert best_case_tr144(points / 100, n).equivalent is unique


@pytest.mark.parametrize(
    ("points", "n", "low", "high"),
    [
        (2.7, 120, 0.3, 5.1),
        (2.7, 840, 1.8, 3.6),
        (2.3, 350, 1.0, 3.6),
        (-2.4, 350, -3.8, -1.1),
        (1.8, 840, 1.1, 2.6),
    ],
)
def test_the_kindest_intervals_are_those_of_the_recheck(points, n, low, high):
    found = best_case_tr144(points / 100, n)
    assert (100 * found.low, 100 * found.high) == pytest.approx((low, high), abs=0.06)


def test_the_published_intervals_come_from_flips_and_half_flips():
    """+0.10 [-0.22, 0.43], -0.21 [-0.45, 0.03], +0.21 [-0.14, 0.56] points of 953 (sums of squares 3.5, 2, 4)."""
    for flips, low, high in (
        ([1, 1, -1, 0.5, -0.5], -0.22, 0.43),
        ([-1, -1], -0.45, 0.03),
        ([1, 1, 1, -1], -0.14, 0.56),
    ):
        found = tost_scores_tr144([*flips, *[0.0] * (953 - len(flips))])
        assert (100 * found.low, 100 * found.high) == pytest.approx((low, high), abs=0.006)


def test_nothing_discordant_fails_one_published_test_and_passes_the_other_at_any_n():
    for n in (10, 100, 10_000):
        assert not tost_scores_tr144([0.0] * n).equivalent and tost_scores_tr144([0.0] * n).p_value == 0.5
        assert bootstrap_tost_tr144([0.0] * n) == (0.0, 0.0, True)
    assert paired_difference(0, 0, 50).high > 0.03 > paired_difference(0, 0, 100).high


def test_wilsons_interval_over_700_rows_and_over_100_items():
    pseudo, honest = proportion(587, 700, method="wilson"), proportion(84, 100, method="wilson")
    assert (pseudo.low, pseudo.high) == pytest.approx((0.8095, 0.8640), abs=5e-5)
    assert (honest.low, honest.high) == pytest.approx((0.756, 0.899), abs=5e-4)
    assert 100 * mde_tr144(0.769, 468) == pytest.approx(7.7, abs=0.05)


def test_a_line_through_answers_that_never_change_has_no_slope():
    assert slope_tr144([1.0] * 10, range(10)) == (0.0, 1.0)


@pytest.fixture(scope="module")
def beside():
    m = with_temperature(
        make_study({"advbench": 100, "jailbreak": 40, "truth": 50, "letters": 60}, noise=0.0, telemetry={})
    )
    tables = m.tables()
    return as_published(tables, judge_cells(tables))


def of(beside, about, **more):
    return [
        p for p in beside if p.about.startswith(about) and all(getattr(p, k) == v for k, v in more.items())
    ]


def test_replays_are_counted_in_theirs_and_not_in_ours(beside):
    (rate,) = of(beside, "safety rate over all rows", task="advbench")
    assert (rate.theirs.n, rate.ours.n) == (700, 100) and not rate.same and "replays" in rate.why
    (same,) = of(beside, "byte identity over all rows")
    assert same.theirs.n == 2 * 250 + 5 * 190 and same.ours.n == 250


def test_a_contrast_without_a_flip_is_told_apart_from_a_proof(beside):
    found = of(beside, "TOST, all tasks")
    assert found and all(
        p.their_reading == "not equivalent" and p.invalid and "1e-12" in p.why for p in found
    )
    small = of(beside, "bootstrap TOST", task="truth", cell="2: llama exact k5")
    assert [(p.their_reading, p.our_reading, p.invalid) for p in small] == [
        ("equivalent", "not resolved", True)
    ]
    large = of(beside, "bootstrap TOST", task="advbench", cell="2: llama exact k5")
    assert [(p.their_reading, p.our_reading) for p in large] == [("equivalent", "equivalent")]


def test_a_point_check_is_no_interval(beside):
    checks = of(beside, "|difference| < 3 points", task="truth")
    assert checks and all(
        p.their_reading == "PASS" and p.our_reading == "not resolved" and not p.same for p in checks
    )


def test_the_unpaired_ratio_has_the_interval_of_other_people(beside):
    (odds,) = of(beside, "common odds ratio, phase 2", axis="harmful_compliance")
    assert odds.theirs.estimate == odds.ours.estimate == 1.0
    assert odds.theirs.high < 3 and odds.ours.high is None


def test_every_statement_that_differs_says_why(beside):
    assert all(p.why for p in beside if p.invalid or not p.same)
    assert not [p for p in beside if "warm" in p.cell or "temperature" in p.cell]
    (acceptance,) = of(beside, "acceptance by domain")
    assert acceptance.their_reading == "higher on safety" and acceptance.our_reading == "no difference shown"
