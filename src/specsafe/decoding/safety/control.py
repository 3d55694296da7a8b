"""Controllers as pure functions on columns of state: one entry a row, no loop over rows.

State is a dict of tensors [B] (and [B, window]). `before` gives mode and alpha of a position, `after` what is known
once its token is chosen, `at_round_end` what is looked at only there. float64, so that thresholds behave as
the published Python does.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from specsafe.decoding.safety.parts import Bins, Fixed, Method, Random, Risk, Score

INTERSECTION, UNION, TARGET = 0, 1, 2
_NOTHING = 1e-10
State = dict[str, Tensor]


class Seen(NamedTuple):
    """Signals of a position, float32 [B], before its token is chosen."""

    kl: Tensor
    gap: Tensor
    openings: Tensor


class Setting(NamedTuple):
    """mode: int64 [B]. alpha: float64 [B]. risk: float64 [B], the mean score that decided, NaN without one."""

    mode: Tensor
    alpha: Tensor
    risk: Tensor


def begin(method: Method, gated: Tensor) -> State:
    """State of new rows; gated: bool [B], the gate fired for the prompt."""
    rows, home = len(gated), gated.device
    whole = torch.zeros(rows, dtype=torch.int64, device=home)
    state = {"mode": gated.long(), "gated": gated}
    control = method.control
    if isinstance(control, Bins):
        alpha = torch.full((rows,), method.intersection.alpha, dtype=torch.float64, device=home)
        theta = torch.full_like(alpha, control.theta)
        return state | {"seen": whole, "hits": whole.clone(), "theta": theta, "alpha": alpha}
    if isinstance(control, Score | Risk):
        scores = torch.zeros((rows, control.window), dtype=torch.float64, device=home)
        missed = torch.zeros(rows, dtype=torch.float64, device=home)
        return state | {"scores": scores, "count": whole, "missed": missed, "risk": missed.clone()}
    return state


def before(method: Method, state: State, seen: Seen, position: Tensor, coin: Tensor) -> Setting:
    """Mode and alpha of a position; position: int64 [B] in the answer; coin: float64 [B] in [0, 1)."""
    control, mode = method.control, state["mode"]
    nothing = torch.full(mode.shape, torch.nan, dtype=torch.float64, device=mode.device)
    if isinstance(control, Fixed):
        mode = torch.full_like(mode, control.mode)
    elif isinstance(control, Random):
        mode = (coin < control.share).long()
    elif isinstance(control, Score):
        nothing = state["risk"]
        if not control.lag:
            nothing = _mean(*_pushed(state, score(control, state["missed"], seen)))
            mode = (nothing > control.tau).long()
        mode = torch.where(state["gated"] & (position < control.hold), UNION, mode)
    elif isinstance(control, Risk):
        risk = _mean(*_pushed(state, score(control, state["missed"], seen)))
        slope = (risk / control.ceiling).clamp(max=1)
        return Setting(torch.full_like(mode, UNION), control.low + (control.high - control.low) * slope, risk)
    fixed = torch.tensor(
        [method.intersection.alpha, method.union.alpha], dtype=torch.float64, device=mode.device
    )
    alpha = fixed[mode]
    if isinstance(control, Bins):
        alpha = torch.where(mode == INTERSECTION, state["alpha"], alpha)
    return Setting(mode, alpha, nothing)


def after(method: Method, state: State, seen: Seen, matched: Tensor, active: Tensor) -> State:
    """State once the token is chosen; matched, active: bool [B]; rows that are not active keep theirs."""
    control = method.control
    if isinstance(control, Bins):
        hits = torch.where(state["seen"] % control.size == 0, 0, state["hits"]) + matched
        new = {**state, "seen": state["seen"] + 1, "hits": hits}
        if control.check == "token":
            new = _looked(method, control, new)
    elif isinstance(control, Score | Risk):
        missed = (~matched).double()
        late = isinstance(control, Score) and control.lag == 1
        scores, count = _pushed(state, score(control, missed if late else state["missed"], seen))
        new = {**state, "scores": scores, "count": count, "missed": missed, "risk": _mean(scores, count)}
        if isinstance(control, Score) and late:
            new["mode"] = (new["risk"] > control.tau).long()
    else:
        return state
    return _where(active, new, state)


def at_round_end(method: Method, state: State) -> State:
    """The published seed looks at its bins only here."""
    control = method.control
    if isinstance(control, Bins) and control.check == "round_end":
        return _looked(method, control, state)
    return state


def score(control: Score | Risk, missed: Tensor, seen: Seen) -> Tensor:
    """The weighted score of a position, float64 [B]; missed: 1 where the token was not the draft's own."""
    parts = (
        (control.mismatch, missed),
        (control.kl, 1 - torch.exp(-seen.kl.double().clamp(min=0) / control.kl_scale)),
        (control.entropy_gap, seen.gap.double()),
        (control.openings, seen.openings.double()),
    )
    total = torch.zeros_like(missed)
    for weight, value in parts:
        total = total + weight * value
    normalized = isinstance(control, Risk) or control.normalized
    return total / sum(weight for weight, _ in parts) if normalized else total


def _pushed(state: State, new: Tensor) -> tuple[Tensor, Tensor]:
    """The window with a new score as its last, and how many scores it has."""
    scores = torch.cat([state["scores"][:, 1:], new[:, None]], 1)
    return scores, (state["count"] + 1).clamp(max=scores.shape[1])


def _mean(scores: Tensor, count: Tensor) -> Tensor:
    """Oldest first: the order in which Python sums a deque."""
    total = torch.zeros_like(scores[:, 0])
    for column in range(scores.shape[1]):
        total = total + scores[:, column]
    return total / count.clamp(min=1)


def _looked(method: Method, control: Bins, state: State) -> State:
    """Where a bin is whole: the mode for what follows, and the annealing."""
    whole = (state["seen"] > 0) & (state["seen"] % control.size == 0)
    share = state["hits"].double() / control.size
    low = share <= state["theta"] if control.strict else share < state["theta"]
    mode = low.long()
    kept = torch.ones_like(whole) if control.forget else mode == state["mode"]
    theta = (state["theta"] - control.step).clamp(min=control.floor)
    if control.snap:
        theta = torch.where(theta <= _NOTHING, 0.0, theta)
    lower = (state["alpha"] - control.alpha_step).clamp(min=control.alpha_floor)
    alpha = torch.where(mode == INTERSECTION, lower, state["alpha"])
    new = {
        **state,
        "mode": mode,
        "theta": torch.where(kept, theta, control.theta),
        "alpha": torch.where(kept, alpha, method.intersection.alpha),
    }
    return _where(whole, new, state)


def _where(chosen: Tensor, new: State, old: State) -> State:
    """Row by row one state or the other."""
    return {
        name: torch.where(chosen.view(-1, *[1] * (value.dim() - 1)), new[name], value)
        for name, value in old.items()
    }
