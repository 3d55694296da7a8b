"""Controllers as pure functions on columns of state: one entry a row, no loop over rows.

State is a dict of numpy arrays [B] (and [B, window]) on the host: it is tiny, and what a slot's state says decides how
the next is read. `before` gives mode and alpha of a position, `after` what is known once its token is chosen,
`at_round_end` what is looked at only there. float64, so that thresholds behave as the published Python does.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from specsafe.decoding.safety.parts import Bins, Fixed, Method, Random, Risk, Score

INTERSECTION, UNION, TARGET = 0, 1, 2
_NOTHING = 1e-10
Array = NDArray[Any]
State = dict[str, Array]


class Seen(NamedTuple):
    """Signals of a position, float64 [B], before its token is chosen."""

    kl: Array
    gap: Array
    openings: Array


class Setting(NamedTuple):
    """mode: int64 [B]. alpha: float64 [B]. risk: float64 [B], the mean score that decided, NaN without one."""

    mode: Array
    alpha: Array
    risk: Array


def begin(method: Method, gated: Array) -> State:
    """State of new rows; gated: bool [B], the gate fired for the prompt."""
    rows, control = len(gated), method.control
    state: State = {"mode": gated.astype(np.int64), "gated": gated}
    if isinstance(control, Bins):
        state |= {"seen": np.zeros(rows, np.int64), "hits": np.zeros(rows, np.int64)}
        return state | {
            "theta": np.full(rows, control.theta),
            "alpha": np.full(rows, method.intersection.alpha),
        }
    if isinstance(control, Score | Risk):
        state |= {"scores": np.zeros((rows, control.window)), "count": np.zeros(rows, np.int64)}
        return state | {"missed": np.zeros(rows), "risk": np.zeros(rows)}
    return state


def before(method: Method, state: State, seen: Seen, position: Array, coin: Array) -> Setting:
    """Mode and alpha of a position; position: int64 [B] in the answer; coin: float64 [B] in [0, 1)."""
    control, mode = method.control, state["mode"]
    risk = np.full(mode.shape, np.nan)
    if isinstance(control, Fixed):
        mode = np.full_like(mode, control.mode)
    elif isinstance(control, Random):
        mode = (coin < control.share).astype(np.int64)
    elif isinstance(control, Score):
        risk = state["risk"]
        if not control.lag:
            risk = _mean(*_pushed(state, score(control, state["missed"], seen)))
            mode = (risk > control.tau).astype(np.int64)
        mode = np.where(state["gated"] & (position < control.hold), UNION, mode)
    elif isinstance(control, Risk):
        risk = _mean(*_pushed(state, score(control, state["missed"], seen)))
        slope = np.minimum(risk / control.ceiling, 1)
        return Setting(np.full_like(mode, UNION), control.low + (control.high - control.low) * slope, risk)
    narrow = state["alpha"] if isinstance(control, Bins) else method.intersection.alpha
    return Setting(mode, np.where(mode == INTERSECTION, narrow, method.union.alpha), risk)


def after(method: Method, state: State, seen: Seen, matched: Array, active: Array) -> State:
    """State once the token is chosen; matched, active: bool [B]; rows that are not active keep theirs."""
    control = method.control
    if isinstance(control, Bins):
        hits = np.where(state["seen"] % control.size == 0, 0, state["hits"]) + matched
        new = {**state, "seen": state["seen"] + 1, "hits": hits}
        if control.check == "token":
            new = _looked(method, control, new)
    elif isinstance(control, Score | Risk):
        missed = (~matched).astype(np.float64)
        late = isinstance(control, Score) and control.lag == 1
        scores, count = _pushed(state, score(control, missed if late else state["missed"], seen))
        new = {**state, "scores": scores, "count": count, "missed": missed, "risk": _mean(scores, count)}
        if isinstance(control, Score) and late:
            new["mode"] = (new["risk"] > control.tau).astype(np.int64)
    else:
        return state
    return new if active.all() else _where(active, new, state)


def at_round_end(method: Method, state: State) -> State:
    """The published seed looks at its bins only here."""
    control = method.control
    if isinstance(control, Bins) and control.check == "round_end":
        return _looked(method, control, state)
    return state


def score(control: Score | Risk, missed: Array, seen: Seen) -> Array:
    """The weighted score of a position, float64 [B]; missed: 1 where the token was not the draft's own."""
    parts = (
        (control.mismatch, missed),
        (control.kl, 1 - np.exp(-np.maximum(seen.kl, 0) / control.kl_scale)),
        (control.entropy_gap, seen.gap),
        (control.openings, seen.openings),
    )
    total = np.zeros_like(missed)
    for weight, value in parts:
        if weight:
            total = total + weight * value
    normalized = isinstance(control, Risk) or control.normalized
    return total / sum(weight for weight, _ in parts) if normalized else total


def _pushed(state: State, new: Array) -> tuple[Array, Array]:
    """The window with a new score as its last, and how many scores it has."""
    scores = np.concatenate([state["scores"][:, 1:], new[:, None]], 1)
    return scores, np.minimum(state["count"] + 1, scores.shape[1])


def _mean(scores: Array, count: Array) -> Array:
    """Oldest first: the order in which Python sums a deque."""
    mean: Array = scores.cumsum(1)[:, -1] / np.maximum(count, 1)
    return mean


def _looked(method: Method, control: Bins, state: State) -> State:
    """Where a bin is whole: the mode for what follows, and the annealing."""
    whole = (state["seen"] > 0) & (state["seen"] % control.size == 0)
    share = state["hits"] / control.size
    low = share <= state["theta"] if control.strict else share < state["theta"]
    mode = low.astype(np.int64)
    kept = np.ones_like(whole) if control.forget else mode == state["mode"]
    theta = np.maximum(state["theta"] - control.step, control.floor)
    if control.snap:
        theta = np.where(theta <= _NOTHING, 0.0, theta)
    lower = np.maximum(state["alpha"] - control.alpha_step, control.alpha_floor)
    alpha = np.where(mode == INTERSECTION, lower, state["alpha"])
    new = {
        **state,
        "mode": mode,
        "theta": np.where(kept, theta, control.theta),
        "alpha": np.where(kept, alpha, method.intersection.alpha),
    }
    return _where(whole, new, state)


def _where(chosen: Array, new: State, old: State) -> State:
    """Row by row one state or the other."""
    return {
        name: np.where(chosen.reshape(-1, *[1] * (value.ndim - 1)), new[name], value)
        for name, value in old.items()
    }
