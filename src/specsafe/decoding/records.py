"""The records that every acceptance rule takes and gives, and what rules share.

B rows, T draft slots, V words of vocabulary. Slot i < T holds draft token d_i; p_i is the target's
distribution there, given the context and d_0 … d_{i-1}; slot T has no draft token, only p_T. At temperature 0
p is one-hot at the argmax, the lowest index among equals.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, NamedTuple, Protocol

import torch
from torch import Tensor

from specsafe.decoding.randomness import sample


class Proposal(NamedTuple):
    """What a drafter proposes.

    tokens: int64 [B, T]. lengths: int64 [B], how many of the T are real; the rest is padding of any value. A
    length may depend on the tokens drafted up to it (stop at end of text), not on tokens drawn and thrown away.
    q: float32 [B, T, V], the distribution each token was really drawn from; None: the drafter was deterministic.
    """

    tokens: Tensor
    lengths: Tensor
    q: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Target:
    """What the target says at every slot. Everything but the logits is computed when first asked for.

    logits: float32 [B, T+1, V], raw. temperature: of the answer; 0 is greedy. known_argmax: int64 [B, T+1], if
    the caller has it. Raises ValueError for a temperature that is negative or not finite.
    """

    logits: Tensor
    temperature: float
    known_argmax: Tensor | None = None

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise ValueError(f"temperature must be finite and not negative, got {self.temperature}")

    @cached_property
    def argmax(self) -> Tensor:
        """int64 [B, T+1]; of equal logits the lowest index."""
        return self.logits.argmax(-1) if self.known_argmax is None else self.known_argmax

    @cached_property
    def probabilities(self) -> Tensor:
        """p, float32 [B, T+1, V]: what the answer is drawn from."""
        return self._softmax(self.temperature)

    @cached_property
    def raw(self) -> Tensor:
        """Softmax of the logits as they are (temperature 1), float32 [B, T+1, V]."""
        return self.probabilities if self.temperature == 1 else self._softmax(1.0)

    def posterior(self, temperature: float) -> Tensor:
        """Softmax of logits / temperature, float32 [B, T+1, V]; one-hot at temperature 0."""
        if temperature == self.temperature:
            return self.probabilities
        return self.raw if temperature == 1 else self._softmax(temperature)

    def own_tokens(self, token_u: Tensor) -> Tensor:
        """What the target itself would say at each slot, int64 [B, T+1]: argmax, or drawn from p by token_u."""
        if self.temperature == 0:
            return self.argmax
        # slot by slot: the float64 sums of the whole block would need 8 (T+1) V bytes a row at once
        slots = range(self.logits.shape[1])
        return torch.stack([sample(self.probabilities[:, i], token_u[:, i]) for i in slots], dim=1)

    def own_token(self, slot: Tensor, token_u: Tensor) -> Tensor:
        """The same, at one slot [B] of each row: int64 [B]."""
        if self.temperature == 0:
            return at(self.argmax, slot)
        return sample(at(self.probabilities, slot), at(token_u, slot))

    def _softmax(self, temperature: float) -> Tensor:
        if temperature == 0:
            return torch.zeros_like(self.logits).scatter_(-1, self.argmax.unsqueeze(-1), 1.0)
        return torch.softmax(self.logits if temperature == 1 else self.logits / temperature, dim=-1)


class Acceptance(NamedTuple):
    """What a rule decided.

    accepted: int64 [B], 0 … lengths. token: int64 [B], emitted after the accepted ones (recovery, or bonus if
    all were accepted). statistic: float32 [B, T], what the rule compared at each real slot; NaN for padding. decided:
    float64 [B, S, columns], what else a decider tells of each slot, if it was asked to.
    """

    accepted: Tensor
    token: Tensor
    statistic: Tensor
    decided: Tensor | None = None


class AcceptanceRule(Protocol):
    """A rule: parameters, class facts, one pure method.

    lossless: it keeps the target's distribution. needs_q: it uses the drafter's distributions. looks_ahead: it
    reads numbers of slots past the one at which it stops (see randomness.slot_positions).
    """

    lossless: ClassVar[bool]
    needs_q: ClassVar[bool]
    looks_ahead: ClassVar[bool]

    def accept(self, target: Target, proposal: Proposal, accept_u: Tensor, token_u: Tensor) -> Acceptance:
        """Decide on a proposal. accept_u, token_u: float64 [B, T+1] in [0, 1), column i belongs to slot i."""


def at(rows: Tensor, slot: Tensor) -> Tensor:
    """Take rows [B, S, …] at slot [B] of each row: [B, …]."""
    return rows[torch.arange(rows.shape[0], device=rows.device), slot]


def real_slots(proposal: Proposal) -> Tensor:
    """Which slots hold a draft token: bool [B, T]."""
    slots = torch.arange(proposal.tokens.shape[1], device=proposal.tokens.device)
    return slots < proposal.lengths.unsqueeze(1)


def of_drafted(values: Tensor, proposal: Proposal) -> Tensor:
    """Take values [B, ≥T, V] at the draft token of each slot: [B, T]; padding reads index 0."""
    tokens = proposal.tokens.where(real_slots(proposal), 0)
    return values[:, : tokens.shape[1]].gather(-1, tokens.unsqueeze(-1)).squeeze(-1)


def leading(passes: Tensor, proposal: Proposal) -> Tensor:
    """Count the slots that pass before the first that does not or is padding: int64 [B]; passes: bool [B, T]."""
    return (passes & real_slots(proposal)).long().cumprod(dim=1).sum(dim=1)


def shown(values: Tensor, proposal: Proposal) -> Tensor:
    """The statistic: values [B, T] as float32, NaN for padding."""
    return values.float().where(real_slots(proposal), math.nan)


def residual_token(
    target: Target, proposal: Proposal, accepted: Tensor, token_u: Tensor, weight: Tensor | None = None
) -> Tensor:
    """The token after `accepted` [B]: from norm(max(weight p - q, 0)) if a draft token was refused there, else p.

    weight: float64 [B], 1 if None. Without q the drafter is one-hot: p with the draft token taken out. A residual
    that rounding has emptied (p equal to q) gives p itself.
    """
    p, u = at(target.probabilities, accepted).double(), at(token_u, accepted)
    slots = proposal.tokens.shape[1]
    if slots == 0:
        return sample(p, u)
    slot, refused = accepted.clamp(max=slots - 1), (accepted < proposal.lengths).unsqueeze(1)
    if proposal.q is None:
        drafted = at(proposal.tokens, slot).unsqueeze(1).where(refused, 0)
        q = torch.zeros_like(p).scatter_(1, drafted, 1.0)
    else:
        q = at(proposal.q, slot).double()
    rest = ((p if weight is None else p * weight.unsqueeze(1)) - q).clamp(min=0)
    keep = refused & (rest.sum(dim=1, keepdim=True) > 0)
    return sample(rest.where(keep, p), u)
