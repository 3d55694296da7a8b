"""Who proposes: a network, the prompt itself, a script. A drafter keeps a row a sequence, as the loop does.

`propose` gives up to `width` tokens for each row; rows that may take fewer say so in `room`. The loop then
tells by `commit` which tokens the answers really got.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

from specsafe.decoding.prefill import Look, read
from specsafe.decoding.randomness import Purpose, sample, uniforms
from specsafe.decoding.rules import Proposal
from specsafe.models.network import Network, Push

_ROWS = 64  # rows of logits at once
_T = TypeVar("_T")


class Draft(NamedTuple):
    """A proposal, and the drafter's logits [B, T, V] float32 where it has any."""

    proposal: Proposal
    logits: Tensor | None


class Clock(NamedTuple):
    """What random numbers are drawn by: keys int64 [B]; counters int64 [B, T+1] of the slots of a round."""

    keys: Tensor
    counters: Tensor


Guess = Callable[[Tensor, Tensor], Tensor]
"""Logits [B, V] and the answer positions [B] that they are for -> the logits to guess by."""


class Drafter(Protocol):
    """One proposer for all rows of a batch."""

    forwards: int
    """Forward passes so far."""
    cache_bytes: int
    """Memory of its cache."""

    def join(self, prompts: Sequence[Sequence[int]]) -> None:
        """New sequences, the last rows."""

    def propose(self, width: int, room: Sequence[int], clock: Clock) -> Draft:
        """Propose min(width, room[b]) tokens or fewer for each row b; width ≥ 1."""

    def commit(self, emitted: Sequence[Sequence[int]]) -> None:
        """The tokens that each row got in this round."""

    def drop(self, row: int) -> None:
        """A sequence is done; the last row takes its place."""


class Follower(Protocol):
    """What follows the target's hidden states, with whatever it keeps of each row."""

    def join(self, lengths: Sequence[int]) -> Look:
        """New rows; what is given back looks on while the target reads so many tokens of each."""

    def follow(self, hidden: Tensor, accepted: Tensor) -> None:
        """The states of a round [B, S, H], and how many drafts of each row were accepted, int64 [B]."""

    def drop(self, row: int) -> None:
        """A sequence is done; the last row takes its place."""


class NetworkDrafter:
    """Another network (or the same one, or its first layers) drafts one token a forward pass.

    sampled: draw from softmax(logits / temperature) and hand the distributions over; otherwise the most likely.
    vocabulary: the target's words; a draft with fewer or more rows is fitted to them (see `fitted`). guess: what is
    made of the logits before the most likely is taken; the logits that are handed over stay as they are. heard: a list
    that gets of every prompt the surprisal of its tokens after the first, float32 [n - 1] in nats; None where nobody
    listens. steer: gives what pushes all passes of a round; prompts are read without.
    """

    def __init__(
        self,
        network: Network,
        rows: int,
        capacity: int,
        device: torch.device,
        *,
        temperature: float,
        sampled: bool,
        vocabulary: int | None = None,
    ) -> None:
        self._network, self._device = network, device
        self._temperature, self._sampled = temperature, sampled
        self._vocabulary = vocabulary or network.vocabulary
        self.guess: Guess | None = None
        self.heard: list[Tensor] | None = None
        self.steer: Callable[[], Push] | None = None
        self._push: Push | None = None
        self._cache = network.new_cache(rows, capacity)
        self._unread: list[list[int]] = []  # committed tokens that the draft has not read yet, 1 or 2 a row
        self._context: list[int] = []  # committed tokens, a row each
        self.forwards, self.cache_bytes = 0, self._cache.bytes

    def join(self, prompts: Sequence[Sequence[int]]) -> None:
        """Read prompts but for their last tokens, which the first proposal starts from."""
        look = None if self.heard is None else partial(self._hear, prompts)
        if self.heard is not None:
            self.heard += [torch.empty(0, device=self._device)] * len(prompts)
        read(self._network, [p[:-1] for p in prompts], self._cache, look)
        self._unread.extend([p[-1]] for p in prompts)
        self._context.extend(map(len, prompts))

    def propose(self, width: int, room: Sequence[int], clock: Clock) -> Draft:
        """See Drafter.propose."""
        lengths = torch.tensor([min(width, r) for r in room], device=self._device)
        self._push = self.steer() if self.steer else None
        tokens: list[Tensor] = []
        logits: list[Tensor] = []
        q: list[Tensor] = []
        for step in range(width):
            scores = fitted(self._first() if step == 0 else self._next(tokens[-1]), self._vocabulary)
            logits.append(scores)
            if self.guess is not None:
                tokens.append(self.guess(scores, clock.counters[:, step]).argmax(-1))
                continue
            if self._sampled:
                q.append(torch.softmax(scores / self._temperature, -1))
                u = uniforms(clock.keys, clock.counters[:, step], Purpose.DRAFT).to(scores.device)
                tokens.append(sample(q[-1], u))
            else:
                tokens.append(scores.argmax(-1))
        home = self._device
        proposal = Proposal(
            torch.stack(tokens, 1).to(home), lengths, torch.stack(q, 1).to(home) if q else None
        )
        return Draft(proposal, torch.stack(logits, 1).to(home))

    def commit(self, emitted: Sequence[Sequence[int]]) -> None:
        """Keep what was read and accepted, remember what was not read."""
        read_before = self._cache.lengths
        kept = []
        for row, tokens in enumerate(emitted):
            known = [*self._unread[row], *tokens]
            start = self._context[row] - len(self._unread[row])  # read before this round
            self._context[row] += len(tokens)
            # the last emitted token was never drafted: it is always among the unread
            kept.append(min(read_before[row], self._context[row] - 1))
            self._unread[row] = known[kept[row] - start :]
        self._cache.truncate(kept)

    def drop(self, row: int) -> None:
        """See Drafter.drop."""
        self._cache.drop_row(row)
        replace_by_last(self._unread, row)
        replace_by_last(self._context, row)

    def _hear(self, prompts: Sequence[Sequence[int]], first: int, start: int, hidden: Tensor) -> None:
        """Note the surprisals of the tokens that follow what was just read; see Look."""
        if self.heard is None:
            return
        new = self.heard[-len(prompts) :]
        for row, states in enumerate(hidden, first):
            said = prompts[row][start + 1 : start + 1 + hidden.shape[1]]
            for part in range(0, len(said), _ROWS):
                tokens = torch.tensor(said[part : part + _ROWS], device=states.device)
                logits = self._network.logits(states[part : part + len(tokens)])
                nats = torch.nn.functional.cross_entropy(logits, tokens, reduction="none")
                new[row] = torch.cat([new[row], nats.to(self._device)])
        self.heard[-len(prompts) :] = new

    def _first(self) -> Tensor:
        """Read what was committed since: one or two tokens a row, the shorter rows padded on the right."""
        counts = [len(t) for t in self._unread]
        width = max(counts)
        padded = [t + [t[-1]] * (width - len(t)) for t in self._unread]
        before = self._cache.lengths.copy()
        hidden = self._forward(torch.tensor(padded, device=self._network.device))
        self._cache.truncate([n + c for n, c in zip(before, counts, strict=True)])
        last = torch.tensor(counts, device=hidden.device) - 1
        return self._network.logits(hidden[torch.arange(len(counts), device=hidden.device), last])

    def _next(self, tokens: Tensor) -> Tensor:
        return self._network.logits(self._forward(tokens[:, None])[:, 0])

    def _forward(self, tokens: Tensor) -> Tensor:
        self.forwards += 1
        # a padding row that only the target has says nothing to the draft; what follows is a guess like any other
        known = tokens.where(tokens < self._network.vocabulary, 0)
        if self._push is None:
            return self._network.forward(known, self._cache)
        return self._network.forward(known, self._cache, push=self._push)


class LookupDrafter:
    """Prompt lookup: what followed the last occurrence of the newest n-gram (Saxena 2023; n from `longest` down)."""

    def __init__(self, device: torch.device, longest: int = 3) -> None:
        self._device, self._longest = device, longest
        self._contexts: list[list[int]] = []
        self.forwards = self.cache_bytes = 0

    def join(self, prompts: Sequence[Sequence[int]]) -> None:
        """See Drafter.join."""
        self._contexts.extend(map(list, prompts))

    def propose(self, width: int, room: Sequence[int], clock: Clock) -> Draft:
        """See Drafter.propose."""
        found = [self.lookup(c, min(width, r)) for c, r in zip(self._contexts, room, strict=True)]
        return Draft(_padded(found, self._device), None)

    def lookup(self, context: Sequence[int], count: int) -> list[int]:
        """Up to `count` tokens that followed the latest earlier occurrence of the longest matching suffix."""
        for size in range(min(self._longest, len(context) - 1), 0, -1):
            suffix = context[-size:]
            for start in range(len(context) - size - 1, -1, -1):
                if context[start : start + size] == suffix:
                    return list(context[start + size : start + size + count])
        return []

    def commit(self, emitted: Sequence[Sequence[int]]) -> None:
        """See Drafter.commit."""
        for context, tokens in zip(self._contexts, emitted, strict=True):
            context.extend(tokens)

    def drop(self, row: int) -> None:
        """See Drafter.drop."""
        replace_by_last(self._contexts, row)


class ScriptedDrafter:
    """Proposes the tokens of a script, each at its own place in the answer; after its end, nothing.

    How hard a draft pulls is then set by hand, without training.
    """

    def __init__(self, device: torch.device, script: Sequence[int]) -> None:
        self._device, self._script = device, list(script)
        self._done: list[int] = []
        self.forwards = self.cache_bytes = 0

    def join(self, prompts: Sequence[Sequence[int]]) -> None:
        """See Drafter.join."""
        self._done.extend([0] * len(prompts))

    def propose(self, width: int, room: Sequence[int], clock: Clock) -> Draft:
        """See Drafter.propose."""
        tokens = [self._script[n : n + min(width, r)] for n, r in zip(self._done, room, strict=True)]
        return Draft(_padded(tokens, self._device), None)

    def commit(self, emitted: Sequence[Sequence[int]]) -> None:
        """See Drafter.commit."""
        self._done = [n + len(tokens) for n, tokens in zip(self._done, emitted, strict=True)]

    def drop(self, row: int) -> None:
        """See Drafter.drop."""
        replace_by_last(self._done, row)


def fitted(logits: Tensor, vocabulary: int) -> Tensor:
    """Logits [B, V'] as [B, vocabulary]: words that a model lacks are impossible, words that the other lacks are cut.

    The softmax of the result is the distribution over the shared words. Models of one family differ by padding rows
    alone: `same_vocabulary` has made sure of that.
    """
    missing = vocabulary - logits.shape[-1]
    return logits if not missing else torch.nn.functional.pad(logits, (0, missing), value=-torch.inf)


def replace_by_last(rows: list[_T], row: int) -> None:
    """Drop one entry as a cache drops a row: the last one takes its place."""
    last = rows.pop()
    if row < len(rows):
        rows[row] = last


def _padded(tokens: Sequence[Sequence[int]], device: torch.device) -> Proposal:
    width = max(map(len, tokens), default=0)
    full = [[*t, *[0] * (width - len(t))] for t in tokens]
    return Proposal(
        torch.tensor(full, dtype=torch.int64, device=device).view(len(tokens), width),
        torch.tensor([len(t) for t in tokens], device=device),
    )
