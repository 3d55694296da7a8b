"""Build a tokenizer from the metadata of a GGUF file, so that it cuts text as llama.cpp does."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from specsafe.errors import UserError
from specsafe.models.gguf_file import model_facts, read_gguf
from specsafe.models.tokenizer_parts import TokenizerParts, byte_letters, bytes_of_letters

_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED = 1, 2, 3, 4
_END_KEYS = ("eos_token_id", "eot_token_id", "eom_token_id")
# control tokens that end an answer wherever they occur: llama.cpp stops there too, whatever the keys say
_END_TEXTS = ("<|endoftext|>", "<|end_of_text|>", "<|im_end|>", "<|eot_id|>", "<|eom_id|>")
# stands for bytes that the vocabulary lacks: they part their neighbours, then they are dropped (as in llama.cpp);
# byte-level text has no NUL, so no text spells it
_ABSENT = "\0absent"
_USE_A_FOLDER = "give the model's safetensors folder with tokenizer.json instead"


class _Cut(NamedTuple):
    """How a family splits text before merging. pattern: None for GPT-2's own (byte-level) one."""

    pattern: str | None
    digits_alone: bool = False
    whole_words_first: bool = False
    starts_with_bos: bool = False


_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_CUTS = {
    "gpt-2": _Cut(None),
    "smollm": _Cut(None, digits_alone=True),
    "llama-bpe": _Cut(_LLAMA3, whole_words_first=True, starts_with_bos=True),
    "qwen2": _Cut(_LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")),
}


def parts_of_gguf(path: Path) -> TokenizerParts:
    """The tokenizer of a GGUF file with a byte-level BPE vocabulary.

    Normal text is not normalised (llama.cpp does not either). Raises UserError for sentencepiece
    vocabularies, unknown pre-tokenizers and damaged vocabularies.
    """
    fields = read_gguf(path).fields
    cut = _cut(fields, path)
    tokens, kinds = _vocabulary(fields, path)
    letters = {letter: byte for byte, letter in byte_letters().items()}
    pieces = {}
    for token, (text, kind) in enumerate(zip(tokens, kinds, strict=True)):
        if kind in (_NORMAL, _USER_DEFINED):
            pieces[token] = bytes_of_letters(text, letters) if kind == _NORMAL else text.encode()
    controls = {
        text: token
        for token, (text, kind) in enumerate(zip(tokens, kinds, strict=True))
        if kind in (_CONTROL, _UNKNOWN)
    }
    added = [(text, kind) for text, kind in zip(tokens, kinds, strict=True) if kind in (2, 3, 4)]
    bos = _get(fields, "bos_token_id")
    adds_bos = bos is not None and bool(_get(fields, "add_bos_token", cut.starts_with_bos))
    return TokenizerParts(
        source=path,
        backend=_backend(tokens, _get(fields, "merges", []), added, cut, path),
        pieces=pieces,
        controls=controls,
        end_ids=_end_ids(fields, controls),
        bos_ids=(int(bos),) if adds_bos else (),
        chat_bos=adds_bos,
        template=fields["tokenizer.chat_template"].contents()
        if "tokenizer.chat_template" in fields
        else None,
        variables=_variables(fields, tokens),
        vocab_size=len(tokens),
        sha256=model_facts(path).tokenizer_sha256,
        unknown_id=len(tokens),
    )


def _get(fields: Any, key: str, default: Any = None) -> Any:
    field = fields.get(f"tokenizer.ggml.{key}")
    return default if field is None else field.contents()


def _cut(fields: Any, path: Path) -> _Cut:
    model, pre = _get(fields, "model"), _get(fields, "pre")
    if model != "gpt2":
        raise UserError(
            f"{path}: vocabularies of kind {model!r} are not read from GGUF (known: gpt2)", _USE_A_FOLDER
        )
    if pre not in _CUTS:
        raise UserError(f"{path}: unknown pre-tokenizer {pre!r} (known: {', '.join(_CUTS)})", _USE_A_FOLDER)
    return _CUTS[pre]


def _vocabulary(fields: Any, path: Path) -> tuple[list[str], list[int]]:
    try:
        tokens = _get(fields, "tokens") or []
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: a token's text is not UTF-8", _USE_A_FOLDER) from error
    kinds = _get(fields, "token_type") or [_NORMAL] * len(tokens)
    if not tokens or len(kinds) != len(tokens):
        raise UserError(f"{path}: {len(tokens)} tokens, {len(kinds)} token types", "fetch the file again")
    return tokens, kinds


def _backend(
    tokens: list[str], merges: list[str], added: list[tuple[str, int]], cut: _Cut, path: Path
) -> Any:
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

    try:
        model = models.BPE(
            vocab={text: token for token, text in enumerate(tokens)} | {_ABSENT: len(tokens)},
            unk_token=_ABSENT,
            merges=[(left, right) for left, right in (merge.split(" ", 1) for merge in merges)],
            ignore_merges=cut.whole_words_first,
        )
    except Exception as error:  # the library raises bare Exception for merges outside the vocabulary
        raise UserError(f"{path}: the vocabulary is damaged: {error}", _USE_A_FOLDER) from error
    steps: list[Any] = [pre_tokenizers.Digits(individual_digits=True)] if cut.digits_alone else []
    if cut.pattern:
        steps.append(pre_tokenizers.Split(Regex(cut.pattern), behavior="isolated"))
    steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=cut.pattern is None))
    backend = Tokenizer(model)
    # the library's stubs do not know that pre_tokenizer and decoder can be set
    backend.pre_tokenizer = pre_tokenizers.Sequence(steps)  # type: ignore[assignment, unused-ignore]
    backend.decoder = decoders.ByteLevel()  # type: ignore[assignment, unused-ignore]
    plain = [
        AddedToken(text, special=False, normalized=False) for text, kind in added if kind == _USER_DEFINED
    ]
    special = [
        AddedToken(text, special=True, normalized=False) for text, kind in added if kind != _USER_DEFINED
    ]
    backend.add_tokens(plain)
    backend.add_special_tokens(special)
    return backend


def _end_ids(fields: Any, controls: dict[str, int]) -> frozenset[int]:
    named = [_get(fields, key) for key in _END_KEYS]
    return frozenset(
        [int(token) for token in named if token is not None]
        + [controls[text] for text in _END_TEXTS if text in controls]
    )


def _variables(fields: Any, tokens: list[str]) -> dict[str, str]:
    """bos_token, eos_token, ... as the template sees them; an absent one is an empty text, as in llama.cpp."""
    ids = {name: _get(fields, f"{key}_token_id") for name, key in (("bos", "bos"), ("eos", "eos"))}
    return {
        f"{name}_token": tokens[token] if token is not None and 0 <= token < len(tokens) else ""
        for name, token in ids.items()
    }
