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
        dtype = product_dtype(weight.dtype, weight.device)
        self._halved = can_halve(weight)
        self.bytes = weight.numel() * (weight if self._halved else dtype).itemsize
        weight = weight.to(dtype)
        self._bias = None if bias is None else bias.to(dtype)
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
        """X [rows, in], of `product_dtype` -> x @ weight.T + bias [rows, out], likewise."""
        product: Tensor
        if self._halved:
            product = torch.ops.quantized.linear_dynamic_fp16.default(x, self._weight)
            return product if self._unscale == 1 else product.mul_(self._unscale)
        if not self._packed:
            return linear(x, self._weight, self._bias)
        product = torch.ops.mkldnn._linear_pointwise.default(x, self._weight, self._bias, "none", [], "")
        return product


def product_dtype(dtype: torch.dtype, device: torch.device) -> torch.dtype:
    """The dtype in which a network with weights of `dtype` computes: float32 for bfloat16 on a processor without its products.

    There the library's own bfloat16 products are several times slower, and rounding to it after every step would only cost.
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
