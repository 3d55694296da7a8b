"""Facts of a GGUF file that decide whether two models can be target and draft."""

from __future__ import annotations

import hashlib
import json
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from specsafe.errors import UserError
from specsafe.models.store import cache_folder, sha256_file


class ModelFacts(NamedTuple):
    """What a fingerprint says of a model file."""

    sha256: str
    tokenizer_sha256: str
    chat_template_sha256: str


def model_facts(path: Path) -> ModelFacts:
    """Hashes of a GGUF file, its tokenizer and its chat template; kept in the cache by file hash.

    Raises UserError if the file is not a readable GGUF.
    """
    seen = path.stat()
    return _facts(path, seen.st_size, seen.st_mtime_ns)


@lru_cache(maxsize=32)
def _facts(path: Path, size: int, modified: int) -> ModelFacts:
    """Size and time are in the key, so a file that changes is read again."""
    digest = sha256_file(path)
    kept = cache_folder() / "facts" / f"{digest}.json"
    if kept.exists():
        return ModelFacts(**json.loads(kept.read_text()))
    facts = _read_facts(path, digest)
    kept.parent.mkdir(parents=True, exist_ok=True)
    temporary = kept.with_suffix(".part")
    temporary.write_text(json.dumps(facts._asdict()))
    temporary.replace(kept)
    return facts


def read_gguf(path: Path) -> Any:
    """A gguf.GGUFReader whose metadata has been decoded once. Raises UserError if the file is damaged."""
    try:
        seen = path.stat()
        return _reader(path, seen.st_size, seen.st_mtime_ns)
    except Exception as error:  # the reader raises whatever numpy met on damaged bytes
        raise UserError(
            f"{path} is not a readable GGUF file: {type(error).__name__}: {error}",
            "fetch it again: specsafe models pull, or check where it came from",
        ) from error


@lru_cache(maxsize=4)
def _reader(path: Path, size: int, modified: int) -> Any:
    """Reading takes seconds; size and time are in the key, so a file that changes is read again."""
    import gguf
    import numpy as np

    class Reader(gguf.GGUFReader):
        """Its metadata are hundreds of thousands of slices, and a slice of a plain array takes a third of a memory map's time."""

        @property
        def data(self) -> Any:
            return self._data

        @data.setter
        def data(self, mapped: Any) -> None:
            self._data = np.asarray(mapped)

    reader = Reader(path)
    for field in reader.fields.values():
        if field.types and field.types[0] == gguf.GGUFValueType.STRING:
            field.contents()
    return reader


def _read_facts(path: Path, digest: str) -> ModelFacts:
    fields = read_gguf(path).fields
    tokenizer, template = hashlib.sha256(), hashlib.sha256()
    for name in sorted(fields):
        if name == "tokenizer.chat_template":
            template.update(str(fields[name].contents()).encode())
        elif name.startswith("tokenizer.ggml."):
            tokenizer.update(name.encode())
            for part in fields[name].parts:
                tokenizer.update(part.tobytes())
    return ModelFacts(digest, tokenizer.hexdigest(), template.hexdigest())
