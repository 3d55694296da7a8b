"""When an answer ends: end-of-text tokens, stop strings, the limit; wherever in a draft that happens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

Finish = Literal["stop", "length"]


@dataclass(frozen=True)
class StopRule:
    """ends: token ids. strings: the text ends before the first of them. limit: most tokens of an answer."""

    ends: frozenset[int]
    strings: tuple[str, ...]
    limit: int
    bytes_of: Callable[[int], bytes]


@dataclass
class Emitted:
    """The tokens of one answer so far; `push` says when it is complete."""

    rule: StopRule
    tokens: list[int] = field(default_factory=list)
    finish: Finish | None = None
    _tail: bytes = b""

    def push(self, token: int) -> bool:
        """Add a token -> whether the answer is complete."""
        self.tokens.append(token)
        if token in self.rule.ends or self._completes_string(token):
            self.finish = "stop"
        elif len(self.tokens) >= self.rule.limit:
            self.finish = "length"
        return self.finish is not None

    @property
    def left(self) -> int:
        """Tokens that the limit still allows."""
        return self.rule.limit - len(self.tokens)

    def _completes_string(self, token: int) -> bool:
        if not self.rule.strings:
            return False
        stops = [s.encode() for s in self.rule.strings]
        seen = self._tail + self.rule.bytes_of(token)
        self._tail = seen[-max(map(len, stops)) :]
        return any(s in seen for s in stops)


def cut(text: str, strings: Sequence[str]) -> str:
    """The text before the first stop string."""
    return text[: min((text.find(s) for s in strings if s in text), default=len(text))]
