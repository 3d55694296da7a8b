"""Time left of a run: from what its arms took, for answers that come one by one and for whole batches."""

import pytest

from specsafe.study import run


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still until it is moved."""
    now = [100.0]
    monkeypatch.setattr(run.time, "monotonic", lambda: now[0])
    return lambda seconds: now.__setitem__(0, now[0] + seconds)


def paced(left, at_once=1):
    return run._Pace(dict.fromkeys(("a", "b"), left), at_once)


def test_nothing_is_known_before_the_first_answer(clock):
    pace = paced(12)
    pace.began("a")
    assert pace.seconds_left() is None


@pytest.mark.parametrize("batch", [1, 4, 12])
def test_batches_whose_answers_arrive_together_take_their_time(clock, batch):
    pace = paced(12)
    pace.began("a")
    for _ in range(12 // batch):
        clock(5.0 * batch)
        for _ in range(batch):
            pace.answered("a")
    assert pace.seconds_left() == pytest.approx(60), "the other arm is taken as the first"


@pytest.mark.parametrize(("a", "expected"), [(3.0, 27.0), (1.0, 27.0), (6.0, 54.0)])
def test_of_arms_side_by_side_the_slower_one_decides(clock, a, expected):
    pace = paced(10, at_once=2)
    for role, seconds in (("a", a), ("b", 3.0)):
        pace.began(role)
        clock(seconds)
        pace.answered(role)
    assert pace.seconds_left() == pytest.approx(expected)
