"""A weight matrix as the processor wants it: packed once for oneDNN where that exists, plain elsewhere."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import linear

# The row count that a packing is made for; any other works too. oneDNN packs a plain matrix anew at every
# call, which costs half of a decoding step; packed once, a step of one row reads each weight once.
_ROWS = 8


class Matrix:
    """A linear map; weight [out, in]. Where the processor lacks products of a dtype, see `product_dtype`."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        self._dtype = product_dtype(weight.dtype, weight.device)
        # One row waits for the weights to be read, and these are half the bytes: a lone row is summed over them.
        self.narrow = weight if self._dtype != weight.dtype else None
        self._narrow_bias = bias
        weight = weight.to(self._dtype)
        self._packed = can_pack(weight)
        # Owned memory: a matrix that lies in a larger storage would keep all of that alive.
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight, _ROWS) if self._packed else weight
        self._bias = None if bias is None else bias.to(self._dtype)
        self.bytes = weight.numel() * weight.element_size()

    def __call__(self, x: Tensor) -> Tensor:
        """X [rows, in] -> x @ weight.T + bias [rows, out], of x's dtype."""
        if self.narrow is not None and x.shape[0] == 1:
            return linear(x, self.narrow, self._narrow_bias)
        given = x.to(self._dtype)
        if self._packed:
            product: Tensor = torch.ops.mkldnn._linear_pointwise(
                given, self._weight, self._bias, "none", [], ""
            )
        else:
            product = linear(given, self._weight, self._bias)
        return product.to(x.dtype)


def product_dtype(dtype: torch.dtype, device: torch.device) -> torch.dtype:
    """The dtype in which sums of products are taken: float32 for bfloat16 on a processor without bfloat16 products.

    There one product is rounded to bfloat16 as a processor that has them would round it, several times sooner than the
    library's own way round; the weights take three times the memory, for a single row is read in bfloat16 (fast there).
    """
    if dtype != torch.bfloat16 or device.type != "cpu":
        return dtype
    return dtype if torch.ops.mkldnn._is_mkldnn_bf16_supported() else torch.float32


def can_pack(weight: Tensor) -> bool:
    """Whether oneDNN can hold this matrix in its own layout: on a CPU, in a dtype that it computes in."""
    if weight.device.type != "cpu" or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    return weight.dtype in (torch.bfloat16, torch.float32) and weight.dtype == product_dtype(
        weight.dtype, weight.device
    )
