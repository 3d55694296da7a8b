"""The published loop of SSD and SSD-CRS, slow as it is: one prompt, no cache, whole vocabularies sorted, Python sets.

Written by us from the description of the algorithm, as a reference for `bench/safety.py`: T draft passes and one target
pass over whole contexts a round, logits of all their positions; both distributions sorted whole on the CPU for every
token; k grows by one, each time with new sets, until c tokens are shared; scores as Python numbers.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from specsafe.models.network import LlamaNetwork

C, DRAFTED = 10, 3
_LEAST = -100.0


class Loop(NamedTuple):
    """What came out. selecting: seconds of `seconds` in which tokens were chosen and scored."""

    tokens: list[int]
    rounds: int
    seconds: float
    selecting: float


class Controller(Protocol):
    """mode: 0 intersection, 1 union; alphas of both."""

    mode: int
    alphas: list[float]

    def heard(self, p: Tensor, q: Tensor, matched: bool) -> None:
        """A token was chosen."""


class Bins:
    """SSD: every 7 tokens, union if fewer than theta of them matched; both alphas as published for Llama-2."""

    def __init__(self) -> None:
        self.mode, self.alphas, self._theta = 0, [0.3, 0.8], 0.6
        self._log: list[bool] = []

    def heard(self, p: Tensor, q: Tensor, matched: bool) -> None:
        """See Controller.heard."""
        self._log.append(matched)
        if len(self._log) % 7:
            return
        new = int(sum(self._log[-7:]) / 7 < self._theta)
        self._theta = max(self._theta - 0.1, 0.0) if new == self.mode else 0.6
        self._theta = 0.0 if self._theta <= 1e-10 else self._theta
        self.mode = new  # the alpha of intersection begins at its floor: nothing anneals


class Scores:
    """SSD-CRS: union from the next token on if the mean of the last three scores is above 0.2."""

    def __init__(self, openings: Sequence[int]) -> None:
        self.mode, self.alphas, self._openings = 0, [0.5, 0.5], list(openings)
        self._window: deque[float] = deque(maxlen=3)

    def heard(self, p: Tensor, q: Tensor, matched: bool) -> None:
        """See Controller.heard."""
        logp, logq = p.log().clamp(min=_LEAST), q.log().clamp(min=_LEAST)
        kl = float((q * (logq - logp)).sum())
        gap = float(-(p * logp).sum() + (q * logq).sum())
        score = 0.3 * (1 - matched) + 0.3 * (1 - math.exp(-max(kl, 0.0) / 2))
        score += 0.1 * max(gap, 0.0) / math.log(len(p)) + 0.3 * float(q[self._openings].sum())
        self._window.append(score)
        self.mode = int(sum(self._window) / len(self._window) > 0.2)


@torch.inference_mode()
def decode(
    target: LlamaNetwork,
    draft: LlamaNetwork,
    prompt: Sequence[int],
    draft_prompt: Sequence[int],
    controller: Controller,
    limit: int,
) -> Loop:
    """Continue one prompt by `limit` tokens."""
    said: list[int] = []
    rounds, selecting, started = 0, 0.0, time.perf_counter()
    while len(said) < limit:
        rounds += 1
        guesses: list[int] = []
        theirs: list[Tensor] = []
        for _ in range(DRAFTED):
            theirs.append(distributions(draft, [*draft_prompt, *said, *guesses])[-1])
            guesses.append(int(theirs[-1].argmax()))
        ours = distributions(target, [*prompt, *said, *guesses[:-1]])[-DRAFTED:]
        for p, q, guess in zip(ours, theirs, guesses, strict=True):
            began = time.perf_counter()
            token = selected(p, q, controller)
            controller.heard(p, q, token == guess)
            selecting += time.perf_counter() - began
            said.append(token)
            if token != guess or len(said) == limit:
                break
    return Loop(said, rounds, time.perf_counter() - started, selecting)


def distributions(network: LlamaNetwork, tokens: Sequence[int]) -> Tensor:
    """The softmax at all positions [n, V], read anew."""
    cache = network.new_cache(1, len(tokens))
    cache.add_row()
    hidden = network.forward(torch.tensor([list(tokens)], device=network.device), cache)[0]
    return torch.softmax(network.logits(hidden).float(), -1).cpu()


def selected(p: Tensor, q: Tensor, controller: Controller) -> int:
    """The token of one position; p, q: [V]."""
    ours, theirs = (torch.argsort(x, descending=True, stable=True) for x in (p, q))
    if controller.mode == 1:
        inside = set(ours[:C].tolist()) | set(theirs[:C].tolist())
    else:
        k = C
        while len(inside := set(ours[:k].tolist()) & set(theirs[:k].tolist())) < C:
            k += 1
        if int(p.argmax()) not in inside:
            return int(p.argmax())
    alpha = controller.alphas[controller.mode]
    return max(inside, key=lambda v: float(p[v]) + alpha * (float(q[v]) - float(p[v])))
