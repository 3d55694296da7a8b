"""Read a model's weights: a folder with config.json and safetensors, or a GGUF file. Never pickle."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open

from specsafe.errors import UserError
from specsafe.models.architecture import Architecture, from_hf_config
from specsafe.models.gguf_file import read_gguf
from specsafe.models.gguf_weights import gguf_architecture, gguf_tensors
from specsafe.models.stored import StoredTensor, read_all

DTYPES = (torch.float32, torch.bfloat16)
_STORED_FLOATS = {"F64", "F32", "F16", "BF16"}
_PICKLES = (".bin", ".pt", ".pth", ".pkl")
_HARMLESS = re.compile(r"(^|\.)rotary_emb\.(inv_freq|cos_cached|sin_cached)$")


class Checkpoint(NamedTuple):
    """A network's sizes and its tensors, named as in HF checkpoints without the leading "model."."""

    architecture: Architecture
    tensors: dict[str, torch.Tensor]


def load_checkpoint(path: Path, dtype: torch.dtype) -> Checkpoint:
    """Read a GGUF file or a folder with config.json and *.safetensors.

    dtype: float32 or bfloat16. All tensors are contiguous, on the CPU, finite, and exactly those of
    architecture.expected_shapes. Raises UserError naming what is missing, unexpected, misshapen or damaged.
    """
    if dtype not in DTYPES:
        raise UserError(f"weights cannot be read as {dtype}", "use float32 or bfloat16")
    if path.is_dir():
        architecture = from_hf_config(read_json(path / "config.json"))
        stored = _without_the_tied_head(_stored_in_folder(path), architecture, path)
    elif path.is_file():
        _refuse_other_files(path)
        reader = read_gguf(path)
        architecture = gguf_architecture(reader, path)
        stored = gguf_tensors(reader, architecture, path)
    else:
        raise UserError(
            f"no model at {str(path)!r}", "give a .gguf file or a folder with config.json and *.safetensors"
        )
    return Checkpoint(architecture, read_all(architecture, stored, dtype, path))


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file of a model folder. Raises UserError if it is not there or not an object."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(
            f"cannot read {path}: {type(error).__name__}: {error}",
            "a model folder needs config.json and *.safetensors; for a GGUF model give the .gguf file itself",
        ) from error
    if not isinstance(content, dict):
        raise UserError(f"{path} does not hold a JSON object", "check where the folder came from")
    return content


def _refuse_other_files(path: Path) -> None:
    if path.suffix in _PICKLES:
        raise _pickle_refused(path.name)
    if path.suffix == ".safetensors":
        raise UserError(f"{path} is a weight file alone", f"give its folder: {path.parent}")


def _pickle_refused(name: str) -> UserError:
    return UserError(
        f"{name} may hold pickle, which can run code and is never read",
        "convert it to safetensors (transformers: save_pretrained) or use a GGUF file",
    )


def _weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a folder, by transformers' own order of preference."""
    if (folder / "model.safetensors").is_file():
        return [folder / "model.safetensors"]
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        return _shards(folder, read_json(index))
    found = sorted(folder.glob("*.safetensors"))
    if len(found) == 1:
        return found
    if found:
        raise UserError(
            f"{folder} has {len(found)} safetensors files and no model.safetensors.index.json",
            "the index says which files belong together; fetch it too",
        )
    pickles = sorted(p.name for p in folder.iterdir() if p.suffix in _PICKLES)
    if pickles:
        raise _pickle_refused(pickles[0])
    raise UserError(f"{folder} has no *.safetensors", "fetch the weights, or give a .gguf file")


def _shards(folder: Path, index: dict[str, Any]) -> list[Path]:
    weight_map = index.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise UserError(f"{folder}: the safetensors index has no weight_map", "fetch the folder again")
    names = sorted({str(name) for name in weight_map.values()})
    for name in names:
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise UserError(
                f"{folder}: the index names {name!r}", "shards must be .safetensors in the same folder"
            )
        if not (folder / name).is_file():
            raise UserError(f"{folder}: shard {name} is missing", "fetch the folder again")
    return [folder / name for name in names]


def _stored_in_folder(folder: Path) -> dict[str, StoredTensor]:
    stored: dict[str, StoredTensor] = {}
    for file in _weight_files(folder):
        for name, tensor in _stored_in_file(file).items():
            if name in stored:
                raise UserError(f"{folder}: tensor {name} is there twice", "fetch the folder again")
            stored[name] = tensor
    return stored


def _stored_in_file(file: Path) -> dict[str, StoredTensor]:
    stored: dict[str, StoredTensor] = {}
    try:
        opened: Any = safe_open(file, framework="pt", device="cpu")
        for name in opened.keys():  # noqa: SIM118  an opened file is no mapping
            view = opened.get_slice(name)
            if _HARMLESS.search(name):
                continue
            if view.get_dtype() not in _STORED_FLOATS:
                raise UserError(
                    f"{file}: tensor {name} is stored as {view.get_dtype()}",
                    f"known: {', '.join(sorted(_STORED_FLOATS))}; quantized models are read from GGUF",
                )
            short = name.removeprefix("model.")
            if short in stored:
                raise UserError(f"{file}: tensor {short} is there twice", "fetch the file again")
            stored[short] = StoredTensor(tuple(view.get_shape()), _reader(file, opened, name))
    except (SafetensorError, OSError) as error:
        raise _damaged(file, error) from error
    return stored


def _reader(file: Path, opened: Any, name: str) -> Any:
    def read() -> torch.Tensor:
        try:
            # a copy: the file may be replaced while the model answers
            tensor: torch.Tensor = opened.get_tensor(name).clone()
        except (SafetensorError, OSError) as error:
            raise _damaged(file, error) from error
        return tensor

    return read


def _damaged(file: Path, error: Exception) -> UserError:
    return UserError(f"{file} is not a readable safetensors file: {error}", "fetch it again")


def _without_the_tied_head(
    stored: dict[str, StoredTensor], architecture: Architecture, folder: Path
) -> dict[str, StoredTensor]:
    """Some writers store the output head although it is tied: harmless if it is the embedding."""
    if not architecture.tied or "lm_head.weight" not in stored or "embed_tokens.weight" not in stored:
        return stored
    head, embedding = stored["lm_head.weight"], stored["embed_tokens.weight"]
    if head.shape != embedding.shape or not torch.equal(head.read(), embedding.read()):
        raise UserError(
            f"{folder}: lm_head.weight differs from embed_tokens.weight, but config.json ties them",
            "set tie_word_embeddings to false in config.json if the head is its own",
        )
    return {name: tensor for name, tensor in stored.items() if name != "lm_head.weight"}
