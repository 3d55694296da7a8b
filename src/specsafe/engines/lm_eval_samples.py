"""Samples of lm-evaluation-harness (`lm-eval run --log_samples`) as recorded answers.

Written from what lm_eval 0.4.13 writes to samples_TASK_DATE.jsonl: a line a document and filter, with doc, arguments,
resps. Lines of a document that differ in filter alone hold one answer, which is taken once, unfiltered.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from specsafe.battery.readers import read_json_lines
from specsafe.engines.base import Json, Sample
from specsafe.engines.recording import Recorded, Recording, one_of
from specsafe.errors import UserError

UNKNOWN = (
    "Samples of lm-eval do not hold the model, the reason why an answer ended, token ids, draft telemetry, the acceptance "
    "rule or how many requests were in flight: cut answers, forks, acceptance and speed are not known"
)
_GENERATES = "only tasks with output_type generate_until generate"


class _Line(BaseModel):
    """What is read of a line. arguments: a mapping, or in files of older versions a list."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    doc_id: int
    doc: Any
    arguments: dict[str, dict[str, Any]] | list[list[Any]]
    resps: list[list[Any]]
    filter: str = "none"


def read_lm_eval(path: Path, repeat: int | None) -> Recording:
    """One file -> its answers. repeat: which, where a request has several; None if there must be one.

    Raises UserError for a file of another kind, for tasks that generate nothing, and for a document answered twice.
    """
    lines: dict[int, tuple[_Line, Recorded]] = {}
    filters: set[tuple[int, str]] = set()
    settings: Json | None = None
    for place, given in read_json_lines(path):
        where = f"{path}, {place}"
        line = _line(where, given)
        if (line.doc_id, line.filter) in filters:
            raise UserError(
                f"{where}: document {line.doc_id} is answered a second time",
                "lm-eval appends to a file that is there: name one of a single run",
            )
        filters.add((line.doc_id, line.filter))
        if line.doc_id in lines:
            _require_same(where, line, lines[line.doc_id][0])
            continue
        prompt, asked_with = _request(where, line)
        if settings not in (None, asked_with):
            raise UserError(
                f"{where}: asked with other settings than the first line", "an arm is one way to answer"
            )
        settings = asked_with
        lines[line.doc_id] = (line, _recorded(f"{where} (document {line.doc_id})", line, prompt, repeat))
    if settings is None:
        raise UserError(f"{path} holds no samples", "name a samples_*.jsonl of lm-eval")
    facts = {"tasks": [_task(path)], "settings": settings, "temperature": _temperature(settings)}
    return Recording(tuple(r for _, r in lines.values()), facts, UNKNOWN)


def _line(where: str, given: Json) -> _Line:
    try:
        return _Line.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(
            f"{where}: {first['loc'][0] if first['loc'] else 'line'}: {first['msg']}",
            "name a samples_*.jsonl of lm-eval run --log_samples",
        ) from error


def _require_same(where: str, line: _Line, first: _Line) -> None:
    """Filters read one answer in several ways: another answer is from another run."""
    if (line.doc, line.arguments, line.resps) != (first.doc, first.arguments, first.resps):
        raise UserError(
            f"{where}: document {line.doc_id} has another answer than before", "name a file of a single run"
        )


def _request(where: str, line: _Line) -> tuple[str, Json]:
    """(what was sent, settings) of a document's one request for text."""
    given = line.arguments
    requests = [list(a.values()) for a in given.values()] if isinstance(given, dict) else given
    if any(len(r) < 2 or not isinstance(r[1], dict) for r in requests):
        raise UserError(
            f"{where}: a likelihood was asked for: nothing is generated, and speculation cannot change it",
            _GENERATES,
        )
    if len(requests) != 1 or len(line.resps) != 1:
        raise UserError(f"{where}: {len(requests)} requests for one document", _GENERATES)
    sent, settings = requests[0][:2]
    # A chat request is kept as a list that holds its messages as JSON text.
    prompt = sent[0] if isinstance(sent, list) and len(sent) == 1 else sent
    if not isinstance(prompt, str):
        raise UserError(f"{where}: arguments: the prompt is no text", "name a samples_*.jsonl of lm-eval")
    return prompt, settings


def _recorded(where: str, line: _Line, prompt: str, repeat: int | None) -> Recorded:
    answers = line.resps[0]
    text = answers[one_of(repeat, len(answers), "repeat", where)] if answers else None
    if not isinstance(text, str):
        raise UserError(f"{where}: resps: the answer is no text", "name a samples_*.jsonl of lm-eval")
    doc = line.doc if isinstance(line.doc, dict) else {}
    named = next((doc[k] for k in ("item", "item_id", "id") if isinstance(doc.get(k), str)), None)
    asked = _last_of_user(prompt)
    texts = dict.fromkeys([asked, *(v for v in doc.values() if isinstance(v, str))])
    return Recorded(
        where,
        Sample(item="", text=text, finish="unknown"),
        () if named is None else (named,),
        tuple(texts),
        asked,
        hashlib.sha256(prompt.encode()).hexdigest(),
    )


def _last_of_user(prompt: str) -> str:
    """The last user message where the prompt is a list of messages as JSON text; else the prompt."""
    if not prompt.startswith("["):
        return prompt
    try:
        messages = json.loads(prompt)
    except (ValueError, RecursionError):
        return prompt  # a prompt that begins with a bracket
    users = [m for m in messages if isinstance(m, dict) and m.get("role") == "user"]
    content = users[-1].get("content") if users else None
    if isinstance(content, list):
        content = "\n".join(p.get("text", "") for p in content if isinstance(p, dict))
    return content if isinstance(content, str) else prompt


def _temperature(settings: Json) -> float | None:
    """As the settings say it; without drawing it is 0 where they do not say another."""
    said = settings.get("temperature")
    if isinstance(said, int | float) and not isinstance(said, bool):
        return float(said) if said == 0 or settings.get("do_sample") is not False else None
    return 0.0 if settings.get("do_sample") is False else None


def _task(path: Path) -> str:
    """samples_TASK_2026-11-26T02-34-04.455153.jsonl -> TASK."""
    name = path.stem.removeprefix("samples_")
    head, _, date = name.rpartition("_")
    return head if head and date[:4].isdigit() else name
