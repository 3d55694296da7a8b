"""Logs of Inspect (`inspect eval`) as recorded answers: what their samples say, and what they do not.

Written from what inspect_ai 0.3.285 writes, log format 2: a ZIP with header.json and samples/ID_epoch_N.json
(inspect_files.py), or one JSON document with the same records.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from specsafe.battery.readers import whole
from specsafe.engines.base import Failure, Json, Sample
from specsafe.engines.inspect_files import read_log
from specsafe.engines.recording import Recorded, Recording, counted, one_of
from specsafe.errors import UserError

FORMAT = 2
UNKNOWN = (
    "An Inspect log does not hold token ids, draft telemetry, the acceptance rule, the chat template or how many requests "
    "were in flight: forks, acceptance and speed are not known"
)
_ATTACHED = "attachment://"
_FINISH = {"stop": "stop", "max_tokens": "length", "model_length": "length", "length": "length"} | {
    "unknown": "unknown"
}
# Settings of a request that say how it is sent or shown, not what is asked; headers may hold secrets.
_NOT_SETTINGS = {
    "max_retries", "timeout", "attempt_timeout", "stream_idle_timeout", "max_connections", "adaptive_connections",
    "batch", "cache", "cache_prompt", "extra_headers", "extra_body", "logprobs", "top_logprobs", "prompt_logprobs",
    "max_tool_output", "fail_on_refusal",
}  # fmt: skip
Content = str | list[Json]
_Record = TypeVar("_Record", bound=BaseModel)


class _Part(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class _Message(_Part):
    id: str | None = None
    role: str
    content: Content
    tool_calls: list[Any] | None = None


class _Choice(_Part):
    message: _Message
    stop_reason: str = "unknown"


class _Usage(_Part):
    input_tokens: int = 0
    input_tokens_cache_read: int | None = None
    input_tokens_cache_write: int | None = None


class _Output(_Part):
    choices: list[_Choice] = Field(default_factory=list)
    usage: _Usage | None = None
    error: str | None = None
    fallback: Any = None


class _Error(_Part):
    message: str


class _Limit(_Part):
    type: str


class _Sample(_Part):
    id: int | str
    epoch: int
    input: str | list[_Message]
    messages: list[_Message] = Field(default_factory=list)
    output: _Output = Field(default_factory=_Output)
    metadata: dict[str, Any] = Field(default_factory=dict)
    attachments: dict[str, str] = Field(default_factory=dict)
    events: list[Json] = Field(default_factory=list)
    error: _Error | None = None
    error_retries: list[_Error] | None = None
    invalidation: Any = None
    limit: _Limit | None = None


class _Dataset(_Part):
    name: str | None = None


class _Spec(_Part):
    task: str
    model: str
    model_generate_config: Json = Field(default_factory=dict)
    dataset: _Dataset = Field(default_factory=_Dataset)
    packages: dict[str, str] = Field(default_factory=dict)


class _Plan(_Part):
    config: Json = Field(default_factory=dict)


class _Header(_Part):
    version: int = FORMAT
    status: str = "started"
    eval: _Spec
    plan: _Plan = Field(default_factory=_Plan)


class _Seen(NamedTuple):
    """A sample as it is taken, with what is counted of it. settings: None where the log does not hold the request."""

    recorded: Recorded
    settings: Json | None
    turns: bool
    tools: bool
    cached: bool
    fallback: bool
    reasoning: bool
    halted: bool


def read_inspect(path: Path, epoch: int | None, choice: int | None) -> Recording:
    """One log -> its answers. epoch, choice: which ones, where there are several; None if there must be one.

    Raises UserError for a file that is no log, of another format, or that answers a sample more than once.
    """
    about, members = read_log(path)
    header = _parsed(_Header, about, str(path))
    if header.version > FORMAT:
        raise UserError(
            f"{path}: log format {header.version}; known up to {FORMAT}",
            "convert it with the Inspect that wrote it, or update specsafe",
        )
    seen: dict[tuple[str, int], _Seen] = {}
    for where, given in members:
        sample = _parsed(_Sample, given, f"{path}, {where}")
        if epoch in (None, sample.epoch):
            key = (repr(sample.id), sample.epoch)
            if key in seen:
                raise UserError(f"{path}, {where}: sample {key[0]} occurs twice", "keep one of them")
            seen[key] = _see(sample, f"{path}, sample {sample.id}, epoch {sample.epoch}", choice)
    _require_one_epoch(path, {e for _, e in seen}, epoch)
    taken = list(seen.values())
    return Recording(
        tuple(s.recorded for s in taken),
        _facts(path, header, taken),
        UNKNOWN,
        (*_about(path, header), *_remarks(taken)),
    )


def _parsed(record: type[_Record], given: object, where: str) -> _Record:
    try:
        return record.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise UserError(
            f"{where}: {place}: {first['msg']}", f"is this a log of Inspect, format {FORMAT} or below?"
        ) from error


def _require_one_epoch(path: Path, epochs: set[int], chosen: int | None) -> None:
    if not epochs:
        what = "no samples" if chosen is None else f"no samples of epoch {chosen}"
        raise UserError(f"{path} holds {what}", "name a log whose samples were kept")
    if len(epochs) > 1:
        raise UserError(
            f"{path} holds epochs {', '.join(map(str, sorted(epochs)))}: several answers to each sample",
            "name one of them: epoch=1",
        )


def _see(sample: _Sample, where: str, choice: int | None) -> _Seen:
    before = _sent(sample)
    users = [m for m in before if m.role == "user"]
    given = [m for m in _messages(sample.input) if m.role == "user"]
    asked = _text(users[-1].content, sample, where) if users else None
    own = _text(given[-1].content, sample, where) if given else ""
    names = [sample.metadata.get(k) for k in ("item", "item_id")]
    ids = [str(n) for n in names if isinstance(n, str | int) and not isinstance(n, bool)]
    # Inspect numbers samples that have no id: a number names no item.
    ids += [sample.id] if isinstance(sample.id, str) and not ids else []
    answer, taken = _answer(sample, where, choice)
    call = _call(sample, taken)
    generated = sample.messages[len(before) :]
    parts = taken.message.content if taken else ""
    return _Seen(
        Recorded(where, answer, tuple(ids), (own,) if own else (), asked, _hash(before, sample, where)),
        _settings(call["config"]) if call and isinstance(call.get("config"), dict) else None,
        turns=sum(m.role == "assistant" for m in generated) > 1,
        tools=any(m.role == "tool" or m.tool_calls for m in generated),
        cached=call is not None and call.get("cache") == "read",
        fallback=sample.output.fallback is not None,
        reasoning=isinstance(parts, list) and any(p.get("type") == "reasoning" for p in parts),
        halted=sample.limit is not None,
    )


def _messages(given: str | list[_Message]) -> list[_Message]:
    return [_Message(role="user", content=given)] if isinstance(given, str) else given


def _sent(sample: _Sample) -> list[_Message]:
    """The conversation up to the first answer of the model; a dataset may bring answers of its own."""
    brought = sum(m.role == "assistant" for m in _messages(sample.input))
    answers = [n for n, m in enumerate(sample.messages) if m.role == "assistant"]
    return sample.messages[: answers[brought]] if len(answers) > brought else sample.messages


def _hash(messages: Sequence[_Message], sample: _Sample, where: str) -> str | None:
    """SHA-256 of roles and contents; None where the log does not hold the conversation."""
    if not messages:
        return None
    said = [
        [m.role, m.content if isinstance(m.content, list) else _text(m.content, sample, where)]
        for m in messages
    ]
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def _text(content: Content, sample: _Sample, where: str) -> str:
    """The text of a message as Inspect shows it: its text parts, a line each; texts that are kept apart are fetched."""
    parts = (
        [content] if isinstance(content, str) else [p.get("text") for p in content if p.get("type") == "text"]
    )
    return "\n".join(_fetched(str(whole(p)), sample, where) for p in parts if isinstance(p, str))


def _fetched(text: str, sample: _Sample, where: str) -> str:
    if not text.startswith(_ATTACHED):
        return text
    name = text.removeprefix(_ATTACHED)
    if name not in sample.attachments:
        raise UserError(f"{where}: the text {text[:50]!r} is not in the log", "name a log that is whole")
    return str(whole(sample.attachments[name]))


def _answer(sample: _Sample, where: str, choice: int | None) -> tuple[Sample | Failure, _Choice | None]:
    """The answer, or why there is none; and which choice of the output it is."""
    retries = tuple(_line(e.message) for e in sample.error_retries or ())
    tries = len(retries) + 1
    if sample.error is not None:
        return Failure("", f"Inspect: {_line(sample.error.message)}", tries), None
    if sample.invalidation is not None:
        return Failure("", "the log calls this sample invalid", tries), None
    if not sample.output.choices:
        halted = f"halted by the {sample.limit.type} limit of Inspect" if sample.limit else None
        return Failure("", halted or _line(sample.output.error or "the log holds no answer"), tries), None
    taken = sample.output.choices[one_of(choice, len(sample.output.choices), "choice", where)]
    if taken.stop_reason not in _FINISH:
        return Failure("", f"the answer ended with stop_reason {taken.stop_reason[:40]!r}", tries), taken
    usage = sample.output.usage
    cached = ((usage.input_tokens_cache_read or 0) + (usage.input_tokens_cache_write or 0)) if usage else 0
    answer = Sample(
        item="",
        text=_text(taken.message.content, sample, where),
        finish=_FINISH[taken.stop_reason],
        prompt_tokens=usage.input_tokens + cached if usage else None,
        failed_attempts=retries,
    )
    return answer, taken


def _line(message: str) -> str:
    return " ".join(str(whole(message)).split())[:200] or "no reason given"


def _call(sample: _Sample, taken: _Choice | None) -> Json | None:
    """The event of the very request that gave the answer; a grader's are not it."""
    if taken is None or taken.message.id is None:
        return None
    for event in reversed(sample.events):
        if event.get("event") == "model":
            choices = (event.get("output") or {}).get("choices") or []
            if any((c.get("message") or {}).get("id") == taken.message.id for c in choices):
                return event
    return None


def _settings(config: Json) -> Json:
    return {k: v for k, v in sorted(config.items()) if v is not None and k not in _NOT_SETTINGS}


def _facts(path: Path, header: _Header, seen: Sequence[_Seen]) -> Json:
    """What goes into the fingerprint. Raises UserError if the samples were asked in several ways."""
    told = {json.dumps(s.settings, sort_keys=True): s.settings for s in seen if s.settings is not None}
    if len(told) > 1:
        differing = sorted(
            {k for a in told.values() for b in told.values() for k in a if a.get(k) != b.get(k)}
        )
        raise UserError(
            f"{path}: its samples were asked with different settings ({', '.join(differing)})",
            "an arm is one way to answer: name a log of one",
        )
    spec = header.eval
    settings = next(iter(told.values()), None)
    if settings is None:
        settings = _settings({**spec.model_generate_config, **header.plan.config})
    return {
        "tasks": [spec.task],
        "model": spec.model,
        "inspect_ai": spec.packages.get("inspect_ai"),
        "settings": settings,
        "temperature": settings.get("temperature"),
    }


def _about(path: Path, header: _Header) -> tuple[str, ...]:
    if header.status == "success":
        return ()
    return (f"{path.name}: the log's status is {header.status!r}: what it does not hold counts as missing",)


def _remarks(seen: Sequence[_Seen]) -> tuple[str, ...]:
    """What weakens the comparison, counted."""
    counts = (
        (sum(s.turns for s in seen), "took several turns: the last one is compared"),
        (sum(s.tools for s in seen), "used tools: what these returned may differ between the arms"),
        (sum(s.cached for s in seen), "came from Inspect's cache: the arm's server may not have given them"),
        (sum(s.fallback for s in seen), "came from another model than the one that was asked"),
        (sum(s.reasoning for s in seen), "have reasoning apart: it is not scored"),
        (sum(s.halted for s in seen), "were halted by a limit of Inspect"),
        (
            sum(
                isinstance(s.recorded.answer, Sample) and s.recorded.answer.finish == "unknown" for s in seen
            ),
            "do not say why they ended: whether they were cut is not known",
        ),
    )
    return counted(counts, len(seen))
