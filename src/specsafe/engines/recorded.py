"""Answers that were recorded elsewhere, from a JSONL file: a screen needs no model at all.

A line is an object with `text` and `item` (the id) or `prompt` (its exact text); optional: `finish`
("stop" or "length"), `token_ids`, `logprobs`, `top`, `drafted`, `accepted`, `prompt_tokens`, `seconds`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from specsafe.battery.readers import read_json_lines
from specsafe.engines.arms import RecordedArm
from specsafe.engines.base import Json, Request, Sample
from specsafe.errors import UserError
from specsafe.models.store import sha256_file

_FIELDS = {
    "item",
    "prompt",
    "text",
    "finish",
    "token_ids",
    "logprobs",
    "top",
    "drafted",
    "accepted",
    "prompt_tokens",
    "prefill_seconds",
    "seconds",
}


def check(arm: RecordedArm) -> dict[str, str]:
    """SHA-256 of the file. Raises UserError if it is missing."""
    path = Path(arm.path).expanduser()
    if not path.is_file():
        raise UserError(f"no recorded answers at {arm.path!r}", "name a JSONL file")
    return {"answers": sha256_file(path)}


def open_session(arm: RecordedArm) -> RecordedSession:
    """Read the whole file. Raises UserError for a broken line, an unknown key or a second answer to one item."""
    return RecordedSession(arm, check(arm))


class RecordedSession:
    """See engines.base.Session; an item without an answer in the file yields nothing."""

    def __init__(self, arm: RecordedArm, files: dict[str, str]) -> None:
        self._files = files
        self._rows: dict[tuple[str, str], dict[str, Any]] = {}
        path = Path(arm.path).expanduser()
        for where, row in read_json_lines(path):
            key = _key(path, where, row)
            if key in self._rows:
                raise UserError(
                    f"{path}, {where}: a second answer to {key[0]} {key[1][:40]!r}", "keep one line an item"
                )
            self._rows[key] = row
        if not self._rows:
            raise UserError(f"{path} holds no answers", "one JSON object a line")

    def fingerprint(self) -> Json:
        """The hash of the file is all that is known of a recorded arm."""
        return {"engine": "recorded", "answers_sha256": self._files["answers"]}

    def generate(self, requests: Iterable[Request]) -> Iterator[Sample]:
        """Yield the recorded sample of each request that has one."""
        for request in requests:
            row = self._rows.get(("item", request.item)) or self._rows.get(("prompt", request.prompt))
            if row is not None:
                yield _sample(request.item, row)

    def close(self) -> None:
        """Nothing to free."""


def _key(path: Path, where: str, row: dict[str, Any]) -> tuple[str, str]:
    unknown = sorted(set(row) - _FIELDS)
    if unknown:
        raise UserError(f"{path}, {where}: unknown key {unknown[0]!r}", f"keys: {', '.join(sorted(_FIELDS))}")
    if not isinstance(row.get("text"), str):
        raise UserError(f"{path}, {where}: no text", "every line needs item (or prompt) and text")
    for name in ("item", "prompt"):
        if isinstance(row.get(name), str):
            return name, row[name]
    raise UserError(f"{path}, {where}: neither item nor prompt", "every line needs item (or prompt) and text")


def _sample(item: str, row: dict[str, Any]) -> Sample:
    top = row.get("top")
    return Sample(
        item=item,
        text=row["text"],
        finish=str(row.get("finish", "stop")),
        token_ids=_tuple(row.get("token_ids")),
        logprobs=_tuple(row.get("logprobs")),
        top=tuple(tuple((int(i), float(p)) for i, p in position) for position in top) if top else None,
        **{k: row.get(k) for k in ("drafted", "accepted", "prompt_tokens", "prefill_seconds", "seconds")},
    )


def _tuple(values: list[Any] | None) -> tuple[Any, ...] | None:
    return None if values is None else tuple(values)
