"""One record for answers that were made elsewhere, whoever wrote the file, and how an item finds its own."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from specsafe.engines.base import Failure, Json, Request, Sample
from specsafe.errors import UserError


@dataclass(frozen=True, slots=True)
class Recorded:
    """One answer of a file.

    where: its place, for messages. answer: its `item` is empty, for an item finds it by one of ids, or by one of
    prompts, exactly. asked: the last that the user said in the request. sent: hash of all that was sent for the
    answer. Both are None where the file does not tell.
    """

    where: str
    answer: Sample | Failure
    ids: tuple[str, ...] = ()
    prompts: tuple[str, ...] = ()
    asked: str | None = None
    sent: str | None = None


class Recording(NamedTuple):
    """What one file holds.

    facts: how the answers were made, as far as the file tells, for the fingerprint; `settings` in it must be equal in
    arms that are compared, `temperature` is None where the file does not say it. unknown: what it cannot tell, in
    words. remarks: what else there is to say of these answers, a line each.
    """

    answers: tuple[Recorded, ...]
    facts: Json
    unknown: str = ""
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Index:
    """The answers of an arm by id and by prompt."""

    answers: Sequence[Recorded]
    _by: dict[tuple[str, str], list[int]] = field(default_factory=lambda: defaultdict(list))

    def __post_init__(self) -> None:
        for number, recorded in enumerate(self.answers):
            for key in dict.fromkeys(_keys(recorded)):
                self._by[key].append(number)

    def keys(self) -> set[tuple[str, str]]:
        """("item", id) or ("prompt", text) of every answer."""
        return set(self._by)

    def find(self, request: Request) -> int | None:
        """The number of a request's answer: by id, or else by its exact prompt. Raises UserError if there are two."""
        key = ("item", request.item) if ("item", request.item) in self._by else ("prompt", request.prompt)
        found = self._by.get(key, [])
        if len(found) > 1:
            one, other = (self.answers[n].where for n in found[:2])
            raise UserError(
                f"two answers to item {request.item!r}: {one}, and {other}",
                "keep one, or give the samples the ids of the items: see specsafe battery show",
            )
        return found[0] if found else None


def _keys(recorded: Recorded) -> Iterable[tuple[str, str]]:
    yield from (("item", i) for i in recorded.ids)
    yield from (("prompt", p) for p in recorded.prompts)


def answer_files(path: str) -> list[Path]:
    """The files behind `path`: one, or those that its last part matches as a pattern."""
    place = Path(path).expanduser()
    if place.is_file() or not set("*?[") & set(place.name):
        return [place]
    return sorted(p for p in place.parent.glob(place.name) if p.is_file())


def one_of(chosen: int | None, there: int, what: str, where: str) -> int:
    """The index of the answer that is taken of several. Raises UserError where none is named, or one that is not there.

    what: "choice" or "repeat", the key that names it.
    """
    if chosen is None and there > 1:
        raise UserError(f"{where}: {there} answers to one request", f"name one of them: {what}=1")
    if chosen is not None and chosen > there:
        raise UserError(
            f"{where}: {what}={chosen}, and {there} answers to the request", "name one that is there"
        )
    return (chosen or 1) - 1


def counted(remarks: Iterable[tuple[int, str]], of: int) -> tuple[str, ...]:
    """(k, words) -> "k of n answers …", without those that count nothing."""
    return tuple(f"{k} of {of} answers {words}" for k, words in remarks if k)
