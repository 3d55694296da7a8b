"""A weight matrix as the processor wants it: packed once for oneDNN where that exists, plain elsewhere."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import linear

# The row count that a packing is made for; any other works too. oneDNN packs a plain matrix anew at every
# call, which costs half of a decoding step; packed once, a step of one row reads each weight once.
_ROWS = 8


class Matrix:
    """A linear map; weight [out, in]."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        self._packed = can_pack(weight)
        # Owned memory: a matrix that lies in a larger storage would keep all of that alive.
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight, _ROWS) if self._packed else weight
        self._bias = bias
        self.bytes = weight.numel() * weight.element_size()

    def __call__(self, x: Tensor) -> Tensor:
        """X [rows, in] -> x @ weight.T + bias [rows, out]."""
        if self._packed:
            product: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._weight, self._bias, "none", [], "")
            return product
        return linear(x, self._weight, self._bias)


def can_pack(weight: Tensor) -> bool:
    """Whether oneDNN can hold this matrix in its own layout: on a CPU, in a dtype that it computes in."""
    if weight.device.type != "cpu" or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    if weight.dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return weight.dtype == torch.float32
