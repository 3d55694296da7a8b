"""Acceptance rules that let draft tokens through which the target would not have said.

Notation as in records. Every rule here judges the draft token, and where it refuses emits the target's own
token: the argmax at temperature 0, else a draw from p (Lenient: from its residual). At temperature 0 p is
one-hot and a rule that looked at it would be greedy under another name; so these look at the raw logits instead,
softmax(logits / posterior_temperature), and only `posterior_temperature` 0 makes them greedy.
"""

from __future__ import annotations

from dataclasses import dataclass, field
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
    residual_token,
    shown,
)
from specsafe.decoding.rules_lossless import Rejection, likelihood_ratio
from specsafe.decoding.sums import total

_LOG_FLOOR = 1e-5


@dataclass(frozen=True)
class Typical:
    """Accept iff p(d) > min(ε, δ exp(-H)), H = -Σ p log(p + 1e-5), p = softmax(logits / posterior_temperature).

    Cai et al. 2024 (Medusa, arXiv 2401.10774) and the typical acceptance sampler of vLLM V0; defaults are vLLM's.
    Posterior temperature 0: accept iff d = argmax. Statistic: p(d) - min(ε, δ exp(-H)), accepted iff above 0.
    """

    epsilon: float = 0.09
    delta: float = 0.3
    posterior_temperature: float = 1.0
    lossless: ClassVar[bool] = False
    needs_q: ClassVar[bool] = False
    looks_ahead: ClassVar[bool] = False

    def accept(self, target: Target, proposal: Proposal, accept_u: Tensor, token_u: Tensor) -> Acceptance:
        """Decide on a proposal; accept_u is not read."""
        p = target.posterior(self.posterior_temperature)[:, :-1]
        margin = of_drafted(p, proposal) - self._bound(p)
        passes = _is_argmax(target, proposal) if self.posterior_temperature == 0 else margin > 0
        return _own_after(target, proposal, passes, token_u, margin)

    def _bound(self, p: Tensor) -> Tensor:
        entropy = -total(p * (p + _LOG_FLOOR).log())
        return (self.delta * (-entropy).exp()).clamp(max=self.epsilon)


@dataclass(frozen=True)
class Threshold:
    """Accept iff p(d) ≥ threshold, p = softmax(logits / posterior_temperature).

    accumulated: instead iff the product of p(d) over this and all earlier slots of the block is ≥ threshold.
    Posterior temperature 0: accept iff d = argmax. Statistic: p(d), or the product.
    """

    threshold: float
    accumulated: bool = False
    posterior_temperature: float = 1.0
    lossless: ClassVar[bool] = False
    needs_q: ClassVar[bool] = False
    looks_ahead: ClassVar[bool] = False

    def accept(self, target: Target, proposal: Proposal, accept_u: Tensor, token_u: Tensor) -> Acceptance:
        """Decide on a proposal; accept_u is not read."""
        drafted = of_drafted(target.posterior(self.posterior_temperature), proposal)
        value = drafted.cumprod(dim=1) if self.accumulated else drafted
        return _own_after(target, proposal, value >= self.threshold, token_u, value)


@dataclass(frozen=True)
class Accumulated(Threshold):
    """Threshold on the running product."""

    accumulated: bool = field(default=True, init=False)


@dataclass(frozen=True)
class Relaxed:
    """Accept iff d is among the target's top_k and p(d) ≥ max p - delta, p = softmax(logits / posterior_temperature).

    TensorRT-LLM's relaxed acceptance; delta 1 switches the second condition off. Of equal logits the lower index
    ranks first, so top_k 1 is greedy agreement. Statistic: the rank of d, from 0.
    """

    top_k: int
    delta: float = 1.0
    posterior_temperature: float = 1.0
    lossless: ClassVar[bool] = False
    needs_q: ClassVar[bool] = False
    looks_ahead: ClassVar[bool] = False

    def accept(self, target: Target, proposal: Proposal, accept_u: Tensor, token_u: Tensor) -> Acceptance:
        """Decide on a proposal; accept_u is not read."""
        rank = _rank(target, proposal)
        passes = rank < self.top_k
        if self.posterior_temperature == 0:
            passes = _is_argmax(target, proposal)
        elif self.delta < 1:
            p = target.posterior(self.posterior_temperature)
            passes &= of_drafted(p, proposal) >= p[:, :-1].amax(-1) - self.delta
        return _own_after(target, proposal, passes, token_u, rank)


@dataclass(frozen=True)
class Lenient:
    """Accept with probability min(1, p(d) / (β q(d))); if refused draw from norm(max(p - q, 0)), as Rejection.

    Leviathan et al. 2023, appendix A.5 (lenience). β 1 is Rejection. At temperature 0 the ratio is taken with
    p = softmax(logits / posterior_temperature), greedy at 0, and a refusal emits the argmax; so there β 1 is lossy
    too. q None is one-hot. Statistic: p(d) / (β q(d)).
    """

    beta: float
    posterior_temperature: float = 1.0
    lossless: ClassVar[bool] = False
    needs_q: ClassVar[bool] = True
    looks_ahead: ClassVar[bool] = False

    def accept(self, target: Target, proposal: Proposal, accept_u: Tensor, token_u: Tensor) -> Acceptance:
        """Decide on a proposal."""
        greedy = target.temperature == 0
        if greedy and self.posterior_temperature == 0:
            return Rejection().accept(target, proposal, accept_u, token_u)
        p = target.posterior(self.posterior_temperature) if greedy else target.probabilities
        ratio = likelihood_ratio(p, proposal) / self.beta
        passes = accept_u[:, :-1] < ratio
        if greedy:
            return _own_after(target, proposal, passes, token_u, ratio)
        accepted = leading(passes, proposal)
        return Acceptance(
            accepted, residual_token(target, proposal, accepted, token_u), shown(ratio, proposal)
        )


@dataclass(frozen=True)
class Leak:
    """Synthetic leaky verifier: accept d if accept_u < rate, whatever p says; else iff d is the target's own token.

    Rate 0 is Agreement (Greedy at temperature 0), rate 1 emits whatever is drafted. A control: harm at a known
    dose. Statistic: 1 if d is the target's own token, else 0; an accepted token with 0 was let through.
    """

    rate: float
    lossless: ClassVar[bool] = False
    needs_q: ClassVar[bool] = False
    looks_ahead: ClassVar[bool] = False

    def accept(self, target: Target, proposal: Proposal, accept_u: Tensor, token_u: Tensor) -> Acceptance:
        """Decide on a proposal."""
        own = target.own_tokens(token_u)
        agrees = proposal.tokens == own[:, :-1]
        accepted = leading(agrees | (accept_u[:, :-1] < self.rate), proposal)
        return Acceptance(accepted, at(own, accepted), shown(agrees, proposal))


def _own_after(
    target: Target, proposal: Proposal, passes: Tensor, token_u: Tensor, value: Tensor
) -> Acceptance:
    """Keep the leading slots that pass [B, T], then the target's own token; value [B, T] is shown."""
    accepted = leading(passes, proposal)
    return Acceptance(accepted, target.own_token(accepted, token_u), shown(value, proposal))


def _is_argmax(target: Target, proposal: Proposal) -> Tensor:
    return proposal.tokens == target.argmax[:, :-1]


def _rank(target: Target, proposal: Proposal) -> Tensor:
    """int64 [B, T]: how many words the target ranks before d, by logit, then by index."""
    logits = target.logits[:, :-1]
    drafted = of_drafted(target.logits, proposal).unsqueeze(-1)
    index = torch.arange(logits.shape[-1], device=logits.device)
    earlier = index < proposal.tokens.unsqueeze(-1)
    return ((logits > drafted) | ((logits == drafted) & earlier)).sum(-1)
