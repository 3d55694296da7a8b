"""Tensors that lie in a file, and the check that they are those that the network needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import torch

from specsafe.errors import UserError
from specsafe.models.architecture import Architecture, expected_shapes


class StoredTensor(NamedTuple):
    """A tensor in a file: its shape is known, its numbers are read when asked for."""

    shape: tuple[int, ...]
    read: Callable[[], torch.Tensor]


def read_all(
    architecture: Architecture, stored: Mapping[str, StoredTensor], dtype: torch.dtype, source: Path
) -> dict[str, torch.Tensor]:
    """Names and shapes are checked first, then tensors are read one by one and cast at once.

    Returns contiguous tensors of `dtype` on the CPU that share no memory with the file.
    Raises UserError naming a tensor that is missing, unexpected, misshapen or not finite.
    """
    expected = expected_shapes(architecture)
    check(expected, stored, source)
    tensors = {}
    for name in expected:
        read = stored[name].read()
        if not read.sum(
            dtype=torch.float32
        ).isfinite():  # a sum hands NaN and infinity on, and copies nothing
            raise UserError(
                f"{source}: tensor {name} holds NaN or infinite numbers",
                "the file is damaged; fetch it again",
            )
        tensors[name] = read.to(dtype).contiguous()
    return tensors


def check(expected: Mapping[str, tuple[int, ...]], stored: Mapping[str, StoredTensor], source: Path) -> None:
    """Raise UserError unless `stored` has exactly the expected names and shapes."""
    missing = [name for name in expected if name not in stored]
    unexpected = sorted(set(stored) - set(expected))
    hint = "the file does not fit its own configuration; check where it came from"
    if missing:
        raise UserError(f"{source}: missing tensor {_first(missing)}", hint)
    if unexpected:
        raise UserError(f"{source}: unexpected tensor {_first(unexpected)}", hint)
    for name, shape in expected.items():
        if stored[name].shape != shape:
            raise UserError(
                f"{source}: tensor {name} should have shape {list(shape)}, has {list(stored[name].shape)}",
                hint,
            )


def _first(names: list[str]) -> str:
    return names[0] + (f" and {len(names) - 1} more" if len(names) > 1 else "")
