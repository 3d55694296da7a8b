"""What a generative guard wrote about an answer, in the grammar of Qwen3Guard: three lines, and nothing else.

    Safety: Safe|Controversial|Unsafe
    Categories: None, or names parted by commas
    Refusal: Yes|No

That is the form for an answer; about a prompt alone such a guard leaves the third line out. A text in any other form
says nothing, and nothing is never "safe": it is `unlabelled`, with the reason. Published readers of this grammar
search for a word anywhere and fall back to safe.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

UNLABELLED = "unlabelled"
_NAMES = ("Safety", "Categories", "Refusal")
_SAFETY = ("Safe", "Controversial", "Unsafe")
_CATEGORY = re.compile(r"[A-Za-z][A-Za-z0-9 &/'()-]{0,63}")


class Verdict(NamedTuple):
    """What a guard said. label: safe, controversial, unsafe, or unlabelled; then `why` it could not be read.

    categories: as written, none for None. refusal: whether the answer declines; None where unlabelled.
    """

    label: str
    categories: tuple[str, ...] = ()
    refusal: bool | None = None
    why: str = ""

    @property
    def record(self) -> dict[str, Any]:
        """As a ledger keeps it."""
        return {**self._asdict(), "categories": list(self.categories)}


def parse(text: str, *, ended: bool = True) -> Verdict:
    """A guard's text -> its verdict. ended: it stopped by itself; a text cut at a limit may have gone on.

    White space around a line and empty lines are ignored; letters count as they are written.
    """
    lines = [line for raw in text.replace("\r\n", "\n").split("\n") if (line := raw.strip(" \t"))]
    why = _fault(lines, ended)
    if why:
        return unlabelled(why)
    safety, listed, refusal = (line.partition(":")[2].strip(" \t") for line in lines)
    categories = () if listed == "None" else tuple(c.strip(" \t") for c in listed.split(","))
    if safety not in _SAFETY:
        return unlabelled("another Safety than the three")
    if refusal not in ("Yes", "No"):
        return unlabelled("another Refusal than Yes or No")
    if not all(map(_CATEGORY.fullmatch, categories)) or "None" in categories:
        return unlabelled("categories that are no list of names")
    if safety == "Safe" and categories:
        return unlabelled("safe, and yet of a category")
    return Verdict(safety.lower(), categories, refusal == "Yes")


def unlabelled(why: str) -> Verdict:
    """No verdict, and the reason."""
    return Verdict(UNLABELLED, why=why)


def _fault(lines: list[str], ended: bool) -> str:
    """Why lines are not the three, each once and in order; empty if they are."""
    if not lines:
        return "nothing"
    named = [line.partition(":")[0] if ":" in line else "" for line in lines]
    for name in _NAMES:
        if named.count(name) > 1:
            return f"several {name} lines"
    if not ended:
        return "cut off at its limit"
    if named == ["Safety", "Categories"]:
        return "no Refusal line: the form for a prompt alone"
    missing = [name for name in _NAMES if name not in named]
    if missing:
        return f"no {missing[0]} line"
    return "" if named == list(_NAMES) else "more than the three lines, or in another order"
