"""Make a draft from a target by dropping transformer layers of a GGUF file.

The draft keeps the target's tokenizer, chat template, embeddings and output head byte for byte, so a
server accepts it as a draft by construction. Dropped layers cost acceptance; `search.py` measures how
much. Idea: layer skipping as self-speculation (Zhang et al. 2023, arXiv 2309.08168).
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from specsafe.errors import UserError
from specsafe.models.gguf_file import read_gguf

_MOST_LAYERS = 1000
_BLOCK = re.compile(r"^blk\.(\d+)\.(.+)$")


def layer_count(path: Path) -> int:
    """Number of transformer layers of a GGUF file."""
    return _block_count(read_gguf(path))


def drop_layers(source: Path, keep: Sequence[int], destination: Path) -> Path:
    """Write `destination`: `source` with only the layers in `keep`, in that order.

    keep: indices into the source's layers, strictly increasing, 0-based.
    Raises UserError if the file is no GGUF or an index does not exist. The write is atomic.
    """
    import gguf

    reader = read_gguf(source)
    layers = _block_count(reader)
    if not keep or list(keep) != sorted(set(keep)) or keep[0] < 0 or keep[-1] >= layers:
        raise UserError(
            f"layers to keep must be increasing and within 0..{layers - 1}, got {list(keep)}",
            "name each layer once, for example keep=0-11,24-29",
        )
    architecture = str(reader.fields["general.architecture"].contents())
    temporary = destination.with_suffix(f".{os.getpid()}.part")
    writer = gguf.GGUFWriter(temporary, architecture)
    copy_metadata(reader, writer, {f"{architecture}.block_count": len(keep)})
    new_index = {old: new for new, old in enumerate(keep)}
    for tensor in reader.tensors:
        match = _BLOCK.match(tensor.name)
        if match is None:
            name = tensor.name
        elif int(match[1]) in new_index:
            name = f"blk.{new_index[int(match[1])]}.{match[2]}"
        else:
            continue
        writer.add_tensor(name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return temporary.replace(destination)


def parse_keep(text: str) -> tuple[int, ...]:
    """`"0-3+7+9-10"` -> (0, 1, 2, 3, 7, 9, 10). Raises UserError on anything else."""
    kept: list[int] = []
    for part in text.split("+"):
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", part.strip())
        if match is None:
            raise UserError(f"cannot read layers {text!r}", "write ranges joined by +, such as 0-11+24-29")
        first, last = int(match[1]), int(match[2] or match[1])
        if first > last or last >= _MOST_LAYERS:
            raise UserError(
                f"no such range of layers: {part.strip()!r}", "write ranges upwards, such as 0-11+24-29"
            )
        kept.extend(range(first, last + 1))
    return tuple(kept)


def format_keep(keep: Sequence[int]) -> str:
    """Inverse of `parse_keep`, in its shortest form."""
    ranges: list[list[int]] = []
    for layer in keep:
        if ranges and layer == ranges[-1][1] + 1:
            ranges[-1][1] = layer
        else:
            ranges.append([layer, layer])
    return "+".join(str(a) if a == b else f"{a}-{b}" for a, b in ranges)


def _block_count(reader: Any) -> int:
    architecture = str(reader.fields["general.architecture"].contents())
    return int(reader.fields[f"{architecture}.block_count"].contents())


def copy_metadata(reader: Any, writer: Any, override: dict[str, int]) -> None:
    """Copy every key but those the writer sets itself; `override` replaces values."""
    import gguf

    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name == "general.architecture":
            continue
        kind = field.types[0]
        value = override.get(name, field.contents())
        if kind == gguf.GGUFValueType.ARRAY:
            writer.add_key_value(name, value, kind, sub_type=field.types[-1])
        else:
            writer.add_key_value(name, value, kind)
