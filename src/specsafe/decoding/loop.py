"""The loop of speculative decoding: propose -> score -> accept -> commit, over a ragged batch.

    draft d_0 … d_{T-1}  (T draft forwards)          propose
    p_0 … p_T = target([last, d_0 … d_{T-1}])        score: one target forward
    k, y = rule(p, d)                                accept
    emit d_0 … d_{k-1}, y                            commit: caches keep what was emitted, no more

Target-only decoding is the same loop with T = 0. The prompt's last token is read in the first round, so the
first token of an answer is drafted like any other.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from specsafe.decoding.drafters import Clock, Draft, Drafter, Follower, replace_by_last
from specsafe.decoding.prefill import read
from specsafe.decoding.randomness import Purpose, slot_positions, stream_key, uniforms
from specsafe.decoding.rules import Acceptance, AcceptanceRule, Proposal, Target
from specsafe.decoding.stopping import Emitted, Finish, StopRule
from specsafe.decoding.telemetry import COLUMNS, Round, collect
from specsafe.models.network import Network


@dataclass(frozen=True)
class Plan:
    """How a batch is decoded.

    drafted: tokens drafted a round (num_speculative_tokens); 0 is target-only. temperature: 0 is greedy. slots:
    sequences in flight. capacity: tokens of prompt and answer. width: rows a sequence of each target forward at
    least (the exact width of a verification without its tokens). top: log-probabilities told a position. watch:
    tokens whose log-probability at the first position is told. telemetry: the columns of telemetry.COLUMNS.
    """

    rule: AcceptanceRule
    stop: StopRule
    drafted: int = 0
    temperature: float = 0.0
    seed: int = 0
    slots: int = 1
    capacity: int = 1024
    width: int = 0
    top: int = 0
    watch: tuple[int, ...] = ()
    telemetry: bool = False


@dataclass(frozen=True)
class Prompt:
    """One sequence to continue; tokens: at least one.

    draft_tokens: what the draft reads instead (its own system prompt, its own template). user: where in what the
    draft reads the user's words stand, from and up to.
    """

    item: str
    tokens: tuple[int, ...]
    replicate: int = 0
    draft_tokens: tuple[int, ...] | None = None
    user: tuple[int, int] | None = None

    @property
    def read_by_draft(self) -> tuple[int, ...]:
        """The tokens of the draft's prompt."""
        return self.tokens if self.draft_tokens is None else self.draft_tokens


@dataclass(frozen=True)
class Answer:
    """One finished sequence; counts and columns as in engines.base.Sample. logprobs are the target's, temperature 1."""

    item: str
    tokens: tuple[int, ...]
    finish: Finish
    logprobs: tuple[float, ...]
    top: tuple[tuple[tuple[int, float], ...], ...]
    watched: tuple[float, ...]
    drafted: int
    accepted: int
    rounds: int
    accepted_at: tuple[int, ...]
    columns: dict[str, tuple[float, ...]]
    prompt_tokens: int
    prefill_seconds: float
    seconds: float


@dataclass(frozen=True)
class Stopped:
    """A sequence that could not go on, and why."""

    item: str
    reason: str


@dataclass
class _Row:
    """One sequence in flight."""

    prompt: Prompt
    key: int
    emitted: Emitted
    prefill_seconds: float
    began: float
    logprobs: list[float] = field(default_factory=list)
    top: list[tuple[tuple[int, float], ...]] = field(default_factory=list)
    watched: tuple[float, ...] = ()
    rounds: int = 0
    drafted: int = 0
    accepted: int = 0
    accepted_at: list[int] = field(default_factory=list)
    columns: list[list[float]] = field(default_factory=list)
    broken: bool = False

    @property
    def last(self) -> int:
        return self.emitted.tokens[-1] if self.emitted.tokens else self.prompt.tokens[-1]

    @property
    def read(self) -> int:
        """Tokens that the target has read: all but the last."""
        return len(self.prompt.tokens) + len(self.emitted.tokens) - 1


class Decider(Protocol):
    """What decides on proposals, with whatever it remembers of each row.

    bonus: after all draft tokens it has a token of its own, so the target reads one row more than was drafted.
    looks_ahead: see AcceptanceRule. columns: names of what it tells of each slot under telemetry.
    """

    bonus: bool
    looks_ahead: bool
    columns: tuple[str, ...]

    def join(self, prompts: Sequence[Prompt]) -> None:
        """New sequences, the last rows."""

    def decide(self, logits: Tensor, draft: Draft, clock: Clock) -> Acceptance:
        """Decide on a proposal; logits: float32 [B, S, V] of the target."""

    def drop(self, row: int) -> None:
        """A sequence is done; the last row takes its place."""


class RuleDecider:
    """An acceptance rule, which remembers nothing."""

    bonus = True
    columns: tuple[str, ...] = ()

    def __init__(self, rule: AcceptanceRule, temperature: float) -> None:
        self._rule, self._temperature = rule, temperature
        self.looks_ahead = rule.looks_ahead

    def join(self, prompts: Sequence[Prompt]) -> None:
        """See Decider.join."""

    def decide(self, logits: Tensor, draft: Draft, clock: Clock) -> Acceptance:
        """See Decider.decide."""
        slots = clock.counters[:, : logits.shape[1]]
        return self._rule.accept(
            Target(logits, self._temperature),
            draft.proposal,
            uniforms(clock.keys, slots, Purpose.ACCEPT),
            uniforms(clock.keys, slots, Purpose.TOKEN),
        )

    def drop(self, row: int) -> None:
        """See Decider.drop."""


class Decoder:
    """A target, a drafter and a plan; `generate` turns prompts into answers.

    decider: what decides on proposals, by default the rule of the plan. follower: what follows the target.
    """

    def __init__(
        self,
        target: Network,
        drafter: Drafter | None,
        plan: Plan,
        decider: Decider | None = None,
        follower: Follower | None = None,
    ) -> None:
        self._target, self._drafter, self._plan, self._follower = target, drafter, plan, follower
        self._decider = decider or RuleDecider(plan.rule, plan.temperature)
        self._cache = target.new_cache(plan.slots, plan.capacity + max(plan.drafted + 1, plan.width))
        self._rows: list[_Row] = []
        self._watch = torch.tensor(plan.watch, dtype=torch.int64, device=target.device)
        self.forwards = 0

    @property
    def drafts(self) -> bool:
        """Whether anything is drafted."""
        return self._drafter is not None

    @property
    def cache_bytes(self) -> int:
        """Memory of the caches of target and draft."""
        return self._cache.bytes + (self._drafter.cache_bytes if self._drafter else 0)

    def generate(self, prompts: Iterable[Prompt]) -> Iterator[Answer | Stopped]:
        """Answers in order of completion; a new sequence joins as soon as one leaves."""
        source = iter(prompts)
        return self.run(lambda _: next(source, None))

    @torch.inference_mode()
    def run(self, take: Callable[[bool], Prompt | None]) -> Iterator[Answer | Stopped]:
        """As generate; take(wait) gives the next prompt, or None: none now, or with wait none ever again."""
        while True:
            new: list[Prompt] = []
            while len(self._rows) + len(new) < self._plan.slots:
                prompt = take(not self._rows and not new)
                if prompt is None:
                    break
                refused = self._refused(prompt)
                if refused is None:
                    new.append(prompt)
                else:
                    yield refused
            if new:
                self._join(new)
            if not self._rows:
                return
            self._round()
            yield from self._leave()

    def _refused(self, prompt: Prompt) -> Stopped | None:
        """Why a sequence cannot be decoded; None if it can."""
        plan = self._plan
        if not prompt.tokens or not prompt.read_by_draft:
            return Stopped(prompt.item, "the prompt has no token")
        longest = max(len(prompt.tokens), len(prompt.read_by_draft))
        if longest + plan.stop.limit > plan.capacity:
            return Stopped(
                prompt.item,
                f"{longest} prompt tokens and {plan.stop.limit} of answer pass the context of {plan.capacity}",
            )
        return None

    def _join(self, new: Sequence[Prompt]) -> None:
        """Prefill new sequences; each is told its share of the time, by its tokens."""
        plan, start = self._plan, time.perf_counter()
        texts = [p.tokens[:-1] for p in new]
        look = None if self._follower is None else self._follower.join([len(t) for t in texts])
        read(self._target, texts, self._cache, look)
        if self._drafter is not None:
            self._drafter.join([p.read_by_draft for p in new])
        self._decider.join(new)
        now = time.perf_counter()
        each = (now - start) / sum(len(p.tokens) for p in new)
        for prompt in new:
            key = stream_key(plan.seed, prompt.item, prompt.replicate)
            seconds = each * len(prompt.tokens)
            self._rows.append(
                _Row(prompt, key, Emitted(plan.stop), seconds, now, accepted_at=[0] * plan.drafted)
            )

    def _round(self) -> None:
        plan = self._plan
        done = torch.tensor([len(r.emitted.tokens) for r in self._rows])
        counters = slot_positions(done, plan.drafted + 1, fresh=self._decider.looks_ahead)
        clock = Clock(torch.tensor([r.key for r in self._rows]), counters.to(self._target.device))
        clock = Clock(clock.keys.to(self._target.device), clock.counters)
        draft = self._propose(clock)
        hidden, logits = self._score(draft.proposal.tokens)
        acceptance = self._decider.decide(logits, draft, clock)
        if self._follower is not None:
            self._follower.follow(hidden, acceptance.accepted)
        outcome = collect(
            logits, draft, acceptance, top=plan.top, watch=self._watch, telemetry=plan.telemetry
        )
        self._commit(outcome)

    def _propose(self, clock: Clock) -> Draft:
        """What the drafter says; where a bonus follows, an answer that may have one more token gets no draft."""
        bonus = self._decider.bonus
        room = [min(self._plan.drafted, r.emitted.left - bonus) for r in self._rows]
        if self._drafter is None or not any(room):
            rows, home = len(self._rows), self._target.device
            none = torch.zeros((rows, 0), dtype=torch.int64, device=home)
            return Draft(Proposal(none, torch.zeros(rows, dtype=torch.int64, device=home)), None)
        return self._drafter.propose(max(room), room, clock)

    def _score(self, drafts: Tensor) -> tuple[Tensor, Tensor]:
        """One target forward over the last tokens and the drafts [B, T] -> hidden states, logits [B, S, …].

        S = T + 1 with a bonus.
        """
        last = torch.tensor([[r.last] for r in self._rows], device=self._target.device)
        tokens = torch.cat([last, drafts if self._decider.bonus else drafts[:, :-1]], 1)
        rows, width = tokens.shape
        if width < self._plan.width:
            tokens = torch.cat([tokens, last.expand(rows, self._plan.width - width)], 1)
        hidden = self._target.forward(tokens, self._cache)[:, :width]
        self.forwards += 1
        return hidden, self._target.logits(hidden.reshape(rows * width, -1)).view(rows, width, -1)

    def _commit(self, outcome: Round) -> None:
        emitted = [self._take(row, index, outcome) for index, row in enumerate(self._rows)]
        self._cache.truncate([row.read for row in self._rows])
        if self._cache.lengths != [row.read for row in self._rows]:
            raise RuntimeError(
                f"cache of {self._cache.lengths} tokens, contexts of {[r.read for r in self._rows]}"
            )
        if self._drafter is not None:
            self._drafter.commit(emitted)

    def _take(self, row: _Row, index: int, outcome: Round) -> list[int]:
        """The tokens of one row, until its answer is complete."""
        accepted = outcome.accepted[index]
        tokens = outcome.drafts[index][:accepted]
        if self._decider.bonus or accepted < outcome.lengths[index]:
            tokens = [*tokens, outcome.token[index]]
        if not all(outcome.finite[index][: len(tokens)]):
            row.broken = True
            return []
        if not row.rounds:
            row.watched = tuple(outcome.watched[index])
        row.rounds += 1
        for slot, token in enumerate(tokens):
            complete = row.emitted.push(token)
            row.logprobs.append(outcome.logprob[index][slot])
            if outcome.top:
                row.top.append(tuple(outcome.top[index][slot]))
            if outcome.measured:
                self._note(row, slot, slot < accepted, outcome.measured[index][slot])
            if complete:
                tokens = tokens[: slot + 1]
                break
        # drafts past the end of an answer could not be accepted: they are no evidence of anything
        row.drafted += (
            min(outcome.lengths[index], len(tokens)) if row.emitted.finish else outcome.lengths[index]
        )
        kept = min(accepted, len(tokens))
        row.accepted += kept
        for slot in range(kept):
            row.accepted_at[slot] += 1
        return tokens

    def _note(self, row: _Row, slot: int, accepted: bool, measured: Sequence[float]) -> None:
        drafts = self._drafter.forwards if self._drafter else 0
        row.columns.append([row.rounds, slot, accepted, self.forwards, drafts, *measured])

    def _leave(self) -> Iterator[Answer | Stopped]:
        """Answers that are complete; their rows are free."""
        for index in reversed(range(len(self._rows))):
            row = self._rows[index]
            if row.broken or row.emitted.finish is not None:
                self._cache.drop_row(index)
                self._decider.drop(index)
                if self._follower is not None:
                    self._follower.drop(index)
                if self._drafter is not None:
                    self._drafter.drop(index)
                replace_by_last(self._rows, index)
                yield _finished(row, (*COLUMNS, *self._decider.columns))


def _finished(row: _Row, columns: Sequence[str]) -> Answer | Stopped:
    emitted = row.emitted
    if row.broken or emitted.finish is None:
        return Stopped(
            row.prompt.item,
            f"the logits after {len(emitted.tokens)} tokens are not numbers (NaN or infinite)",
        )
    return Answer(
        item=row.prompt.item,
        tokens=tuple(emitted.tokens),
        finish=emitted.finish,
        logprobs=tuple(row.logprobs),
        top=tuple(row.top),
        watched=row.watched,
        drafted=row.drafted,
        accepted=row.accepted,
        rounds=row.rounds,
        accepted_at=tuple(row.accepted_at),
        columns=dict(zip(columns, zip(*row.columns, strict=True), strict=True)) if row.columns else {},
        prompt_tokens=len(row.prompt.tokens),
        prefill_seconds=row.prefill_seconds,
        seconds=time.perf_counter() - row.began,
    )
