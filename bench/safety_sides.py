"""What `bench/safety.py` lets run: methods in our loop, plain speculation in the same loop, with a clock on selection."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from specsafe.decoding.drafters import Clock, Draft
from specsafe.decoding.loop import Answer, Decider, Decoder, Prompt
from specsafe.decoding.records import Acceptance
from specsafe.decoding.rules import Agreement, make_rule
from specsafe.decoding.safety.methods import find
from specsafe.decoding.safety.steering import load_projection
from specsafe.decoding.stack import Stack
from specsafe.decoding.stopping import StopRule
from timing import pause, progress


class Endless(Stack):
    """A stack whose answers end at their limit alone, so that all sides say as much."""

    def stop_rule(self) -> StopRule:
        """The limit."""
        return StopRule(frozenset(), (), self.config["max_tokens"], lambda _: b"")


class Turn(NamedTuple):
    """One turn of one side. seconds: without prefill; selecting: of them, in decide(). rounds: of the whole batch.

    row_rounds: of all rows, added up. outputs: tokens of each answer.
    """

    seconds: float
    selecting: float
    rounds: int
    row_rounds: int
    outputs: list[tuple[int, ...]]

    @property
    def tokens(self) -> int:
        """Of all answers."""
        return sum(map(len, self.outputs))

    @property
    def round_ms(self) -> float:
        """Milliseconds of a round."""
        return 1000 * self.seconds / self.rounds

    @property
    def selecting_ms(self) -> float:
        """Milliseconds of selection in a round."""
        return 1000 * self.selecting / self.rounds

    @property
    def share(self) -> float:
        """Selection's share of the time."""
        return self.selecting / self.seconds

    @property
    def rate(self) -> float:
        """Tokens a second, without prefill."""
        return self.tokens / self.seconds

    @property
    def a_round(self) -> float:
        """Tokens a round of one row."""
        return self.tokens / self.row_rounds


Side = Callable[[Sequence[str]], Turn]


class Clocked:
    """A decider that knows how long it decided. On a CPU nothing is left to run when decide() returns."""

    def __init__(self, inner: Decider) -> None:
        self._inner, self.seconds = inner, 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def decide(self, logits: Tensor, draft: Draft, clock: Clock) -> Acceptance:
        """See Decider.decide."""
        started = time.perf_counter()
        decided = self._inner.decide(logits, draft, clock)
        self.seconds += time.perf_counter() - started
        return decided


def of_method(stack: Stack, name: str, steering: Path | None = None) -> Stack:
    """The stack under a method of the table; `self-draft` drafts with the target."""
    method = find(name)
    config = {**stack.config, "temperature": 1.0 if method.sampled else 0.0}
    draft, projection = stack.draft, None
    if method.draft == "self":
        config, draft = {**config, "draft": "self", "keep": ()}, stack.target
    rule = make_rule(method.rule) if method.rule else Agreement()
    found = replace(stack, method=method, rule=rule, config=config, draft=draft)
    if method.steering is not None and steering is not None:
        target, steered = found.steerable()
        projection = load_projection(steering, steered, target)
    return replace(found, projection=projection)


def plain(stack: Stack, drafted: int) -> Stack:
    """Plain speculative decoding: the greedy rule, the same draft, a bonus token where all drafts are right."""
    config = {**stack.config, "temperature": 0.0, "num_speculative_tokens": drafted}
    return replace(stack, method=None, rule=make_rule("greedy"), config=config)


def side(stack: Stack, batch: int, new: int) -> Side:
    """Answers of `new` tokens, `batch` at a time, each turn with caches of its own."""
    found = Endless(**{**vars(stack), "config": {**stack.config, "slots": batch, "max_tokens": new}})

    def run(texts: Sequence[str]) -> Turn:
        decoder = found.decoder()
        clock = Clocked(decoder._decider)
        decoder._decider = clock
        return _turn(decoder, clock, [found.prompt(str(n), text) for n, text in enumerate(texts)])

    return run


def _turn(decoder: Decoder, clock: Clocked, prompts: Sequence[Prompt]) -> Turn:
    started = time.perf_counter()
    answers = {int(a.item): a for a in decoder.generate(prompts) if isinstance(a, Answer)}
    seconds = time.perf_counter() - started - sum(a.prefill_seconds for a in answers.values())
    told = [answers[n] for n in range(len(prompts))]
    return Turn(
        seconds,
        clock.seconds,
        decoder.forwards,
        sum(a.rounds for a in told),
        [a.tokens for a in told],
    )


def in_turns(sides: dict[str, Side], texts: Sequence[str], repeats: int) -> dict[str, list[Turn]]:
    """Turns of each side, one after the other: a, b, …, a, b, …; after one answer of the first that is not counted."""
    turns: dict[str, list[Turn]] = {name: [] for name in sides}
    next(iter(sides.values()))(texts[:1])
    for repeat in range(1, repeats + 1):
        pause()
        for name, run in sides.items():
            turn = run(texts)
            told = f"{turn.round_ms:.1f} ms a round, {turn.selecting_ms:.2f} selection"
            progress(f"  {name}: {told} ({repeat} of {repeats})")
            turns[name].append(turn)
    return turns
