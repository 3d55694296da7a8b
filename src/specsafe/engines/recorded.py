"""Answers that were recorded elsewhere, from a JSONL file: a screen needs no model at all.

A line is an object with `text` and `item` (the id) or `prompt` (its exact text); optional: `finish`
("stop" or "length"), `token_ids`, `logprobs`, `top`, `letters`, `drafted`, `accepted`, `rounds`, `accepted_at`,
`prompt_tokens`, `prefill_seconds`, `seconds` (see engines.base.Sample), or `failed`: the reason why there is no text.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from specsafe.battery.readers import read_json_lines
from specsafe.engines.arms import RecordedArm
from specsafe.engines.base import Failure, Json, Request, Sample, refuse_reply
from specsafe.errors import UserError
from specsafe.models.store import sha256_file

Count = Annotated[int, Field(ge=0, le=2**53)]
Letter = Annotated[str, Field(pattern="^[A-J]$")]
Seconds = Annotated[float, Field(ge=0, le=1e9)]


class _Row(BaseModel):
    """One recorded answer; see engines.base.Sample for units."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    item: str | None = None
    prompt: str | None = None
    text: str = ""
    failed: str | None = None
    finish: Literal["stop", "length"] = "stop"
    token_ids: tuple[Count, ...] | None = None
    logprobs: tuple[float | None, ...] | None = None
    top: tuple[tuple[tuple[int, float], ...], ...] | None = None
    rounds: Count | None = None
    accepted_at: tuple[Count, ...] | None = None
    letters: tuple[tuple[Letter, float], ...] | None = None
    drafted: Count | None = None
    accepted: Count | None = None
    prompt_tokens: Count | None = None
    prefill_seconds: Seconds | None = None
    seconds: Seconds | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.failed is None) == ("text" not in self.model_fields_set):
            raise ValueError("exactly one of text and failed must be there")
        if self.failed is not None and not self.failed.strip():
            raise ValueError("failed needs a reason")
        if self.accepted_at is not None and max(self.accepted_at, default=0) > (self.rounds or 0):
            raise ValueError(f"accepted_at {list(self.accepted_at)} needs as many rounds")
        if self.drafted is not None and (self.accepted or 0) > self.drafted:
            raise ValueError(f"accepted {self.accepted} of {self.drafted} drafted")
        for name, values in (("logprobs", self.logprobs), ("top", self.top)):
            if values is not None and len(values) != len(self.token_ids or ()):
                raise ValueError(f"{name} must have one entry a token id")
        return self


def check(arm: RecordedArm) -> dict[str, str]:
    """SHA-256 of the file. Raises UserError if it is missing."""
    path = Path(arm.path).expanduser()
    if not path.is_file():
        raise UserError(f"no recorded answers at {arm.path!r}", "name a JSONL file")
    return {"answers": sha256_file(path)}


def open_session(arm: RecordedArm) -> RecordedSession:
    """Read the whole file. Raises UserError for a broken line, an unknown key or a second answer to one item."""
    return RecordedSession(arm, check(arm))


def count_unmatched(arm: RecordedArm, requests: Iterable[Request]) -> int:
    """How many recorded answers no request gets: a mistyped id, or a prompt whose items all have a line by id."""
    recorded = open_session(arm).keys()
    used = {("item", r.item) if ("item", r.item) in recorded else ("prompt", r.prompt) for r in requests}
    return len(recorded - used)


class RecordedSession:
    """See engines.base.Session; an item without an answer in the file yields nothing."""

    def __init__(self, arm: RecordedArm, files: dict[str, str]) -> None:
        self._files = files
        self._rows: dict[tuple[str, str], _Row] = {}
        path = Path(arm.path).expanduser()
        for where, row in read_json_lines(path):
            read = _row(path, where, row)
            key = ("item", read.item) if read.item is not None else ("prompt", read.prompt or "")
            if key in self._rows:
                raise UserError(
                    f"{path}, {where}: a second answer to {key[0]} {key[1][:40]!r}", "keep one line an item"
                )
            self._rows[key] = read
        if not self._rows:
            raise UserError(f"{path} holds no answers", "one JSON object a line")

    def keys(self) -> set[tuple[str, str]]:
        """("item", id) or ("prompt", text) of every recorded answer."""
        return set(self._rows)

    def fingerprint(self) -> Json:
        """The hash of the file is all that is known of a recorded arm."""
        return {"engine": "recorded", "answers_sha256": self._files["answers"]}

    def generate(self, requests: Iterable[Request]) -> Iterator[Sample | Failure]:
        """Yield what was recorded for each request that has a line."""
        for request in requests:
            refuse_reply(request, "kind=recorded")
            row = self._rows.get(("item", request.item)) or self._rows.get(("prompt", request.prompt))
            if row is None:
                continue
            if row.failed is None:
                yield _sample(request.item, row)
            else:
                yield Failure(request.item, row.failed, 1)

    def close(self) -> None:
        """Nothing to free."""


def _row(path: Path, where: str, given: dict[str, Any]) -> _Row:
    try:
        row = _Row.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        key = str(first["loc"][0]) if first["loc"] else "row"
        what = f"unknown key {key!r}" if first["type"] == "extra_forbidden" else f"{key}: {first['msg']}"
        raise UserError(f"{path}, {where}: {what}", f"keys: {', '.join(_Row.model_fields)}") from error
    if row.item is None and row.prompt is None:
        raise UserError(
            f"{path}, {where}: neither item nor prompt", "every line needs item (or prompt) and text"
        )
    return row


def _sample(item: str, row: _Row) -> Sample:
    return Sample(
        **{
            "item": item,
            **{k: getattr(row, k) for k in _Row.model_fields if k not in ("item", "prompt", "failed")},
        }
    )
