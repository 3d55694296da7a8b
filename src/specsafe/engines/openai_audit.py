"""Audit by a server: prompts and answers are tokenized there, and read there in one prefill each.

vLLM tells the log-probability and the rank of every given token (`prompt_logprobs`). A server that tells neither is
refused before anything is asked of it.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from specsafe.engines.arm_openai import OpenAIArm
from specsafe.engines.base import Audited, Claim, Failure, Json
from specsafe.engines.openai import PLAIN, OpenAISession
from specsafe.engines.openai_client import Passing
from specsafe.engines.openai_dialects import DIALECTS, ReplyError, part
from specsafe.engines.openai_reply import as_token_ids, only_choice, request_body
from specsafe.engines.prefill import (
    Given,
    Limits,
    Look,
    Question,
    Reading,
    Unfit,
    audit,
    require_numbers,
    take_own,
)
from specsafe.errors import UserError

_BESIDE = (
    2  # likeliest tokens told beside a given one: where it is one of two equal ones, the other must be seen
)
_END_TOKENS = 256  # a plain prompt is answered within them, and its end token seen


def audit_by_server(session: OpenAISession, claims: Iterable[Claim]) -> Iterator[Audited | Failure]:
    """Audit answers in an open session; one result a claim, in any order."""
    arm = session.arm
    return audit(ServerReader(session), claims, Limits(arm.stops, arm.max_tokens))


def require_prefill(session: OpenAISession) -> None:
    """Raise UserError where the server cannot tell what its model says of given tokens."""
    arm = session.arm
    lacking = DIALECTS[arm.dialect].cannot_audit
    if not lacking:
        (told,) = session.each([_plain_claim()], lambda c: _read(session, c, ()))
        if isinstance(told, Failure):
            lacking = told.reason
        else:
            asked = Question(told.prompt, 1)
            (look,) = session.each([asked], lambda q: _look(session, PLAIN.item, q))
            lacking = look.reason if isinstance(look, Failure) else ""
    if lacking:
        raise UserError(
            f"the server at {arm.url} ({arm.dialect}) cannot audit: {lacking}",
            "serve the target with vLLM, or use --target kind=native or kind=vllm",
        )


class ServerReader:
    """See prefill.Reader."""

    def __init__(self, session: OpenAISession) -> None:
        self._session = session
        self._ends: tuple[int, ...] | None = None

    def read(self, claims: Sequence[Claim], stops: Sequence[str]) -> dict[str, Reading | Failure]:
        """Tokenize prompts and answers there."""
        asked = [(c.item, c) for c in claims]
        return dict(self._session.each(asked, lambda pair: self._read(*pair, stops)))

    def look(self, questions: Mapping[str, Question]) -> dict[str, Look | Failure]:
        """One prefill each."""
        return dict(self._session.each(list(questions.items()), lambda pair: self._look(*pair)))

    def ends(self) -> tuple[int, ...]:
        """The token that ended the answer to a plain prompt; nothing where it did not end."""
        if self._ends is None:
            (self._ends,) = self._session.each([PLAIN.prompt], lambda p: _end(self._session, p))
        return self._ends

    async def _read(self, item: str, claim: Claim, stops: Sequence[str]) -> tuple[str, Reading | Failure]:
        return item, await _read(self._session, claim, stops)

    async def _look(self, item: str, question: Question) -> tuple[str, Look | Failure]:
        return item, await _look(self._session, item, question)


def _plain_claim() -> Claim:
    return Claim(PLAIN.item, PLAIN.prompt, PLAIN.prompt, None, "length")


async def _read(session: OpenAISession, claim: Claim, stops: Sequence[str]) -> Reading | Failure:
    """A claim as the server's tokenizer reads it; its text is tokenized only where its own ids do not spell it."""

    async def ask() -> Reading:
        prompt, room = await _tokenize(session, prompt_body(session.arm, session.server.model, claim.prompt))
        own = claim.token_ids or ()
        spelled = await _spell(session, own) if own else None
        but_last = await _spell(session, own[:-1]) if own and claim.finish == "stop" else None
        if take_own(claim, spelled, but_last, stops) is not None or not claim.text:
            return Reading(prompt, spelled, but_last, (), "", room)
        body: Json = {"model": session.server.model, "prompt": claim.text, "add_special_tokens": False}
        again, _ = await _tokenize(session, body)
        return Reading(prompt, spelled, but_last, again, await _spell(session, again), room)

    return await session.patient(claim.item, ask)


def prompt_body(arm: OpenAIArm, model: str, prompt: str) -> Json:
    """What /tokenize is asked for a prompt: with the chat template of the server, and as requests for answers have it."""
    body = request_body(arm, model, prompt)
    kept = ("model", "messages", "prompt", "add_generation_prompt", "continue_final_message")
    return {k: body[k] for k in kept if k in body}


async def _tokenize(session: OpenAISession, body: Json) -> tuple[tuple[int, ...], int | None]:
    """Token ids, and the most tokens that the server takes."""
    reply = await session.post("/tokenize", body, api=False)
    room = reply.get("max_model_len")
    try:
        return as_token_ids(reply.get("tokens")), room if type(room) is int and room > 0 else None
    except ReplyError as error:
        raise Passing(f"/tokenize: {error}") from error


async def _spell(session: OpenAISession, tokens: Sequence[int]) -> str:
    """The text of tokens; none where there are none."""
    if not tokens:
        return ""
    body: Json = {"model": session.server.model, "tokens": list(tokens)}
    text = (await session.post("/detokenize", body, api=False)).get("prompt")
    if not isinstance(text, str):
        raise Passing("/detokenize: the reply holds no text")
    return text


async def _look(session: OpenAISession, item: str, question: Question) -> Look | Failure:
    async def ask() -> Look:
        body = look_body(session.arm, session.server.model, question)
        began = time.monotonic()
        reply = await session.post("/completions", body)
        try:
            # several are in flight: each is told its share of the time
            seconds = (time.monotonic() - began) / int(session.arm.concurrency)
            return read_look(reply, question, seconds)
        except ReplyError as error:
            raise Passing(str(error)) from error

    try:
        return await session.patient(item, ask)
    except Unfit as error:
        return Failure(item, str(error), 1)


async def _end(session: OpenAISession, prompt: str) -> tuple[int, ...]:
    async def ask() -> tuple[int, ...]:
        body = request_body(session.arm, session.server.model, prompt, _END_TOKENS)
        body.pop("stop", None)
        chat = session.arm.chat_template == "on"
        reply = await session.post("/chat/completions" if chat else "/completions", body)
        try:
            choice = only_choice(reply)
            ids = as_token_ids(choice.get("token_ids"))
        except ReplyError as error:
            raise Passing(str(error)) from error
        return ids[-1:] if choice.get("finish_reason") == "stop" else ()

    found = await session.patient(PLAIN.item, ask)
    return () if isinstance(found, Failure) else found


def look_body(arm: OpenAIArm, model: str, question: Question) -> Json:
    """One token is generated, for less is refused; it says whether the target ends there."""
    return {
        "model": model,
        "prompt": list(question.tokens),
        "max_tokens": 1,
        "temperature": 0.0,
        "seed": arm.seed,
        "stream": False,
        "prompt_logprobs": _BESIDE if question.best else 0,
        **DIALECTS[arm.dialect].asks(arm),
    }


def read_look(reply: Json, question: Question, seconds: float) -> Look:
    """A reply to `look_body`. Raises ReplyError for one that is not what was asked for, Unfit for what are no numbers."""
    choice = only_choice(reply)
    rows = choice.get("prompt_logprobs")
    if not isinstance(rows, list):
        raise ReplyError("it tells no log-probabilities of a prompt (prompt_logprobs)")
    if len(rows) != len(question.tokens):
        raise ReplyError(f"prompt_logprobs has {len(rows)} entries for {len(question.tokens)} tokens")
    asked = list(zip(question.tokens, rows, strict=True))[question.first :]
    given = tuple(_given(token, row, best=question.best) for token, row in asked)
    require_numbers(given)
    for one in given:
        _require_sense(one)
    return Look(given, choice.get("finish_reason") == "stop", seconds)


def _given(token: int, row: Any, *, best: bool) -> Given:
    """One entry {token id: {"logprob", "rank"}} of prompt_logprobs."""
    own = part(row, str(token))
    logprob, rank = part(own, "logprob"), part(own, "rank")
    if type(logprob) not in (int, float) or type(rank) is not int or rank < 1:
        raise ReplyError(f"prompt_logprobs does not tell log-probability and rank of token {token}")
    others = [
        (int(i), float(told["logprob"]))
        for i, told in row.items()
        if i != str(token) and i.isdecimal() and type(part(told, "logprob")) in (int, float)
    ]
    likeliest = max(others, key=lambda o: (o[1], -o[0])) if best and others else None
    return Given(token, float(logprob), rank, likeliest)


def _require_sense(one: Given) -> None:
    """Rank and log-probabilities must not contradict each other: a wrong rank would make a fork, or hide one."""
    if one.logprob > 1e-3:
        raise ReplyError("a log-probability is above 0")
    if one.best is None:
        return
    if not one.best[1] <= 1e-3:
        raise ReplyError("a log-probability is no number at or below 0")
    if (one.rank == 1 and one.best[1] > one.logprob) or (one.rank > 1 and one.best[1] < one.logprob):
        raise ReplyError(f"rank {one.rank} of token {one.token} contradicts the log-probabilities beside it")
