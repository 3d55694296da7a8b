"""The answers of one arm: what every analysis reads is held in memory, the large rest is fetched for few."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from specsafe.engines.base import Sample
from specsafe.study.schema import dump


@dataclass(frozen=True, slots=True)
class Answer:
    """The light part of a sample (see engines.base.Sample); accepted_at, letters and failed_attempts are still JSON text.

    Two answers have equal tokens if their tokens_sha256 are equal; None where the stack gave no tokens.
    """

    item: str
    text_sha256: str
    tokens_sha256: str | None
    tokens: int | None
    finish: str
    drafted: int | None
    accepted: int | None
    rounds: int | None
    accepted_at: str | None
    letters: str | None
    prefill_seconds: float | None
    seconds: float | None
    proved: bool
    failed_attempts: str | None


class Tokens(NamedTuple):
    """The tokens of an answer, and what the stack told of them; parsed only where somebody looks.

    logprobs: a JSON list. top: a line a position, each a JSON list of [token id, log-probability].
    """

    ids: tuple[int, ...]
    logprobs: str | None
    top: str | None

    def logprob_at(self, position: int) -> float | None:
        """Log-probability of the token at a position; None where it is not known."""
        value = json.loads(self.logprobs)[position] if self.logprobs else None
        return None if value is None else float(value)

    def top_at(self, position: int) -> dict[int, float]:
        """Token id -> log-probability of the most likely tokens at a position; empty where not known."""
        lines = self.top.split("\n", position + 1) if self.top else []
        return {int(i): float(p) for i, p in json.loads(lines[position])} if position < len(lines) else {}


def heavy_part(sample: Sample) -> dict[str, str | None]:
    """token_ids, logprobs, top and columns of a sample as the text that the ledger keeps."""
    return {
        "token_ids": None if sample.token_ids is None else dump(sample.token_ids),
        "logprobs": None if sample.logprobs is None else dump(sample.logprobs),
        "top": None if sample.top is None else "\n".join(map(dump, sample.top)),
        "columns": None if sample.columns is None else dump(sample.columns),
    }


def read_tokens(token_ids: str, logprobs: str | None, top: str | None) -> Tokens:
    """The three texts of `heavy_part` -> Tokens."""
    return Tokens(tuple(json.loads(token_ids)), logprobs, top)


def light_part(sample: Sample) -> Answer:
    """What an analysis reads of a sample."""
    return Answer(
        item=sample.item,
        text_sha256=text_hash(sample.text),
        tokens_sha256=None if sample.token_ids is None else text_hash(dump(sample.token_ids)),
        tokens=None if sample.token_ids is None else len(sample.token_ids),
        finish=sample.finish,
        drafted=sample.drafted,
        accepted=sample.accepted,
        rounds=sample.rounds,
        accepted_at=None if sample.accepted_at is None else dump(sample.accepted_at),
        letters=None if sample.letters is None else dump(sample.letters),
        prefill_seconds=sample.prefill_seconds,
        seconds=sample.seconds,
        proved=sample.proved,
        failed_attempts=dump(sample.failed_attempts) if sample.failed_attempts else None,
    )


def text_hash(text: str) -> str:
    """SHA-256 of an answer's UTF-8 bytes, as hex."""
    return hashlib.sha256(text.encode()).hexdigest()


class Answers(Mapping[str, Answer]):
    """Item id -> Answer; `tokens` and `texts` fetch what was said by some items, where the stack gave it."""

    def __init__(
        self,
        light: dict[str, Answer],
        tokens: Callable[[Collection[str]], dict[str, Tokens]],
        texts: Callable[[Collection[str]], dict[str, str]],
    ) -> None:
        self._light = light
        self.tokens = tokens
        self.texts = texts

    @classmethod
    def of(cls, samples: Mapping[str, Sample]) -> Answers:
        """Answers that are all in memory."""
        return cls(
            {i: light_part(s) for i, s in samples.items()},
            lambda items: {
                i: read_tokens(dump(s.token_ids), heavy["logprobs"], heavy["top"])
                for i in items
                if i in samples and (s := samples[i]).token_ids is not None
                for heavy in [heavy_part(s)]
            },
            lambda items: {i: samples[i].text for i in items if i in samples},
        )

    def __getitem__(self, item: str) -> Answer:
        return self._light[item]

    def __iter__(self) -> Iterator[str]:
        return iter(self._light)

    def __len__(self) -> int:
        return len(self._light)
