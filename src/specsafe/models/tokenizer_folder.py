"""The tokenizer of a model folder, through transformers; no code from the folder ever runs."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from specsafe.errors import UserError
from specsafe.models.tokenizer_parts import TokenizerParts, byte_letters, bytes_of_letters

_BYTE_TOKEN = re.compile(r"^<0x([0-9A-F]{2})>$")


def parts_of_folder(folder: Path) -> TokenizerParts:
    """The tokenizer of a folder with tokenizer.json (or what transformers can convert into one).

    Raises UserError if transformers cannot read it without running the folder's code, or if the bytes of its
    tokens cannot be told.
    """
    reader = _read(folder)
    backend = reader.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    layout = json.loads(backend.to_str())
    added = backend.get_added_tokens_decoder()
    vocabulary: dict[str, int] = backend.get_vocab(with_added_tokens=True)
    controls = {
        token.content: number
        for number, token in added.items()
        if token.special or token.content in reader.all_special_tokens
    }
    _mark_controls(backend, added, controls)
    bytes_of = _bytes_reader(layout, folder)
    pieces = {
        number: text.encode() if number in added else bytes_of(text)
        for text, number in vocabulary.items()
        if text not in controls
    }
    return TokenizerParts(
        source=folder,
        backend=backend,
        pieces=pieces,
        controls=controls,
        end_ids=_end_ids(folder, reader),
        bos_ids=_bos_ids(backend),
        chat_bos=False,
        template=_template(reader),
        variables={
            name: str(text) for name, text in reader.special_tokens_map.items() if isinstance(text, str)
        },
        vocab_size=max(vocabulary.values()) + 1,
        sha256=_sha256(vocabulary, layout, controls),
        unknown_id=vocabulary.get(layout["model"].get("unk_token") or ""),
        greedy_space={
            token.content: "l" * token.lstrip + "r" * token.rstrip
            for token in added.values()
            if token.content in controls and (token.lstrip or token.rstrip)
        },
    )


def _read(folder: Path) -> Any:
    from transformers import AutoTokenizer

    try:
        reader = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except Exception as error:  # transformers raises whatever its readers met
        reason = str(error).strip().split("\n")[0]
        raise UserError(
            f"{folder}: cannot read the tokenizer: {type(error).__name__}: {reason}",
            "the folder needs tokenizer.json and tokenizer_config.json, and no code of its own",
        ) from error
    if getattr(reader, "backend_tokenizer", None) is None:
        raise UserError(
            f"{folder}: its tokenizer ({type(reader).__name__}) has no tokenizer.json",
            "save it as one with transformers: AutoTokenizer.from_pretrained(...).save_pretrained(...)",
        )
    return reader


def _mark_controls(backend: Any, added: dict[int, Any], controls: dict[str, int]) -> None:
    """Some folders list a control token as plain: declared again, it is left alone in user text too."""
    from tokenizers import AddedToken

    plain = [token for token in added.values() if token.content in controls and not token.special]
    if plain:
        backend.add_special_tokens(
            [
                AddedToken(
                    token.content, special=True, normalized=False, lstrip=token.lstrip, rstrip=token.rstrip
                )
                for token in plain
            ]
        )


def _bytes_reader(layout: dict[str, Any], folder: Path) -> Callable[[str], bytes]:
    """Byte-level vocabularies spell bytes as letters; sentencepiece ones write ▁ for a space and <0x0A> for bytes."""
    decoder = json.dumps(layout.get("decoder"), ensure_ascii=False)
    if "ByteLevel" in decoder:
        letters = {letter: byte for byte, letter in byte_letters().items()}
        return lambda text: bytes_of_letters(text, letters)
    if "▁" in decoder or "Metaspace" in decoder:
        return _sentencepiece_bytes
    raise UserError(
        f"{folder}: tokens are decoded by {decoder[:80]}, whose bytes specsafe cannot tell",
        "known: byte-level and sentencepiece vocabularies",
    )


def _sentencepiece_bytes(text: str) -> bytes:
    match = _BYTE_TOKEN.match(text)
    return bytes([int(match[1], 16)]) if match else text.replace("▁", " ").encode()


def _end_ids(folder: Path, reader: Any) -> frozenset[int]:
    """The tokenizer's own and those of generation_config.json (config.json where there is none)."""
    ends = {reader.eos_token_id} - {None}
    for name in ("generation_config.json", "config.json"):
        file = folder / name
        if file.is_file():
            try:
                said = json.loads(file.read_text(encoding="utf-8")).get("eos_token_id")
            except (ValueError, AttributeError) as error:
                raise UserError(f"cannot read {file}: {error}", "fetch the folder again") from error
            ends |= set(said) if isinstance(said, list) else {said} - {None}
            break
    return frozenset(int(token) for token in ends)


def _bos_ids(backend: Any) -> tuple[int, ...]:
    """What the tokenizer puts before a text of its own accord."""
    encoding = backend.encode("a", add_special_tokens=True)
    marked = zip(encoding.ids, encoding.special_tokens_mask, strict=True)
    return tuple(token for token, _ in itertools.takewhile(lambda pair: pair[1], marked))


def _template(reader: Any) -> str | None:
    template = reader.chat_template
    if isinstance(template, dict):
        template = template.get("default")
    return template if isinstance(template, str) else None


def _sha256(vocabulary: dict[str, int], layout: dict[str, Any], controls: dict[str, int]) -> str:
    content = [sorted(vocabulary.items()), layout["model"].get("merges"), sorted(controls.items())]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()
