"""Rotary frequencies with their scalings, as plain numbers (no torch).

The arithmetic is float32, step by step in the order in which model code does it: a frequency that differs
in its last bit turns by a visible angle at position 8,000.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]


def plain(base: float, head_dim: int) -> Floats:
    """`base ** (-2i / head_dim)` for i < head_dim / 2, shape [head_dim / 2] (Su et al. 2021, arXiv 2104.09864)."""
    return np.float32(1) / _powers(base, head_dim)


def linear(frequencies: Floats, factor: float) -> Floats:
    """Position interpolation: all frequencies divided by `factor` (Chen et al. 2023, arXiv 2306.15595)."""
    return frequencies / np.float32(factor)


def llama3(frequencies: Floats, factor: float, low: float, high: float, original: float) -> Floats:
    """Llama 3.1's scaling: long waves are slowed by `factor`, short ones kept, those between blended.

    low, high: waves per `original` positions under which a wave is long and over which it is short.
    """
    waves = np.float32(original) / (np.float32(2 * math.pi) / frequencies)
    blend = (waves - np.float32(low)) / np.float32(high - low)
    slowed = frequencies / np.float32(factor)
    mixed = (1 - blend) * frequencies / np.float32(factor) + blend * frequencies
    return np.where(waves < low, slowed, np.where(waves > high, frequencies, mixed)).astype(np.float32)


def yarn(
    base: float,
    head_dim: int,
    factor: float,
    original: float,
    *,
    beta_fast: float = 32.0,
    beta_slow: float = 1.0,
    truncate: bool = True,
) -> Floats:
    """YaRN's "NTK by parts" (Peng et al. 2023, arXiv 2309.00071, section 3.2), shape [head_dim / 2].

    Dimensions that turn more than `beta_fast` times in `original` positions are kept, those that turn less
    than `beta_slow` times are divided by `factor`, a ramp lies between. truncate: ramp ends on whole numbers.
    """
    low = _turning_dimension(beta_fast, base, head_dim, original)
    high = _turning_dimension(beta_slow, base, head_dim, original)
    if truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_dim - 1)
    width = high - low if high != low else 0.001
    ramp = (np.arange(head_dim // 2, dtype=np.float32) - np.float32(low)) / np.float32(width)
    kept = 1 - np.clip(ramp, 0, 1)
    powers = _powers(base, head_dim)
    slowed = 1 / (np.float32(factor) * powers)
    return np.asarray(slowed * (1 - kept) + 1 / powers * kept, dtype=np.float32)


def yarn_attention_factor(
    factor: float, mscale: float | None = None, mscale_all_dim: float | None = None
) -> float:
    """The multiplier of cos and sin, `0.1 ln(factor) + 1` (same paper, equation 22); 1 where nothing is stretched."""

    def stretch(scale: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * scale * math.log(factor) + 1.0

    if mscale and mscale_all_dim:
        return stretch(mscale) / stretch(mscale_all_dim)
    return stretch(1.0)


def _powers(base: float, head_dim: int) -> Floats:
    """Powers base ** (2i / head_dim): the exponent is rounded to float32 first, then the power once."""
    exponents = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
    return np.power(float(base), exponents.astype(np.float64)).astype(np.float32)


def _turning_dimension(turns: float, base: float, head_dim: int, original: float) -> float:
    """The dimension whose wave turns `turns` times in `original` positions."""
    return head_dim * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(base))
