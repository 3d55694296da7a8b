"""The engine contract: an arm is opened into a session, a session turns requests into samples."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

Top = tuple[tuple[int, float], ...]
Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Request:
    """One item to answer: the user's prompt, and the id to which the sample is tied."""

    item: str
    prompt: str


@dataclass(frozen=True, slots=True)
class Sample:
    """What an arm answered to an item.

    finish: "stop" or "length". token_ids end with the end-of-text token where the answer stopped by itself.
    logprobs: natural logarithm per emitted token; None where the stack did not say (a speculative arm of
    llama.cpp reports exactly 0.0 for tokens that it did not score: missing, not certain). top: the most
    likely tokens per position with their log-probabilities. drafted, accepted: counts of draft tokens.
    accepted_at: rounds in which at least 1, 2, … draft tokens were accepted, of `rounds` rounds. letters:
    log-probabilities of the option letters among the most likely first tokens. seconds: decoding time as the engine measured it, prefill apart.
    """

    item: str
    text: str
    finish: str
    token_ids: tuple[int, ...] | None = None
    logprobs: tuple[float | None, ...] | None = None
    top: tuple[Top, ...] | None = None
    drafted: int | None = None
    accepted: int | None = None
    rounds: int | None = None
    accepted_at: tuple[int, ...] | None = None
    letters: tuple[tuple[str, float], ...] | None = None
    prompt_tokens: int | None = None
    prefill_seconds: float | None = None
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Failure:
    """An item that an arm could not answer: kept, counted and named, never dropped. tries: attempts made."""

    item: str
    reason: str
    tries: int


class Session(Protocol):
    """One open arm. `generate` yields a sample or a failure for each request, in any order."""

    def fingerprint(self) -> Json:
        """What really runs: versions, hashes, rule, threads, slots."""

    def generate(self, requests: Iterable[Request]) -> Iterator[Sample | Failure]:
        """Answer the requests."""

    def close(self) -> None:
        """Free what the session holds; closing twice is fine."""
