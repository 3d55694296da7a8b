"""Room: decoding/safety. Controllers against plain Python, and what is known of the published one."""

from __future__ import annotations

import math
import random
from collections import deque

import numpy as np
import pytest

from specsafe.decoding.safety import control
from specsafe.decoding.safety.control import Seen
from specsafe.decoding.safety.methods import METHODS, find
from specsafe.decoding.safety.parts import Method
from specsafe.errors import UserError

NOTHING = np.zeros(1)
QUIET = Seen(NOTHING, NOTHING, NOTHING)


def modes(
    method: Method, matches: list[bool], seen: list[Seen] | None = None, gated: bool = False
) -> list[int]:
    """The mode of each position of one row."""
    state, told = control.begin(method, np.array([gated])), []
    for n, match in enumerate(matches):
        signals = seen[n] if seen else QUIET
        setting = control.before(method, state, signals, np.array([n]), np.zeros(1))
        told.append(int(setting.mode[0]))
        state = control.after(method, state, signals, np.array([match]), np.array([True]))
    return told


def bins(matches: list[bool], floor: float = 0.0) -> list[int]:
    """SSD's controller as its paper's code has it, token by token."""
    mode, theta, log, told = 0, 0.6, [], []
    for match in matches:
        told.append(mode)
        log.append(match)
        if len(log) % 7 == 0:
            new = int(sum(log[-7:]) / 7 < theta)
            theta = 0.6 if new != mode else max(theta - 0.1, floor)
            theta = 0.0 if theta <= 1e-10 else theta
            mode = new
    return told


def scored(method: Method, matches: list[bool], seen: list[Seen]) -> list[int]:
    """CRS as published: one token late."""
    c, window, mode, told = method.control, deque(maxlen=3), 0, []
    for match, s in zip(matches, seen, strict=True):
        told.append(mode)
        kl = 1 - math.exp(-float(s.kl[0]) / 2.0)
        window.append(
            c.mismatch * (1 - match)
            + c.kl * kl
            + c.entropy_gap * float(s.gap[0])
            + c.openings * float(s.openings[0])
        )
        mode = int(sum(window) / len(window) > 0.2)
    return told


def traces(count: int, length: int = 150) -> list[list[bool]]:
    made = random.Random(5)
    return [
        [made.random() < share for _ in range(length)] for share in (0.3, 0.5, 0.7, 0.8) for _ in range(count)
    ]


def signals(length: int = 150) -> list[Seen]:
    draws = np.random.default_rng(2).random((length, 3))
    return [Seen(d[:1] * 2, d[1:2] * 0.1, d[2:3] ** 8) for d in draws]


def test_bins_are_those_of_the_published_code() -> None:
    for matches in traces(20):
        assert modes(METHODS["ssd"], matches) == bins(matches)
        assert modes(METHODS["ssd-floor"], matches) == bins(matches, 1 / 7)


def test_42_matches_end_the_published_controller_and_not_ours() -> None:
    assert not any(modes(METHODS["ssd"], [True] * 42 + [False] * 300))
    assert any(modes(METHODS["ssd"], [True] * 35 + [False] * 300))
    assert any(modes(METHODS["ssd-floor"], [True] * 42 + [False] * 300))


def test_union_lasts_49_tokens_in_the_published_controller_and_longer_in_ours() -> None:
    told = modes(METHODS["ssd"], [False] * 240)
    assert told == ([0] * 7 + [1] * 49) * 4 + [0] * 7 + [1] * 9
    assert modes(METHODS["ssd-floor"], [False] * 240) == [0] * 7 + [1] * 233


@pytest.mark.parametrize("name", ["ssd-crs", "ssd-crs-best"])
def test_scores_are_those_of_the_published_code(name: str) -> None:
    for matches in traces(10):
        told = modes(METHODS[name], matches, signals())
        assert told == scored(METHODS[name], matches, signals())
        assert 0 < sum(told) < len(told)


def test_two_mismatches_of_three_are_not_above_tau() -> None:
    alone = find("ssd-crs", {"control.kl": 0, "control.entropy_gap": 0, "control.openings": 0})
    assert modes(alone, [True, False, False, True, True]) == [0, 0, 0, 0, 0]
    assert modes(alone, [True, False, False, False, True]) == [0, 0, 0, 0, 1]


def test_without_lag_a_signal_counts_for_its_own_token() -> None:
    loud = Seen(np.array([9.0]), NOTHING, np.array([1.0]))
    trace = [QUIET, QUIET, loud, QUIET]
    late, now = (modes(METHODS[n], [True] * 4, trace) for n in ("ssd-crs-best", "ssd-crs-zero-lag"))
    assert (late[:3], now[2]) == ([0, 0, 0], 0)  # a mean over three needs more than one loud token
    assert modes(METHODS["ssd-crs-zero-lag"], [True], [loud]) == [1]
    assert modes(METHODS["ssd-crs-best"], [True, True], [loud, loud]) == [0, 1]


def test_a_gate_forces_one_token_as_published_and_seven_in_ours() -> None:
    assert modes(METHODS["ssd-crs-gated"], [True] * 9, gated=True) == [1] + [0] * 8
    assert modes(METHODS["ssd-crs-user-gate"], [True] * 9, gated=True) == [1] * 7 + [0] * 2
    assert modes(METHODS["ssd"], [True] * 9, gated=True) == [1] * 7 + [0] * 2


def test_rows_do_not_see_each_other_and_a_row_at_rest_keeps_its_state() -> None:
    together = traces(3, 60)
    for name in ("ssd", "ssd-crs", "ssd-seed", "continuous"):
        method, seen = METHODS[name], signals(60)
        state = control.begin(method, np.zeros(len(together), bool))
        rest = np.array([True] * (len(together) - 1) + [False])
        first = {k: v[-1].copy() for k, v in state.items()}
        told = []
        for n in range(60):
            wide = Seen(*(s.repeat(len(together)) for s in seen[n]))
            position = np.full(len(together), n)
            told.append(control.before(method, state, wide, position, np.zeros(len(together))).mode)
            state = control.after(method, state, wide, np.array([t[n] for t in together]), rest)
            state = control.at_round_end(method, state)
        if name != "ssd-seed":
            for row, matches in enumerate(together[:-1]):
                assert [int(t[row]) for t in told] == modes(method, matches, seen)
        assert all(np.array_equal(state[k][-1], first[k]) for k in first)


def test_random_mode_has_the_given_share() -> None:
    method = METHODS["random-mode"]
    coins = np.random.default_rng(1).random(20_000)
    state = control.begin(method, np.zeros(len(coins), bool))
    none = np.zeros(len(coins))
    told = control.before(method, state, Seen(none, none, none), none.astype(int), coins).mode
    assert told.mean() == pytest.approx(0.3, abs=0.02)


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("nope", {}, "unknown method 'nope'"),
        ("ssd", {"union.alpha": 11}, "alpha of its choice must be between 0 and 10, got 11"),
        ("ssd", {"union.alpha": float("nan")}, "alpha of its choice"),
        ("aasd-decay", {"prior.lam": 1.5}, "lam of its prior must be between 0 and 1"),
        ("ssd", {"prior.lam": 0.5}, "has no prior"),
        ("ssd", {"speed": 1}, "no part or number 'speed'"),
        ("ssd", {"control.beta": 1}, "no part or number 'beta'"),
        ("ssd", {"control.size": 2.5}, "another type"),
        ("ssd", {"control.snap": 1}, "another type"),
        ("ssd", {"until": 2.5}, "another type"),
        ("ssd", {"union.alpha": 10**400}, "another type"),
        ("ssd-crs", {"control.window": float("nan")}, "another type"),
        ("ssd-crs", {"control.window": float("inf")}, "another type"),
        ("ssd-crs", {"gate": 150}, "gate is no number or word"),
        ("ssd", {"prior": 0.3}, "prior is no number or word"),
        ("ssd", {"control": 3}, "control is no number or word"),
        ("ssd", {"intersection.kind": "min-k"}, "kind of its choice cannot be 'min-k'"),
        ("ssd", {"union.fallback": ""}, "fallback of its choice cannot be ''"),
        ("ssd", {"control.check": "round-end"}, "check of its bins cannot be 'round-end'"),
        ("ssd-seed", {"gate.span": "whole"}, "span of its gate cannot be 'whole'"),
        ("ssd", {"who": "nobody"}, "who of its method cannot be 'nobody'"),
        ("typical", {"rule": "threshold"}, "rule of its method cannot be 'threshold'"),
        ("ssd", {"who": "rule"}, "set both or neither"),
        ("ssd", {"union.kind": "all", "union.alpha": 2}, "alpha must be at most 1, got 2"),
        (
            "ssd-crs",
            {"control.mismatch": 0, "control.kl": 0, "control.entropy_gap": 0, "control.openings": 0},
            "all weights are 0",
        ),
    ],
)
def test_what_cannot_be_is_refused_by_name(name: str, changes: dict[str, object], words: str) -> None:
    with pytest.raises(UserError, match=words):
        find(name, changes)


def test_words_and_numbers_of_parts_can_be_set() -> None:
    changed = find("ssd-seed", {"gate.span": "user", "until": 3, "recheck": 1, "control.check": "token"})
    assert changed.gate is not None and changed.gate.span == "user"
    assert (changed.until, changed.recheck) == (3, 1.0)
    assert not changed.depends_on_lookahead
