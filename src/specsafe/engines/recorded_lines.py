"""Recorded answers in our own form: a JSONL file.

A line is an object with `text` and `item` (the id) or `prompt` (its exact text); optional: `finish`
("stop" or "length"), `token_ids`, `logprobs`, `top`, `letters`, `drafted`, `accepted`, `rounds`, `accepted_at`,
`prompt_tokens`, `prefill_seconds`, `seconds` (see engines.base.Sample), or `failed`: the reason why there is no text.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from specsafe.battery.readers import read_json_lines
from specsafe.engines.base import Failure, Sample
from specsafe.engines.recording import Recorded, Recording
from specsafe.errors import UserError

Count = Annotated[int, Field(ge=0, le=2**53)]
Letter = Annotated[str, Field(pattern="^[A-J]$")]
Seconds = Annotated[float, Field(ge=0, le=1e9)]


class Row(BaseModel):
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


def read_lines(path: Path) -> Recording:
    """The whole file. Raises UserError for a broken line, an unknown key or a second answer to one item."""
    answers: dict[tuple[str, str], Recorded] = {}
    for where, given in read_json_lines(path):
        row = _row(path, where, given)
        key = ("item", row.item) if row.item is not None else ("prompt", row.prompt or "")
        if key in answers:
            raise UserError(
                f"{path}, {where}: a second answer to {key[0]} {key[1][:40]!r}", "keep one line an item"
            )
        ids, prompts = ((key[1],), ()) if key[0] == "item" else ((), (key[1],))
        answers[key] = Recorded(f"{path}, {where}", _answer(row), ids, prompts)
    if not answers:
        raise UserError(f"{path} holds no answers", "one JSON object a line")
    return Recording(tuple(answers.values()), {})


def _row(path: Path, where: str, given: dict[str, Any]) -> Row:
    try:
        row = Row.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        key = str(first["loc"][0]) if first["loc"] else "row"
        what = f"unknown key {key!r}" if first["type"] == "extra_forbidden" else f"{key}: {first['msg']}"
        raise UserError(f"{path}, {where}: {what}", f"keys: {', '.join(Row.model_fields)}") from error
    if row.item is None and row.prompt is None:
        raise UserError(
            f"{path}, {where}: neither item nor prompt", "every line needs item (or prompt) and text"
        )
    return row


def _answer(row: Row) -> Sample | Failure:
    if row.failed is not None:
        return Failure("", row.failed, 1)
    kept = [k for k in Row.model_fields if k not in ("item", "prompt", "failed")]
    return Sample(item="", **{k: getattr(row, k) for k in kept})
