"""Audit by prefill: what one forward pass of a served target over prompt and answer says of the answer.

The stack is asked for the log-probability and the rank of each given token, and for nothing else; only where a rank is
above 1 it is asked again, with the likeliest tokens beside, for the gap. Requests are made by a Reader; what is decided
from their replies is decided here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import NamedTuple, Protocol

from specsafe.decoding.stopping import cut
from specsafe.engines.base import Audited, Claim, Failure

TOGETHER = 64  # answers between two results: what a killed audit may lose
_BROKEN = "\N{REPLACEMENT CHARACTER}"  # what cut characters decode to


class Unfit(Exception):  # noqa: N818  nobody's fault
    """An answer that cannot be audited; the message is the reason."""


class Reading(NamedTuple):
    """A claim as the target's tokenizer reads it.

    prompt: token ids of the prompt. spelled: text of the claim's ids, None where it has none; but_last: of all but the
    last of them. again: token ids of the claim's text, empty where its own do; respelled: text of those. room: the most
    tokens that the target takes, None where it does not say.
    """

    prompt: tuple[int, ...]
    spelled: str | None
    but_last: str | None
    again: tuple[int, ...]
    respelled: str
    room: int | None


class Taken(NamedTuple):
    """The tokens that an answer is taken to have. unended: the end token that followed is not among them."""

    tokens: tuple[int, ...]
    retokenized: bool
    unended: bool


class Question(NamedTuple):
    """Tokens to read; those from `first` on are looked at. best: whether the likeliest other token is asked for too."""

    tokens: tuple[int, ...]
    first: int
    best: bool = False


class Given(NamedTuple):
    """What the target says of one given token.

    rank: 1 is its own choice; of equal log-probabilities all have the rank of the last. best: the most likely of the
    other tokens and its log-probability, where that was asked for.
    """

    token: int
    logprob: float
    rank: int
    best: tuple[int, float] | None = None


class Look(NamedTuple):
    """The given tokens, and what the target would say after the last of them: does it end there? seconds: it took."""

    given: tuple[Given, ...]
    ends: bool
    seconds: float


class Fork(NamedTuple):
    """The first token that is not the target's own choice; see decoding.verify.Fork."""

    position: int
    gap: float
    rank: int


class Limits(NamedTuple):
    """Of the target arm: stop strings, and the most tokens of an answer."""

    stops: tuple[str, ...]
    max_tokens: int


class Reader(Protocol):
    """Who asks the target. Answers are keyed by item; an item that cannot be asked has a failure."""

    def read(self, claims: Sequence[Claim], stops: Sequence[str]) -> Mapping[str, Reading | Failure]:
        """Tokenize prompts and answers."""

    def look(self, questions: Mapping[str, Question]) -> Mapping[str, Look | Failure]:
        """One prefill each."""

    def ends(self) -> tuple[int, ...]:
        """Token ids that end an answer, as far as they are known."""


def audit(reader: Reader, claims: Iterable[Claim], limits: Limits) -> Iterator[Audited | Failure]:
    """Audit answers, TOGETHER at a time; one result a claim, in any order."""
    left = iter(claims)
    while some := tuple(islice(left, TOGETHER)):
        yield from _audit(reader, some, limits)


def _audit(reader: Reader, claims: Sequence[Claim], limits: Limits) -> Iterator[Audited | Failure]:
    taken: dict[str, tuple[Claim, Taken, Reading]] = {}
    readings = reader.read(claims, limits.stops)
    for claim in claims:
        reading = readings[claim.item]
        try:
            if isinstance(reading, Failure):
                yield reading
            else:
                taken[claim.item] = claim, take(claim, reading, limits.stops), reading
        except Unfit as error:
            yield Failure(claim.item, str(error), 1)
    asked = {i: Question(r.prompt + t.tokens, len(r.prompt)) for i, (_, t, r) in taken.items()}
    looks = dict(reader.look(asked))
    looks |= reader.look({i: asked[i]._replace(best=True) for i, k in looks.items() if _has_fork(k)})
    for item, (claim, tokens, reading) in taken.items():
        yield _found(reader, claim, tokens, reading, looks[item], limits)


def _has_fork(look: Look | Failure) -> bool:
    return isinstance(look, Look) and any(g.rank > 1 for g in look.given)


def _found(
    reader: Reader, claim: Claim, taken: Taken, reading: Reading, look: Look | Failure, limits: Limits
) -> Audited | Failure:
    """What is said of one answer; the end that it does not hold is asked for, if it comes to that."""
    if isinstance(look, Failure):
        return look
    given, seconds = look.given, look.seconds
    fork = first_fork(given)
    if fork is None and taken.unended and not look.ends:
        end = _end(reader, claim.item, Question(reading.prompt + taken.tokens, len(reading.prompt), True))
        if isinstance(end, Failure):
            return end
        given, seconds = (*given, end.given[-1]), seconds + end.seconds
        fork = first_fork(given)
    ended = claim.finish == "stop" or len(taken.tokens) >= limits.max_tokens
    return Audited(
        item=claim.item,
        tokens=len(taken.tokens) + taken.unended,
        retokenized=taken.retokenized,
        fork=fork.position if fork else None,
        gap=fork.gap if fork else None,
        rank=fork.rank if fork else None,
        complete=fork is None and ended,
        logprobs=tuple(g.logprob for g in given),
        top=None,
        letters=None,
        prompt_tokens=len(reading.prompt),
        seconds=seconds,
    )


def _end(reader: Reader, item: str, asked: Question) -> Look | Failure:
    """The likeliest end token in the place where the answer ended and the target would go on."""
    looks = [reader.look({item: asked._replace(tokens=(*asked.tokens, end))})[item] for end in reader.ends()]
    if not looks:
        return Failure(item, "the target would go on where the answer ends, and no end token is known", 1)
    failed = next((k for k in looks if isinstance(k, Failure)), None)
    return failed or max((k for k in looks if isinstance(k, Look)), key=lambda k: k.given[-1].logprob)


def take(claim: Claim, reading: Reading, stops: Sequence[str]) -> Taken:
    """The tokens of an answer: its own where they spell its text, otherwise those of the text. Raises Unfit."""
    own = tuple(claim.token_ids or ())
    if not own and not claim.text:
        raise Unfit("nothing to audit: the answer is empty and has no tokens")
    if not reading.prompt:
        raise Unfit("the prompt has no token")
    taken = take_own(claim, reading.spelled, reading.but_last, stops)
    if taken is None:
        if not reading.again or reading.respelled != claim.text:
            raise Unfit("the target's tokenizer cannot spell its text")
        # where stop strings are in force, the text does not say whether one of them ended it
        taken = Taken(reading.again, True, claim.finish == "stop" and not stops)
    needed = len(reading.prompt) + len(taken.tokens) + 1  # the pass says a token of its own
    if reading.room is not None and needed > reading.room:
        raise Unfit(
            f"{len(reading.prompt)} prompt tokens and {len(taken.tokens)} of answer pass the context of {reading.room}"
        )
    return taken


def take_own(claim: Claim, spelled: str | None, but_last: str | None, stops: Sequence[str]) -> Taken | None:
    """The answer's own tokens, if they spell its text; None if they do not, or there are none.

    An end token may spell nothing or its name: an answer that stopped is compared without its last token first.
    """
    own, text = tuple(claim.token_ids or ()), claim.text
    if not own or spelled is None:
        return None
    stopped = claim.finish == "stop"
    for end in ("", _BROKEN):  # what is left of a cut character stands in some texts and not in others
        if stopped and but_last is not None and but_last.rstrip(end) == text.rstrip(end):
            return Taken(own, False, False)
        if spelled.rstrip(end) == text.rstrip(end):
            return Taken(own, False, stopped and not stops)
    if stopped and text in (cut(spelled, stops), cut(but_last or "", stops)):
        return Taken(own, False, False)
    return None


def first_fork(given: Sequence[Given]) -> Fork | None:
    """The first token that the target would not have chosen. Raises ValueError where the gap was not asked for."""
    for position, one in enumerate(given):
        if one.rank == 1:
            continue
        if one.best is None:
            raise ValueError("a rank above 1 needs the most likely token beside it")
        gap = one.best[1] - one.logprob
        # of two equally likely tokens the lower id is chosen; with a third one nobody tells which that is
        if not (gap == 0 and one.rank == 2 and one.token < one.best[0]):
            return Fork(position, max(gap, 0.0), one.rank - 1)
    return None


def require_numbers(given: Sequence[Given]) -> None:
    """Raises Unfit for log-probabilities that are not numbers."""
    sick = next((n for n, g in enumerate(given) if not math.isfinite(g.logprob)), None)
    if sick is not None:
        raise Unfit(f"the logits after {sick} tokens are not numbers (NaN or infinite)")
