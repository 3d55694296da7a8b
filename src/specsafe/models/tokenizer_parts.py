"""What a tokenizer is made of, whichever file it came from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class TokenizerParts:
    """A tokenizer's contents.

    backend: tokenizers.Tokenizer. pieces: id -> bytes, for tokens that are text. controls: text -> id of tokens
    that are not text (end of turn, ...). greedy_space: controls that swallow white space before ("l") or
    after ("r") them in a template. bos_ids: what a raw prompt starts with. chat_bos: whether a chat starts
    with bos_ids even where its template does not write them. variables: names the template may use.
    unknown_id: what the backend writes for characters outside the vocabulary, if it writes anything; an id from
    vocab_size on is dropped.
    """

    source: Path
    backend: Any
    pieces: Mapping[int, bytes]
    controls: Mapping[str, int]
    end_ids: frozenset[int]
    bos_ids: tuple[int, ...]
    chat_bos: bool
    template: str | None
    variables: Mapping[str, str]
    vocab_size: int
    sha256: str
    unknown_id: int | None = None
    greedy_space: Mapping[str, str] = field(default_factory=dict)


def byte_letters() -> dict[int, str]:
    """GPT-2's way to write 256 bytes as printable letters: those that print stand for themselves.

    Radford et al. 2019; the other bytes, in order, take the code points from 256 on.
    """
    printing = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printing]
    return {byte: chr(byte) for byte in printing} | {byte: chr(256 + n) for n, byte in enumerate(others)}


def bytes_of_letters(text: str, letter_bytes: Mapping[str, int]) -> bytes:
    """Inverse of `byte_letters` over a token's text; a token outside that alphabet is its own UTF-8."""
    if all(letter in letter_bytes for letter in text):
        return bytes(letter_bytes[letter] for letter in text)
    return text.encode()
