"""Sums over the vocabulary in bits that do not depend on how many rows there are.

torch lets its threads share one sum, and not several: a row alone is therefore summed as if it were two.
"""

from __future__ import annotations

import torch
from torch import Tensor


def total(values: Tensor) -> Tensor:
    """The sums of [..., V] over the last dimension."""
    return _twice(values).sum(-1)[: _rows(values)].view(values.shape[:-1])


def dot(values: Tensor, others: Tensor) -> Tensor:
    """The sums of values times others, both [N, V], over the last dimension."""
    sums: Tensor = torch.linalg.vecdot(_twice(values), _twice(others))
    return sums[: len(values)]


def log_normalizer(logits: Tensor) -> Tensor:
    """Log sum exp of [..., V] over the last dimension."""
    return torch.logsumexp(_twice(logits), -1)[: _rows(logits)].view(logits.shape[:-1])


def _twice(values: Tensor) -> Tensor:
    """Rows [N, V], a lone one repeated."""
    rows = values.reshape(-1, values.shape[-1])
    return rows.expand(2, -1) if len(rows) == 1 else rows


def _rows(values: Tensor) -> int:
    return values.shape[:-1].numel()
