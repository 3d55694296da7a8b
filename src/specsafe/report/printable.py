"""Hostile text made harmless: control, format and private characters never leave as they came."""

from __future__ import annotations

import unicodedata

LONGEST = 2000  # characters shown of one model output
SHORT = 200  # characters shown of an id or of a reason
_BREAKS = {"\n", "\u2028", "\u2029"}


def printable(text: str) -> str:
    """Text without control, format and private characters: nothing in it can drive a terminal. Lines stay."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(c if c == "\n" or unicodedata.category(c)[0] != "C" else "\ufffd" for c in text)


def one_line(text: str) -> str:
    """Printable text in which every line break is a visible sign."""
    return "".join("\u23ce" if c in _BREAKS else c for c in printable(text.replace("\r\n", "\n")))


def cut(text: str, longest: int = LONGEST) -> str:
    """At most `longest` characters of a text, and what its length was where something is left out."""
    if len(text) <= longest:
        return text
    return f"{text[:longest]}… [cut: {longest:,} of {len(text):,} characters]"


def error_line(text: str) -> str:
    """An error as one line: a word of any length leaves the rest of the sentence to be read."""
    return one_line(cut(" ".join(cut(word, SHORT) for word in text.split(" "))))
