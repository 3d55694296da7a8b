"""Laws of a matrix: its product is that of the weights it was given, whatever memory they lie in."""

from __future__ import annotations

import pytest
import torch

from specsafe.models.linear import Matrix, can_halve, product_dtype

BF16 = torch.bfloat16
COMPUTES = product_dtype(BF16, torch.device("cpu"))
OUT, IN = 96, 64


def drawn(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def weights_seen(matrix: Matrix) -> torch.Tensor:
    """Each weight as the product with a unit vector: [out, in]."""
    return matrix(torch.eye(IN, dtype=COMPUTES)).T.float()


@pytest.mark.parametrize("exponent", [-100, -20, -1, 0, 3, 14, 15, 40])
@pytest.mark.parametrize("spread", [0, 20, 31])
def test_bfloat16_weights_are_read_exactly_down_to_a_small_part_of_the_largest(exponent, spread):
    """Sums over float16 copies are sums over the weights themselves: of any size, and of very different sizes."""
    sizes = torch.linspace(0, -spread, OUT * IN).view(OUT, IN).floor()
    weight = (
        drawn(1, OUT, IN).sign() * (1 + drawn(2, OUT, IN).abs().clamp(max=0.99)) * 2.0**exponent * 2.0**sizes
    ).to(BF16)
    assert torch.equal(weights_seen(Matrix(weight)), weight.float())


@pytest.mark.skipif(
    not can_halve(torch.zeros(1, 1, dtype=BF16)), reason="bfloat16 has products of its own here"
)
def test_smaller_weights_are_off_by_less_than_a_float32_sum_loses():
    weight = torch.full((OUT, IN), 2.0**-45).to(BF16)
    weight[0, 0] = 1.75
    off = (weights_seen(Matrix(weight)) - weight.float()).abs().max()
    assert 0 < off <= 2.0**-40


@pytest.mark.parametrize("rows", [1, 2, 5, 8, 33])
@pytest.mark.parametrize("size", [1e-6, 1.0, 1e5])
@pytest.mark.parametrize("biased", [False, True])
def test_products_and_biases_are_those_of_exact_arithmetic_up_to_rounding(rows, size, biased):
    weight, bias = (drawn(3, OUT, IN) * size).to(BF16), (drawn(4, OUT) * size).to(BF16)
    x = drawn(5, rows, IN).to(BF16)
    exact = x.double() @ weight.double().T + (bias.double() if biased else 0)
    largest = x.double().abs() @ weight.double().abs().T + bias.double().abs()
    got = Matrix(weight, bias if biased else None)(x.to(COMPUTES))
    assert got.dtype == COMPUTES
    rounded = exact.abs() * (2.0**-8 if COMPUTES == BF16 else 0)
    assert ((got.double() - exact).abs() <= largest * 2.0**-20 + rounded).all()
