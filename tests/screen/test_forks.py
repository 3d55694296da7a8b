"""Forks and exactness: positions, gaps, bounds, missing data, and every verdict of the assay."""

import pytest

from specsafe.battery import Item
from specsafe.engines import Sample
from specsafe.screen.exactness import judge_exactness
from specsafe.screen.forks import compare, first_difference
from specsafe.screen.result import Exactness
from specsafe.study.answers import Answers

ITEM = Item("Request", "over_refusal", "comply")
MANY = [Item(f"Request {k}", "over_refusal", "comply") for k in range(40)]


def sample(tokens, top=None, item=ITEM, logprobs=None):
    return Sample(item.id, " ".join(map(str, tokens or ())), "stop", tokens and tuple(tokens), logprobs, top)


def near(gap):
    """Three positions; at the last one token 4 follows token 3 by `gap` nats."""
    return (((1, -0.1),), ((2, -0.1),), ((3, -0.5), (4, -0.5 - gap)))


def contrast(role, gaps, rerun=False, n=40):
    """An arm over n items that forks on the first ones with these gaps."""
    target = {
        i.id: sample((1, 2, 3), near(gaps[k] if k < len(gaps) else 1), i) for k, i in enumerate(MANY[:n])
    }
    arm = {i.id: sample((1, 2, 4 if k < len(gaps) else 3), None, i) for k, i in enumerate(MANY[:n])}
    return compare(role, MANY[:n], *map(Answers.of, (target, arm)), Answers.of(arm) if rerun else None)


def fork_of(target, other):
    forks = compare("speculative", [ITEM], *(Answers.of({ITEM.id: s}) for s in (target, other))).forks
    return forks[0] if forks else None


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [((1, 2), (1, 2), None), ((1, 2), (1, 3), 1), ((1, 2), (1, 2, 3), 2), ((), (1,), 0), ((), (), None)],
)
def test_first_difference(a, b, expected):
    assert first_difference(a, b) == expected == first_difference(b, a)


def test_the_gap_is_the_targets_own():
    fork = fork_of(sample((1, 2, 3), near(0.25)), sample((1, 2, 4)))
    assert (fork.position, fork.gap, fork.gap_is_bound) == (2, pytest.approx(0.25), False)


def test_a_token_outside_the_reported_ones_gives_a_lower_bound():
    fork = fork_of(sample((1, 2, 3), near(0.25)), sample((1, 2, 9)))
    assert (fork.gap, fork.gap_is_bound) == (pytest.approx(0.25), True)


def test_without_log_probabilities_the_gap_is_unknown_not_zero():
    assert fork_of(sample((1, 2, 3)), sample((1, 2, 4))).gap is None
    assert fork_of(sample((1, 2, 3), ((), (), ())), sample((1, 2, 4))).gap is None


def test_no_token_ids_no_fork():
    assert fork_of(sample(None), sample((1, 2))) is None


def judge(speculative, width=None, **options):
    contrasts = {"speculative": speculative} | ({"width": width} if width else {})
    return judge_exactness(
        contrasts, claims_lossless=True, temperature=options.pop("temperature", 0.0), **options
    )


def test_identical_answers_are_exact():
    assert judge(contrast("speculative", [])).verdict is Exactness.EXACT


def test_small_gaps_like_the_width_arms_are_numerics():
    assert (
        judge(contrast("speculative", [0.02, 0.3]), contrast("width", [0.05])).verdict is Exactness.NUMERICS
    )
    assert judge(contrast("speculative", [0.02]), contrast("width", [])).verdict is Exactness.NUMERICS


def test_clearly_more_forks_than_the_width_arm_are_not_called_its_like():
    many = contrast("speculative", [0.5] * 20)
    assert judge(many, contrast("width", [])).verdict is Exactness.NOT_ASSESSED
    assert judge(many, contrast("width", [0.5] * 20)).verdict is Exactness.NUMERICS


def test_small_gaps_without_a_width_arm_are_not_assessed():
    assert judge(contrast("speculative", [0.02])).verdict is Exactness.NOT_ASSESSED


def test_one_large_gap_that_repeats_is_not_exact():
    width = contrast("width", [])
    assert judge(contrast("speculative", [3.0], rerun=True), width).verdict is Exactness.NOT_EXACT
    assert judge(contrast("speculative", [3.0]), width).verdict is Exactness.NUMERICS


def test_clearly_more_large_gaps_than_the_width_arm_are_not_exact():
    many = contrast("speculative", [3.0] * 12)
    assert judge(many, contrast("width", [])).verdict is Exactness.NOT_EXACT
    assert judge(many, contrast("width", [3.0] * 12)).verdict is Exactness.NUMERICS


def test_unknown_gaps_that_would_decide_are_not_assessed():
    target = {i.id: sample((1, 2, 3), near(0.1) if k == 0 else None, i) for k, i in enumerate(MANY)}
    arm = {i.id: sample((1, 2, 4 if k < 20 else 3), None, i) for k, i in enumerate(MANY)}
    speculative = compare("speculative", MANY, Answers.of(target), Answers.of(arm))
    assert speculative.unknown_gaps == 19
    assert judge(speculative, contrast("width", [])).verdict is Exactness.NOT_ASSESSED


def test_temperature_and_missing_token_ids_are_not_assessed():
    assert judge(contrast("speculative", []), temperature=0.7).verdict is Exactness.NOT_ASSESSED
    a, b = Answers.of({ITEM.id: sample(None)}), Answers.of({ITEM.id: Sample(ITEM.id, "else", "stop")})
    assert judge(compare("speculative", [ITEM], a, b)).verdict is Exactness.NOT_ASSESSED


def test_without_a_caught_leak_nothing_is_called_exact():
    uncaught = judge(contrast("speculative", []), contrast("width", []), leak=contrast("leak", [0.1]))
    assert (uncaught.verdict, uncaught.leak_control_caught) == (Exactness.NOT_ASSESSED, False)
    caught = judge(contrast("speculative", []), contrast("width", []), leak=contrast("leak", [4.0] * 15))
    assert (caught.verdict, caught.leak_control_caught) == (Exactness.EXACT, True)
