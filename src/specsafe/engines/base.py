"""The engine contract: an arm is opened into a session, a session turns requests into samples."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from specsafe.errors import UserError

Top = tuple[tuple[int, float], ...]
Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Request:
    """One item to answer: the user's prompt, the id to which the sample is tied, and which of its samples it is.

    reply: an assistant's answer to the prompt that is there already. What the arm says is then about both, as its chat
    template asks for it: a guard's opens its verdict. An engine that cannot be asked so raises UserError.
    """

    item: str
    prompt: str
    replicate: int = 0
    reply: str | None = None


def refuse_reply(request: Request, engine: str) -> None:
    """Raise UserError for a request that an engine cannot be asked: one about an answer."""
    if request.reply is not None:
        raise UserError(f"{engine} cannot be asked about an answer", "use kind=native")


@dataclass(frozen=True, slots=True)
class Sample:
    """What an arm answered to an item.

    finish: "stop", "length", or "unknown" where a recording does not say why it ended. token_ids end with the end-of-text token where the answer stopped by itself.
    logprobs: natural logarithm per emitted token; None where the stack did not say (a speculative arm of
    llama.cpp reports exactly 0.0 for tokens that it did not score: missing, not certain). top: the most
    likely tokens per position with their log-probabilities. drafted, accepted: counts of draft tokens.
    accepted_at: rounds in which at least 1, 2, … draft tokens were accepted, of `rounds` rounds. letters:
    log-probabilities of the option letters as first token, where the stack told them. columns: telemetry, a value
    an emitted token (decoding.telemetry.COLUMNS), None where there was nothing to measure. seconds: decoding time as the engine measured it, prefill apart.
    proved: an audit showed that the arm would say this; nothing was decoded. failed_attempts: why a server had to be
    asked again, one reason an attempt.
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
    columns: dict[str, tuple[float | None, ...]] | None = None
    prompt_tokens: int | None = None
    prefill_seconds: float | None = None
    seconds: float | None = None
    proved: bool = False
    failed_attempts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Claim:
    """An answer to audit: is it what a target alone would have said to the prompt, greedily?

    finish: "stop" or "length". token_ids: in the target's vocabulary; None if they are not known.
    """

    item: str
    prompt: str
    text: str
    token_ids: tuple[int, ...] | None
    finish: str


@dataclass(frozen=True, slots=True)
class Audited:
    """What a target says of an answer.

    tokens: looked at, the end token included. retokenized: they were made from the text. fork: position of the first
    token that is not the target's own choice; None: the target alone would have said every one of them. gap, rank:
    as in decoding.verify.Fork. complete: there is no fork, and the target with its own limits would have ended there
    and so. logprobs, top, letters: as in Sample, along the answer. seconds: that the audit took.
    """

    item: str
    tokens: int
    retokenized: bool
    fork: int | None
    gap: float | None
    rank: int | None
    complete: bool
    logprobs: tuple[float, ...]
    top: tuple[Top, ...] | None
    letters: tuple[tuple[str, float], ...] | None
    prompt_tokens: int
    seconds: float


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
