"""Text to token ids and back. What a user writes is text, whatever it looks like."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from specsafe.errors import UserError
from specsafe.models.chat_template import Span, render
from specsafe.models.tokenizer_folder import parts_of_folder
from specsafe.models.tokenizer_gguf import parts_of_gguf
from specsafe.models.tokenizer_parts import TokenizerParts


class Tokenizer:
    """The tokenizer of one model.

    end_ids: tokens that end an answer. bos_ids: tokens that a raw prompt starts with, as the file says.
    vocab_size: highest id + 1. sha256: over vocabulary, merges and special tokens; of a GGUF file equal to
    gguf_file.model_facts(path).tokenizer_sha256.
    """

    def __init__(self, parts: TokenizerParts) -> None:
        self._parts = parts
        self._backend = parts.backend
        self._backend.encode_special_tokens = True
        self._after_control = _sentinel(self._backend)
        self.end_ids, self.bos_ids = parts.end_ids, parts.bos_ids
        self.vocab_size, self.sha256 = parts.vocab_size, parts.sha256
        self._not_in_text = frozenset(parts.controls.values()) - {parts.unknown_id}

    def encode(self, text: str, *, special: bool = False) -> list[int]:
        """Token ids of a text, nothing added.

        special: whether control tokens written in the text are read as such. When False, none of the ids is a
        control token: "<|im_end|>" becomes the tokens of its ten characters. Tokens that the file calls
        user-defined are text and always found. Characters whose bytes the vocabulary lacks are dropped, as in
        llama.cpp and transformers. Raises UserError for half a surrogate pair.
        """
        return self._encode_spans([Span(text, trusted=special)])

    def raw(self, prompt: str) -> list[int]:
        """A prompt without a chat template: bos_ids, then the prompt as plain text."""
        return [*self.bos_ids, *self.encode(prompt)]

    def chat(self, prompt: str, system: str = "", prefill: str = "", reply: str | None = None) -> list[int]:
        """One turn in the model's own chat template, up to where the assistant answers, then `prefill`.

        reply: the assistant's answer, if it is there already; the template is then not asked to open another
        one, and the text ends where the template does (a guard's ends where the verdict begins). An empty
        system prompt is no message (the template may have a default of its own). Control tokens of the
        template are recognised, those inside the four texts are encoded as plain text; text between
        two control tokens is cut as one, whoever wrote it, as llama.cpp and transformers do.
        """
        if self._parts.template is None:
            raise UserError(
                f"{self._parts.source} has no chat template", "run without one: chat_template=off"
            )
        messages = ([("system", system)] if system else []) + [("user", prompt)]
        messages += [] if reply is None else [("assistant", reply)]
        spans = render(
            self._parts.template, messages, self._parts.variables, self._parts.source, opens=reply is None
        )
        ids = self._encode_spans([*spans, Span(prefill, trusted=False)])
        return self._with_one_bos(ids) if self._parts.chat_bos else ids

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids; control tokens and unknown ids are skipped, broken UTF-8 becomes U+FFFD."""
        return b"".join(map(self.bytes_of, ids)).decode("utf-8", errors="replace")

    def bytes_of(self, token: int) -> bytes:
        """The bytes that one token adds to a text; empty for control tokens and ids without a token."""
        return self._parts.pieces.get(token, b"")

    def _with_one_bos(self, ids: list[int]) -> list[int]:
        begins = tuple(ids[: len(self.bos_ids)]) == self.bos_ids
        return ids if begins else [*self.bos_ids, *ids]

    def _encode_spans(self, spans: Iterable[Span]) -> list[int]:
        """Control tokens in trusted spans cut the text; the runs between them are encoded as plain text."""
        ids: list[int] = []
        run: list[str] = []
        for span in spans:
            for position, part in enumerate(self._split(span)):
                if position % 2:
                    ids += [*self._plain("".join(run), first=not ids), self._control_id(part)]
                    run = []
                else:
                    run.append(part)
        return ids + self._plain("".join(run), first=not ids)

    def _split(self, span: Span) -> list[str]:
        """Text, control token, text, control token, ..., text."""
        if not span.trusted or not self._parts.controls:
            return [span.text]
        return self._control_pattern.split(span.text)

    @cached_property
    def _control_pattern(self) -> re.Pattern[str]:
        """Every control token, longest first, with the white space it swallows."""
        greedy = self._parts.greedy_space

        def pattern(text: str) -> str:
            sides = greedy.get(text, "")
            return (r"\s*" if "l" in sides else "") + re.escape(text) + (r"\s*" if "r" in sides else "")

        return re.compile(
            "(" + "|".join(pattern(t) for t in sorted(self._parts.controls, key=len, reverse=True)) + ")"
        )

    def _control_id(self, text: str) -> int:
        """The id of a match of `_control_pattern`, with or without the white space around it."""
        controls = self._parts.controls
        return controls[text] if text in controls else controls[text.strip()]

    def _plain(self, text: str, *, first: bool) -> list[int]:
        """Ids of a text in which nothing is a control token. first: nothing stands before it."""
        if not text:
            return []
        _refuse_half_characters(text)
        before = "" if first else self._after_control
        ids: list[int] = self._backend.encode(before + text, add_special_tokens=False).ids
        ids = [token for token in ids[0 if first else 1 :] if token < self.vocab_size]
        controls = self._not_in_text.intersection(ids)
        if controls:
            found = next(name for name, token in self._parts.controls.items() if token in controls)
            raise UserError(
                f"{self._parts.source}: plain text would be read as the control token {found!r}",
                "the vocabulary spells a control token as a word; this text cannot be sent safely",
            )
        return ids


def _refuse_half_characters(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"character {error.start + 1} of a text is half a surrogate pair, which is no character",
            "repair the prompt's encoding",
        ) from error


def _sentinel(backend: Any) -> str:
    """Teach the backend a text that stands for "a control token came before"; its id is cut off again.

    Sentencepiece tokenizers put a space before the first word of a text and only there. The text is random,
    so that no user can write it.
    """
    from tokenizers import AddedToken

    text = f"<{secrets.token_hex(16)}>"
    backend.add_tokens([AddedToken(text, special=False, normalized=False)])
    return text


def load_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer of a GGUF file or of a model folder. Raises UserError if it cannot be read."""
    return Tokenizer(parts_of_folder(path) if path.is_dir() else parts_of_gguf(path))


def same_vocabulary(a: Tokenizer, b: Tokenizer) -> bool:
    """Whether every id means the same in both: same bytes, same control tokens.

    Hashes differ between a GGUF file and a folder of the same model, contents do not; padding does not count.
    """
    one, other = a._parts, b._parts
    return dict(one.pieces) == dict(other.pieces) and dict(one.controls) == dict(other.controls)
