"""Answers that were recorded elsewhere: a screen needs no model at all.

Whoever wrote the file, its reader gives a Recording; how an item finds its answer is the same for all.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from specsafe.engines.arms import AnswersArm, InspectArm, LmEvalArm
from specsafe.engines.base import Failure, Json, Request, Sample, refuse_reply
from specsafe.engines.inspect_log import read_inspect
from specsafe.engines.lm_eval_samples import read_lm_eval
from specsafe.engines.recorded_lines import read_lines
from specsafe.engines.recording import Index, Recorded, Recording, answer_files
from specsafe.errors import UserError
from specsafe.models.store import sha256_file


def check(arm: AnswersArm) -> dict[str, str]:
    """SHA-256 of the file, or of each. Raises UserError if there is none."""
    files = answer_files(arm.path)
    if not files or not files[0].is_file():
        raise UserError(f"no recorded answers at {arm.path!r}", "name a file of answers")
    if len(files) == 1:
        return {"answers": sha256_file(files[0])}
    return {f"answers {f.name}": sha256_file(f) for f in files}


def read_answers(arm: AnswersArm) -> Recording:
    """All answers of an arm. Raises UserError for whatever cannot be read, or not be taken for one arm."""
    return _read(arm, tuple(check(arm).values()))


@lru_cache(maxsize=8)
def _read(arm: AnswersArm, _hashes: tuple[str, ...]) -> Recording:
    """A screen asks for the same files several times; they are read once as long as their hashes stay."""
    whole = _joined([_read_file(arm, path) for path in answer_files(arm.path)], arm.path)
    said = whole.facts.get("temperature")
    if arm.temperature is not None and said not in (None, arm.temperature):
        raise UserError(
            f"{arm.path}: temperature={arm.temperature:g}, but the file says {said:g}",
            "leave temperature= out",
        )
    temperature = arm.temperature if said is None else said
    return whole._replace(facts={**whole.facts, "temperature": temperature})


def _read_file(arm: AnswersArm, path: Path) -> Recording:
    if isinstance(arm, InspectArm):
        return read_inspect(path, arm.epoch, arm.choice)
    if isinstance(arm, LmEvalArm):
        return read_lm_eval(path, arm.repeat)
    return read_lines(path)


def _joined(parts: list[Recording], path: str) -> Recording:
    """Several files as one arm: they must say the same of how their answers were made."""
    first = parts[0]
    for other in parts[1:]:
        keys = ("model", "settings", "temperature")
        differing = [k for k in keys if first.facts.get(k) != other.facts.get(k)]
        if differing:
            raise UserError(
                f"the files of {path!r} differ in {', '.join(differing)}: they are not one arm",
                "name the files of one run",
            )
    tasks = sorted({t for p in parts for t in p.facts.get("tasks", [])})
    facts = {**first.facts, **({"tasks": tasks} if tasks else {})}
    answers = tuple(a for p in parts for a in p.answers)
    return Recording(answers, facts, first.unknown, tuple(r for p in parts for r in p.remarks))


def open_session(arm: AnswersArm) -> RecordedSession:
    """Read everything. Raises UserError as read_answers does."""
    return RecordedSession(arm, read_answers(arm), check(arm))


class RecordedSession:
    """See engines.base.Session; an item without an answer in the file yields nothing."""

    def __init__(self, arm: AnswersArm, recording: Recording, files: dict[str, str]) -> None:
        self._kind, self._files, self._facts = arm.kind, files, recording.facts
        self._index = Index(recording.answers)

    def keys(self) -> set[tuple[str, str]]:
        """("item", id) or ("prompt", text) of every recorded answer."""
        return self._index.keys()

    def fingerprint(self) -> Json:
        """The hashes of the files, and what these say of how the answers were made."""
        hashes = {k.replace("answers", "answers_sha256", 1): v for k, v in self._files.items()}
        return {"engine": self._kind, **hashes, **self._facts}

    def find(self, requests: Iterable[Request]) -> dict[str, Recorded]:
        """Item id -> what is recorded for it, for every request that has an answer or a failure."""
        found = ((r.item, self._index.find(r)) for r in requests)
        return {item: self._index.answers[n] for item, n in found if n is not None}

    def unmatched(self, requests: Iterable[Request]) -> int:
        """How many answers no request gets: a mistyped id, or a prompt whose items all have a line by id."""
        used = {n for r in requests if (n := self._index.find(r)) is not None}
        return len(self._index.answers) - len(used)

    def generate(self, requests: Iterable[Request]) -> Iterator[Sample | Failure]:
        """Yield what was recorded for each request that has a line."""
        for request in requests:
            refuse_reply(request, f"kind={self._kind}")
            number = self._index.find(request)
            if number is not None:
                yield replace(self._index.answers[number].answer, item=request.item)

    def close(self) -> None:
        """Nothing to free."""
