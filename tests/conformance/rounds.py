"""Rounds of a toy pair of models, and single rounds on random inputs: what the tests of the rules share."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from scipy.stats import chisquare
from torch import Tensor

from specsafe.decoding.randomness import Purpose, sample, slot_positions, uniforms
from specsafe.decoding.rules import (
    Acceptance,
    AcceptanceRule,
    Agreement,
    Block,
    OneHotRejection,
    Proposal,
    Rejection,
    Target,
)

torch.set_num_threads(1)
ROWS, WORDS, WANT = 40_000, 5, 3
SAMPLING = [Agreement(), OneHotRejection(), Rejection(), Block()]


def tables(seed: int) -> tuple[Tensor, Tensor]:
    """Logits of target and draft, [V, V, V]: given the last two tokens. The draft knows something."""
    generator = torch.Generator().manual_seed(seed)
    target = torch.randn(WORDS, WORDS, WORDS, generator=generator)
    return target, 0.6 * target + 0.8 * torch.randn(WORDS, WORDS, WORDS, generator=generator)


@dataclass(frozen=True)
class Toy:
    """Two models and how they are run.

    stop: a draft ends after its first token 0 (a ragged batch). old_drafts: the drafter's numbers belong to the
    answer position even where the rule looks ahead.
    """

    slots: int
    temperature: float = 0.8
    deterministic: bool = False
    stop: bool = False
    old_drafts: bool = False
    seed: int = 5

    def answers(self, rule: AcceptanceRule, rows: int = ROWS) -> Tensor:
        """The first WANT tokens of `rows` answers, from as many rounds as it takes."""
        target, draft = tables(self.seed)
        keys = torch.arange(rows) * 7919 + self.seed
        out = torch.zeros(rows, 2 + WANT * (self.slots + 2), dtype=torch.int64)
        start = torch.zeros(rows, dtype=torch.int64)
        for _ in range(WANT):
            at = slot_positions(start, self.slots + 1, fresh=rule.looks_ahead)
            draft_at = slot_positions(start, self.slots, fresh=rule.looks_ahead and not self.old_drafts)
            proposal, logits = self._propose(
                target, draft, out, start, uniforms(keys, draft_at, Purpose.DRAFT)
            )
            numbers = (uniforms(keys, at, purpose) for purpose in (Purpose.ACCEPT, Purpose.TOKEN))
            got = rule.accept(Target(logits, self.temperature), proposal, *numbers)
            slot = torch.arange(self.slots + 1)
            padded = torch.cat([proposal.tokens, got.token[:, None]], dim=1)
            said = padded.where(slot < got.accepted[:, None], got.token[:, None])
            out.scatter_(1, 2 + start[:, None] + slot, said)  # what stands after the token is overwritten
            start = start + got.accepted + 1
        return out[:, 2 : 2 + WANT]

    def _propose(
        self, target: Tensor, draft: Tensor, out: Tensor, start: Tensor, u: Tensor
    ) -> tuple[Proposal, Tensor]:
        rows = torch.arange(len(start))
        one, two = out[rows, start], out[rows, start + 1]
        tokens, qs, logits = [], [], [target[one, two]]
        for i in range(self.slots):
            q = draft[one, two].softmax(-1)
            drawn = q.argmax(-1) if self.deterministic else sample(q, u[:, i])
            one, two = two, drawn
            tokens.append(drawn)
            qs.append(q)
            logits.append(target[one, two])
        drafted = torch.stack(tokens, 1) if tokens else torch.zeros(len(start), 0, dtype=torch.int64)
        lengths = torch.full_like(start, self.slots)
        if self.stop and self.slots:
            lengths = ((drafted != 0).long().cumprod(1).sum(1) + 1).clamp(max=self.slots)
        q_all = None if self.deterministic or not qs else torch.stack(qs, 1)
        return Proposal(drafted, lengths, q_all), torch.stack(logits, 1)

    def p_value(self, rule: AcceptanceRule) -> float:
        """Chi-square of the joint of the first WANT tokens against the target alone."""
        p = (tables(self.seed)[0].double() / self.temperature).softmax(-1).numpy()
        joint = np.einsum("a,ab,abc->abc", p[0, 0], p[0], p).ravel()
        code = (self.answers(rule).numpy() * WORDS ** np.arange(WANT)[::-1]).sum(1)
        counts = np.bincount(code, minlength=WORDS**WANT)
        rare = joint * ROWS < 5
        merged = [np.append(x[~rare], x[rare].sum()) for x in (counts, joint * ROWS)]
        return float(chisquare(*merged).pvalue)


@dataclass(frozen=True)
class Case:
    """Random inputs of one round; with `ties` logits and probabilities coincide often."""

    temperature: float = 0.8
    rows: int = 4_000
    slots: int = 4
    words: int = 7
    ties: bool = True
    seed: int = 3
    inputs: tuple[Target, Proposal, Tensor, Tensor] = field(init=False)

    def __post_init__(self) -> None:
        generator = torch.Generator().manual_seed(self.seed)
        logits = 1.5 * torch.randn(self.rows, self.slots + 1, self.words, generator=generator)
        q = (
            0.7 * logits[:, :-1] + torch.randn(self.rows, self.slots, self.words, generator=generator)
        ).softmax(-1)
        numbers = torch.rand(3, self.rows, self.slots + 1, generator=generator, dtype=torch.float64)
        lengths = torch.randint(self.slots + 1, (self.rows,), generator=generator)
        proposal = Proposal(sample(q, numbers[2, :, :-1]), lengths, q)
        target = Target(logits.round() if self.ties else logits, self.temperature)
        object.__setattr__(self, "inputs", (target, proposal, numbers[0], numbers[1]))


def real(proposal: Proposal) -> Tensor:
    return torch.arange(proposal.tokens.shape[1]) < proposal.lengths[:, None]


def first_slots(rule: AcceptanceRule, p: Tensor, q: Tensor, slots: int, seed: int = 1) -> Acceptance:
    """One round of ROWS rows with models that know no context."""
    numbers = torch.rand(
        3, ROWS, slots + 1, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )
    q_all = q.expand(ROWS, slots, -1)
    proposal = Proposal(sample(q_all, numbers[2, :, :-1]), torch.full((ROWS,), slots), q_all)
    return rule.accept(Target(p.log().expand(ROWS, slots + 1, -1), 1.0), proposal, numbers[0], numbers[1])
