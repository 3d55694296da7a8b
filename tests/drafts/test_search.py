"""The greedy search drops the cheapest layer each time and stops where it is told to."""

from __future__ import annotations

from specsafe.drafts.search import Step, greedy_drop

COST = {0: 400, 1: 50, 2: 10, 3: 100, 4: 30}


def measure(keep: tuple[int, ...]) -> tuple[int, int]:
    """A draft whose dropped layers cost what COST says, of 1000 drafted tokens."""
    return 1000 - sum(cost for layer, cost in COST.items() if layer not in keep), 1000


def test_drops_the_cheapest_layer_each_time() -> None:
    steps = greedy_drop(range(5), measure, floor=0.0)
    assert [s.keep for s in steps] == [(0, 1, 3, 4), (0, 1, 3), (0, 3), (0,)]
    assert [s.accepted for s in steps] == [990, 960, 910, 810]


def test_stops_before_the_step_below_the_floor() -> None:
    steps = greedy_drop(range(5), measure, floor=0.96)
    assert [s.accepted for s in steps] == [990, 960]
    assert greedy_drop(range(5), measure, floor=0.995) == []


def test_stops_after_the_steps_asked_for_and_begins_from_any_set() -> None:
    assert greedy_drop((0, 3, 4), measure, floor=0.0, steps=1) == [Step((0, 3), 910, 1000)]


def test_measures_each_remaining_layer_once_a_step() -> None:
    seen: list[tuple[int, ...]] = []

    def counting(keep: tuple[int, ...]) -> tuple[int, int]:
        seen.append(keep)
        return measure(keep)

    greedy_drop(range(5), counting, floor=0.0)
    assert len(seen) == len(set(seen)) == 5 + 4 + 3 + 2


def test_compares_rates_not_counts() -> None:
    answers = {(1, 2): (90, 200), (0, 2): (50, 100), (0, 1): (80, 170)}
    assert greedy_drop((0, 1, 2), answers.__getitem__, floor=0.3, steps=1) == [Step((0, 2), 50, 100)]


def test_equal_removals_take_the_lowest_layer() -> None:
    assert greedy_drop((3, 5, 9), lambda keep: (1, 2), floor=0.0, steps=1)[0].keep == (5, 9)


def test_a_draft_that_drafts_nothing_has_acceptance_zero() -> None:
    assert Step((0,), 0, 0).acceptance == 0.0
    assert greedy_drop((0, 1), lambda keep: (0, 0), floor=0.1) == []
