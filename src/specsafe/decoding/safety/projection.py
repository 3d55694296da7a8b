"""The file of a steering projection: what it was trained for and on, and whether it fits. This module needs no torch.

A safetensors file with one tensor, W, and the record `Projection` as JSON in its metadata.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from specsafe.battery.near import words
from specsafe.decoding.safety.parts import SIGNALS, Method, Risk, Score
from specsafe.errors import UserError

TENSOR, METADATA = "W", "steering"
EPOCHS = 5  # of a training that says nothing else
_LONGEST_HEADER = 100_000_000  # bytes; as safetensors' own
_TRAIN = "train one for it: specsafe steer"
Number = float | int | bool | str
_SCORED = (*SIGNALS, "window", "kl_scale", "lag", "normalized")


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Pair(_Record):
    """Which networks: hashes of their files (the target's own where it drafts), and the layers that draft (none: all)."""

    target_sha256: str
    draft_sha256: str
    layers: tuple[int, ...] = ()


class TrainedOn(_Record):
    """A training prompt: the id of its item, and a hash of its words as battery.near compares them."""

    item: str
    words_sha256: str


class Apart(_Record):
    """A set of evaluation prompts from which all training prompts were shown to be apart.

    pairs: of prompts compared. templated: items compared without the words of their template.
    """

    name: str
    sha256: str
    items: int
    pairs: int
    templated: int


class Training(_Record):
    """How W was made. block: num_speculative_tokens; positions: of answers; loss: mean KL a position, nats."""

    objective: str
    epochs: int
    steps: int
    positions: int
    block: int
    learning_rate: float
    clip: float
    seed: int
    target_dtype: str
    draft_dtype: str
    system_sha256: str
    draft_system_sha256: str
    max_tokens: int
    torch: str


class Projection(_Record):
    """What a file says of itself. scale: see scale_of; shape: of W. before, after: the loss without and with W."""

    format: Literal[1] = 1
    method: str
    pair: Pair
    scale: dict[str, Number]
    shape: tuple[int, int]
    prompts: tuple[TrainedOn, ...]
    apart_from: tuple[Apart, ...]
    training: Training
    loss_before: float
    loss_after: float


def words_sha256(prompt: str) -> str:
    """Hash of a prompt's words, however it is spaced, cased and punctuated."""
    return hashlib.sha256(" ".join(words(prompt)).encode()).hexdigest()


def scale_of(method: Method) -> dict[str, Number]:
    """All numbers by which the size of what is added is made, by their names in `changes`.

    Training and inference must agree in them.
    """
    steering = method.steering
    if steering is None:
        return {}
    numbers: dict[str, Number] = {
        "steering.base": steering.base,
        "steering.amplify": steering.amplify,
        "steering.fraction": steering.fraction,
    }
    if steering.amplify and isinstance(method.control, Score | Risk):
        scored = {f"control.{name}": getattr(method.control, name, None) for name in _SCORED}
        numbers |= {name: value for name, value in scored.items() if value is not None}
        numbers["openings"] = method.openings
    return numbers


def read_projection(path: Path) -> Projection:
    """The record of a file. Raises UserError if it is missing, no safetensors file, or not one of ours."""
    header = _header(path)
    try:
        stored, metadata = header[TENSOR], header["__metadata__"]
        projection = Projection.model_validate_json(metadata[METADATA])
        shape, dtype = tuple(stored["shape"]), stored["dtype"]
    except (KeyError, TypeError, ValidationError) as error:
        what = " ".join(str(error).split())[:120]
        raise UserError(f"steering={path} is no steering projection: {what}", _TRAIN) from error
    if dtype != "F32":
        raise UserError(f"steering={path}: W is stored as {dtype}, not F32", _TRAIN)
    require_shape(path, shape, projection.shape)
    return projection


def require_shape(path: Path, found: Sequence[int], wanted: Sequence[int]) -> None:
    """Raise UserError unless W has the shape that is wanted."""
    if tuple(found) != tuple(wanted):
        raise UserError(f"steering={path}: W is {list(found)}, this pair needs {list(wanted)}", _TRAIN)


def require_fit(path: Path, projection: Projection, method: Method, pair: Pair) -> None:
    """Raise UserError if the projection is another pair's, or was trained at other scales than it would be used at."""
    for field in ("target_sha256", "draft_sha256", "layers"):
        theirs, ours = getattr(projection.pair, field), getattr(pair, field)
        if theirs != ours:
            raise UserError(f"steering={path} is another pair's: {_differing(field, theirs, ours)}", _TRAIN)
    trained, used = projection.scale, scale_of(method)
    for name in (*used, *(n for n in trained if n not in used)):
        if trained.get(name) != used.get(name):
            raise UserError(
                f"steering={path} was trained at {name}={trained.get(name)}, the method uses {used.get(name)}: "
                "training and use need equal scales",
                _TRAIN,
            )


def _differing(field: str, theirs: object, ours: object) -> str:
    if field == "layers":
        return f"its draft has layers {_layers(theirs)}, this one {_layers(ours)}"
    role = field.removesuffix("_sha256")
    return f"its {role} has sha256 {str(theirs)[:12]}…, this one {str(ours)[:12]}…"


def _layers(kept: object) -> str:
    return ", ".join(map(str, kept)) if isinstance(kept, tuple) and kept else "all"


def _header(path: Path) -> Mapping[str, Any]:
    """The JSON that a safetensors file begins with; its length, 8 bytes, comes first."""
    if not path.is_file():
        raise UserError(f"no steering projection at {str(path)!r}", _TRAIN)
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        text = file.read(length) if 0 < length <= _LONGEST_HEADER else b""
    try:
        header = json.loads(text)
    except ValueError as error:
        raise UserError(f"steering={path} is not a readable safetensors file", _TRAIN) from error
    if not isinstance(header, dict):
        raise UserError(f"steering={path} is not a readable safetensors file", _TRAIN)
    return header
