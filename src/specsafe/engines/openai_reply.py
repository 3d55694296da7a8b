"""From a server's reply to a sample: every field is checked, for a server may send anything."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from specsafe.engines.arm_openai import OpenAIArm
from specsafe.engines.base import Json, Request, Sample
from specsafe.engines.openai_dialects import DIALECTS, Dialect, Drafting, ReplyError, part, possible

FINISH = {"stop": "stop", "eos": "stop", "eos_token": "stop", "stop_sequence": "stop", "length": "length"}
_AS_ID = re.compile(r"token_id:(\d{1,15})")
_LETTER = re.compile(r"\s*([A-J])\s*")


class Unanswerable(Exception):  # noqa: N818  no fault of anybody's: the server answered that it will not
    """The server ended the answer for a reason of its own; asking again would not mend it."""


class Read(NamedTuple):
    """A reply as a sample, and what else it told of drafting."""

    sample: Sample
    drafting: Drafting


class _Token(NamedTuple):
    """A token as a list of log-probabilities names it."""

    text: str
    id: int | None
    logprob: float | None


class _Position(NamedTuple):
    token: _Token
    top: tuple[_Token, ...]


def request_body(arm: OpenAIArm, model: str, prompt: str, max_tokens: int | None = None) -> Json:
    """What is asked: everything that changes an answer is said, so that no default of the server decides."""
    dialect = DIALECTS[arm.dialect]
    body: Json = {
        "model": model,
        "max_tokens": max_tokens or arm.max_tokens,
        "temperature": arm.temperature,
        "top_p": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "seed": arm.seed,
        "stream": False,
        **dialect.asks(arm),
        **({"stop": list(arm.stops)} if arm.stops else {}),
    }
    if arm.chat_template == "off":
        body["prompt"] = prompt + (f" {arm.prefill}" if arm.prefill else "")
        return body | ({"logprobs": arm.top} if arm.top else {})
    roles = [("system", arm.system), ("user", prompt), ("assistant", arm.prefill)]
    body["messages"] = [{"role": r, "content": text} for r, text in roles if text or r == "user"]
    if arm.prefill:
        body |= dialect.prefill or {}
    return body | ({"logprobs": True, "top_logprobs": arm.top} if arm.top else {})


def read_reply(
    arm: OpenAIArm, request: Request, reply: Json, letters: Mapping[int, str], seconds: float
) -> Read:
    """A reply of the server -> the sample.

    letters: token id -> the option letter that it spells, where tokens come as ids. seconds: that the request took;
    used where the server measured nothing itself. Raises ReplyError, ImpossibleCounts or Unanswerable.
    """
    dialect = DIALECTS[arm.dialect]
    choice = only_choice(reply)
    positions = _positions(choice.get("logprobs"))
    ids = _token_ids(dialect, reply, choice, positions)
    if ids is None or positions is None or len(positions) != len(ids):
        logprobs, top = None, None
    else:
        logprobs, top = _scores(positions, arm.speculative)
    told = Drafting() if arm.telemetry == "none" else possible(dialect.drafting(reply, choice))
    usage = part(reply, "usage", "prompt_tokens")
    prefill_ms, decode_ms = (part(reply, "timings", k) for k in ("prompt_ms", "predicted_ms"))
    sample = Sample(
        item=request.item,
        text=_text(choice).removeprefix(arm.prefill),
        finish=_finish(choice),
        token_ids=ids,
        logprobs=logprobs,
        top=top,
        letters=_letters(positions, letters, arm.speculative),
        drafted=told.drafted,
        accepted=told.accepted,
        rounds=told.rounds,
        accepted_at=told.accepted_at,
        prompt_tokens=usage if type(usage) is int and 0 <= usage < 2**53 else None,
        prefill_seconds=_milliseconds(prefill_ms),
        seconds=_milliseconds(decode_ms) if decode_ms is not None else seconds,
    )
    return Read(sample, told)


def only_choice(reply: Json) -> Json:
    """The one answer of a reply. Raises ReplyError."""
    choices = reply.get("choices")
    if not isinstance(choices, list) or len(choices) != 1 or not isinstance(choices[0], dict):
        raise ReplyError("the reply holds no single choice")
    return choices[0]


def _text(choice: Json) -> str:
    """The answer, with half characters (lone surrogates) replaced: no file could hold them."""
    message = choice.get("message")
    text = choice.get("text") if message is None else part(message, "content")
    if text is None and isinstance(message, Mapping):
        text = ""
    if not isinstance(text, str):
        raise ReplyError("the reply holds no text")
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _finish(choice: Json) -> str:
    reason = choice.get("finish_reason")
    if reason in FINISH:
        return FINISH[reason]
    if isinstance(reason, str):
        raise Unanswerable(f"the server ended it with finish_reason {reason[:40]!r}")
    raise ReplyError("the reply holds no finish_reason")


def _token_ids(
    dialect: Dialect, reply: Json, choice: Json, positions: Sequence[_Position] | None
) -> tuple[int, ...] | None:
    told = dialect.token_ids(reply, choice)
    if told is None:
        ids = [p.token.id for p in positions or ()]
        return tuple(i for i in ids if i is not None) if ids and None not in ids else None
    return as_token_ids(told)


def as_token_ids(told: Any) -> tuple[int, ...]:
    """A list of token ids of a reply. Raises ReplyError for anything else."""
    if not isinstance(told, list) or not all(type(i) is int and 0 <= i < 2**53 for i in told):
        raise ReplyError("the token ids are no list of numbers")
    return tuple(told)


def _scores(
    positions: Sequence[_Position], speculative: bool
) -> tuple[tuple[float | None, ...], tuple[tuple[tuple[int, float], ...], ...] | None]:
    """Log-probabilities and the most likely tokens; exactly 0.0 from a speculative arm is a token that nobody scored."""
    unscored = [speculative and p.token.logprob == 0.0 for p in positions]
    logprobs = tuple(None if u else p.token.logprob for u, p in zip(unscored, positions, strict=True))
    if any(t.id is None for p in positions for t in p.top):
        return logprobs, None
    rows = (
        () if u else tuple((t.id, t.logprob) for t in p.top if t.id is not None and t.logprob is not None)
        for u, p in zip(unscored, positions, strict=True)
    )
    return logprobs, tuple(rows)


def _letters(
    positions: Sequence[_Position] | None, by_id: Mapping[int, str], speculative: bool
) -> tuple[tuple[str, float], ...] | None:
    """Log-probability of each option letter as first token, best spelling first; None where nothing is known."""
    if not positions or not positions[0].top or (speculative and positions[0].token.logprob == 0.0):
        return None
    if not by_id and all(t.text.startswith("token_id:") for t in positions[0].top):
        return None
    found: dict[str, float] = {}
    for token in positions[0].top:
        spelled = _LETTER.fullmatch(token.text)
        letter = by_id.get(-1 if token.id is None else token.id) or (spelled[1] if spelled else None)
        if letter is not None and token.logprob is not None:
            found[letter] = max(token.logprob, found.get(letter, token.logprob))
    return tuple(sorted(found.items()))


def _positions(told: Any) -> tuple[_Position, ...] | None:
    """Log-probabilities in the form of chat completions, or in the older one of completions; None if there are none."""
    if not isinstance(told, Mapping):
        return None
    if isinstance(content := told.get("content"), list):
        return tuple(_Position(_token(c), tuple(map(_token, _list(c, "top_logprobs")))) for c in content)
    tokens, logprobs, top = (told.get(k) for k in ("tokens", "token_logprobs", "top_logprobs"))
    if not isinstance(tokens, list) or not isinstance(logprobs, list):
        return None
    rows = top if isinstance(top, list) else [None] * len(tokens)
    if not len(tokens) == len(logprobs) == len(rows):
        raise ReplyError("tokens and log-probabilities are not of one length")
    return tuple(
        _Position(
            _token({"token": t, "logprob": p}),
            tuple(_token({"token": k, "logprob": v}) for k, v in row.items())
            if isinstance(row, Mapping)
            else (),
        )
        for t, p, row in zip(tokens, logprobs, rows, strict=True)
    )


def _list(row: Any, name: str) -> list[Any]:
    value = part(row, name)
    return value if isinstance(value, list) else []


def _token(told: Any) -> _Token:
    text, logprob, number = (part(told, k) for k in ("token", "logprob", "id"))
    if not isinstance(text, str):
        raise ReplyError("a log-probability has no token")
    if logprob is not None and (type(logprob) not in (int, float) or not _is_logprob(logprob)):
        raise ReplyError("a log-probability is no number at or below 0")
    if number is None and (named := _AS_ID.fullmatch(text)):
        number = int(named[1])
    if number is not None and (type(number) is not int or number < 0):
        raise ReplyError("a token id is no number")
    return _Token(text, number, None if logprob is None else float(logprob))


def _is_logprob(value: float) -> bool:
    """At or below 0, but for rounding."""
    return math.isfinite(value) and value <= 1e-3


def _milliseconds(value: Any) -> float | None:
    known = type(value) in (int, float) and math.isfinite(value) and 0 <= value < 1e12
    return value / 1000 if known else None
