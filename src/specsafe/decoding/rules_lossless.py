"""Acceptance rules that keep the target's distribution; notation and records are those of `records`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from specsafe.decoding.records import (
    Acceptance,
    Proposal,
    Target,
    at,
    leading,
    of_drafted,
    real_slots,
    residual_token,
    shown,
)
from specsafe.decoding.sums import total


@dataclass(frozen=True)
class Greedy:
    """Accept iff d = argmax p; then the argmax. Temperature 0 only. Statistic: 1 if they agree, else 0."""

    lossless: ClassVar[bool] = True
    needs_q: ClassVar[bool] = False
    looks_ahead: ClassVar[bool] = False

    def accept(self, target: Target, proposal: Proposal, accept_u: Tensor, token_u: Tensor) -> Acceptance:
        """Decide on a proposal; reads no number and no probability. ValueError at a temperature above 0."""
        if target.temperature != 0:
            raise ValueError(f"the greedy rule needs temperature 0, got {target.temperature}")
        return Agreement().accept(target, proposal, accept_u, token_u)


@dataclass(frozen=True)
class Agreement:
    """Draw y ~ p at every slot by token_u; accept while d = y; emit y (vLLM 0.17-0.19 `strict`).

    Says exactly what the target alone says with the same token_u, token for token, whatever is drafted. At
    temperature 0 it is Greedy. Statistic: 1 if d = y, else 0.
    """

    lossless: ClassVar[bool] = True
    needs_q: ClassVar[bool] = False
    looks_ahead: ClassVar[bool] = False

    def accept(self, target: Target, proposal: Proposal, accept_u: Tensor, token_u: Tensor) -> Acceptance:
        """Decide on a proposal; accept_u is not read."""
        own = target.own_tokens(token_u)
        agrees = proposal.tokens == own[:, :-1]
        accepted = leading(agrees, proposal)
        return Acceptance(accepted, at(own, accepted), shown(agrees, proposal))


@dataclass(frozen=True)
class OneHotRejection:
    """Accept with probability p(d); if refused draw from p with d removed. For deterministic drafters.

    This is Rejection with q one-hot at d. Lossless for any d that was chosen without accept_u and token_u: given
    d, the emitted token is d with probability p(d) and v ≠ d with (1 - p(d)) p(v) / (1 - p(d)) = p(v).
    Statistic: p(d).
    """

    lossless: ClassVar[bool] = True
    needs_q: ClassVar[bool] = False
    looks_ahead: ClassVar[bool] = False

    def accept(self, target: Target, proposal: Proposal, accept_u: Tensor, token_u: Tensor) -> Acceptance:
        """Decide on a proposal; q is not read."""
        return Rejection().accept(target, proposal._replace(q=None), accept_u, token_u)


@dataclass(frozen=True)
class Rejection:
    """Accept with probability min(1, p(d) / q(d)); if refused draw from norm(max(p - q, 0)).

    Leviathan et al. 2023 (arXiv 2211.17192), Chen et al. 2023 (arXiv 2302.01318). d must have been drawn from q;
    q None is one-hot. At temperature 0 it is Greedy. Statistic: p(d) / q(d).
    """

    lossless: ClassVar[bool] = True
    needs_q: ClassVar[bool] = True
    looks_ahead: ClassVar[bool] = False

    def accept(self, target: Target, proposal: Proposal, accept_u: Tensor, token_u: Tensor) -> Acceptance:
        """Decide on a proposal."""
        if target.temperature == 0:
            return Greedy().accept(target, proposal, accept_u, token_u)
        ratio = likelihood_ratio(target.probabilities, proposal)
        accepted = leading(accept_u[:, :-1] < ratio, proposal)
        token = residual_token(target, proposal, accepted, token_u)
        return Acceptance(accepted, token, shown(ratio, proposal))


def likelihood_ratio(p: Tensor, proposal: Proposal) -> Tensor:
    """p(d) / q(d), float64 [B, T]; p: [B, T+1, V]. Where q(d) is 0: infinity, or 0 if p(d) is 0 too."""
    drafted = of_drafted(p, proposal).double()
    if proposal.q is None:
        return drafted
    return (drafted / of_drafted(proposal.q, proposal).double()).where(drafted > 0, 0.0)


@dataclass(frozen=True)
class Block:
    """Block verification: one decision over the whole block (Sun et al. 2024, arXiv 2403.10444, algorithm 2).

    With w_0 = 1, w_i = min(1, w_{i-1} p(d_i) / q(d_i)) for the i-th of L draft tokens, and the excess after i
    tokens S_i = Σ_v max(w_i p(v) - q(v), 0) of the next slot: keep the longest prefix i whose number is below
    h_i = S_i / (S_i + 1 - w_i), h_L = w_L; then draw from norm(max(w_i p - q, 0)), or from p if i = L.
    Why it is lossless: E[w_{i+1} | prefix i] = w_i - S_i, so by induction from L down P(kept ≥ i | prefix i) = w_i
    and P(kept = i | prefix i) = S_i, and min(w_i p, q) + max(w_i p - q, 0) = w_i p. It keeps at least as many as
    Rejection on average. q None is one-hot. At temperature 0 it is Greedy. Statistic: h_i. All numbers of
    the block are read, so accept_u must be new every round (`looks_ahead`), and so must the drafter's.
    """

    lossless: ClassVar[bool] = True
    needs_q: ClassVar[bool] = True
    looks_ahead: ClassVar[bool] = True

    def accept(self, target: Target, proposal: Proposal, accept_u: Tensor, token_u: Tensor) -> Acceptance:
        """Decide on a proposal."""
        if target.temperature == 0:
            return Greedy().accept(target, proposal, accept_u, token_u)
        weights = _block_weights(likelihood_ratio(target.probabilities, proposal))
        chances = _block_chances(target.probabilities, proposal, weights)
        slots = torch.arange(1, weights.shape[1], device=weights.device)
        kept = (accept_u[:, :-1] < chances) & real_slots(proposal)
        accepted = torch.cat([torch.zeros_like(proposal.lengths).unsqueeze(1), slots * kept], dim=1).amax(
            dim=1
        )
        token = residual_token(target, proposal, accepted, token_u, weight=at(weights, accepted))
        return Acceptance(accepted, token, shown(chances, proposal))


def _block_weights(ratio: Tensor) -> Tensor:
    """w_0 … w_T, float64 [B, T+1], from p(d) / q(d) [B, T]."""
    weights = [torch.ones_like(ratio[:, :1].sum(dim=1))]
    for i in range(ratio.shape[1]):
        weights.append((weights[-1] * ratio[:, i]).clamp(max=1))
    return torch.stack(weights, dim=1)


def _block_chances(p: Tensor, proposal: Proposal, weights: Tensor) -> Tensor:
    """h_1 … h_T, float64 [B, T]; p: [B, T+1, V]; weights: [B, T+1]."""
    chances = torch.zeros_like(weights[:, 1:])
    slots = chances.shape[1]
    drafted = of_drafted(p, proposal).double()
    for i in range(1, slots + 1):
        w = weights[:, i]
        if i == slots:
            chances[:, i - 1] = w
            continue
        if proposal.q is None:
            excess = w * (1 - drafted[:, i])
        else:
            excess = total((w.unsqueeze(1) * p[:, i].double() - proposal.q[:, i].double()).clamp(min=0))
        whole = excess + 1 - w
        # 0 / 0: w = 1 and p = q next, the prefix is certain to be kept
        inner = (excess / whole).where(whole > 0, 1.0)
        chances[:, i - 1] = w.where(proposal.lengths == i, inner)
    return chances
