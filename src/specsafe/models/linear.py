"""A weight matrix as the processor wants it: packed once where a library can, plain elsewhere."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import linear

# The row count that a packing is made for; any other works too. oneDNN packs a plain matrix anew at every
# call, which costs half of a decoding step; packed once, a step of one row reads each weight once.
_ROWS = 8


class Matrix:
    """A linear map; weight [out, in]. `bytes`: of memory that it holds.

    Where the processor lacks products of bfloat16, sums are taken in float32 (see `product_dtype`) over weights that stay two
    bytes each: FBGEMM reads them as float16. That has more digits and a smaller range, so they are scaled by a power of two
    that brings the largest to its upper end: weights down to 2^-32 of the largest are exact, others off by 2^-40 of it at most.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        self._dtype = product_dtype(weight.dtype, weight.device)
        self._halved = can_halve(weight)
        self.bytes = weight.numel() * (weight.element_size() if self._halved else self._dtype.itemsize)
        weight = weight.to(self._dtype)
        self._bias = None if bias is None else bias.to(self._dtype)
        self._packed = not self._halved and can_pack(weight)
        self._unscale = 1.0
        if self._halved:
            scale = _scale(weight)
            self._unscale = 1 / scale
            scaled = None if self._bias is None else self._bias * scale
            self._weight = torch.ops.quantized.linear_prepack_fp16(weight * scale, scaled)
        elif self._packed:
            self._weight = torch.ops.mkldnn._reorder_linear_weight(weight, _ROWS)
        else:
            self._weight = weight

    def __call__(self, x: Tensor) -> Tensor:
        """X [rows, in] -> x @ weight.T + bias [rows, out], of x's dtype."""
        product: Tensor
        given = x.to(self._dtype)
        if self._halved:
            product = torch.ops.quantized.linear_dynamic_fp16(given, self._weight)
            if self._unscale != 1:
                product.mul_(self._unscale)
        elif self._packed:
            product = torch.ops.mkldnn._linear_pointwise(given, self._weight, self._bias, "none", [], "")
        else:
            product = linear(given, self._weight, self._bias)
        return product.to(x.dtype)


def product_dtype(dtype: torch.dtype, device: torch.device) -> torch.dtype:
    """The dtype in which sums of products are taken: float32 for bfloat16 on a processor without bfloat16 products.

    There one product is rounded to bfloat16 as a processor that has them would round it, several times sooner than the
    library's own way round.
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


def can_halve(weight: Tensor) -> bool:
    """Whether FBGEMM holds this bfloat16 matrix as float16: where bfloat16 has no products and the processor has AVX2."""
    return product_dtype(weight.dtype, weight.device) != weight.dtype and torch.backends.quantized.engine in (
        "x86",
        "fbgemm",
    )


def _scale(weight: Tensor) -> float:
    """The power of two that brings the largest weight into [2^15, 2^16); 1 where float16 is exact as it is."""
    if torch.equal(weight.half().float(), weight):
        return 1.0
    return 2.0 ** min(15 - math.floor(math.log2(float(weight.abs().max()))), 127)
