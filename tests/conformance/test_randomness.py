"""Room: decoding/randomness. Laws: equal to big-integer arithmetic, uniform, independent, never a weight of 0."""

from __future__ import annotations

import hashlib
import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2_contingency, chisquare

from specsafe.decoding.randomness import Purpose, sample, slot_positions, stream_key, uniforms

torch.set_num_threads(1)
WORD = (1 << 64) - 1
words = st.integers(-(1 << 63), (1 << 63) - 1)
positions_ = st.integers(0, (1 << 58))


def mixed(x: int) -> int:
    """SplitMix64's finaliser on unbounded integers."""
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & WORD
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & WORD
    return x ^ (x >> 31)


def oracle(key: int, position: int, purpose: int) -> float:
    counter = position * 16 + purpose + 1
    bits = mixed((mixed(key & WORD) + counter * 0x9E3779B97F4A7C15) & WORD)
    return (bits >> 11) / (1 << 53)


@settings(max_examples=300, deadline=None)
@given(words, positions_, st.sampled_from(Purpose))
def test_equal_to_unbounded_integers(key: int, position: int, purpose: Purpose) -> None:
    got = uniforms(torch.tensor([key]), torch.tensor([position]), purpose)
    assert got.dtype == torch.float64
    assert got.item() == oracle(key, position, purpose)


def test_the_reference_stream_of_splitmix64() -> None:
    """The first outputs of SplitMix64 seeded with 0 are known; key 0 mixes to seed 0."""
    known = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F, 0xF88BB8A8724C81EC]
    zero = torch.tensor([0])
    got = [uniforms(zero, torch.tensor([0]), purpose).item() for purpose in Purpose]
    assert got == [(word >> 11) / (1 << 53) for word in known]


def test_a_number_does_not_depend_on_its_neighbours() -> None:
    keys = torch.tensor([3, -7, 12])
    positions = torch.arange(24).reshape(3, 4, 2)
    whole = uniforms(keys, positions, Purpose.ACCEPT)
    assert whole.shape == (3, 4, 2)
    for i, j, k in itertools.product(range(3), range(4), range(2)):
        alone = uniforms(keys[i : i + 1], positions[i : i + 1, j, k], Purpose.ACCEPT)
        assert alone.item() == whole[i, j, k].item()


def test_stream_keys_fit_int64_and_differ() -> None:
    keys = {stream_key(s, item, r) for s in range(20) for item in ("a", "b", "1 a") for r in range(20)}
    assert len(keys) == 20 * 3 * 20
    assert all(-(1 << 63) <= key < (1 << 63) for key in keys)
    digest = hashlib.sha256(b"specsafe stream 42 1 item").digest()[:8]
    assert stream_key(42, "item", 1) & WORD == int.from_bytes(digest, "big")


def test_uniform() -> None:
    one_stream = uniforms(torch.tensor([stream_key(42, "x", 0)]), torch.arange(200_000)[None], Purpose.TOKEN)
    many_streams = uniforms(torch.arange(200_000), torch.zeros(200_000, dtype=torch.int64), Purpose.TOKEN)
    for numbers in (one_stream, many_streams):
        assert numbers.min() >= 0 and numbers.max() < 1
        assert chisquare(np.histogram(numbers.numpy().ravel(), 256, (0, 1))[0]).pvalue > 1e-4


def _table(a: torch.Tensor, b: torch.Tensor) -> np.ndarray:
    return np.histogram2d(a.numpy().ravel(), b.numpy().ravel(), 16, ((0, 1), (0, 1)))[0]


def test_independent_between_positions_purposes_and_adjacent_keys() -> None:
    keys, positions = torch.arange(2_000), torch.arange(65).expand(2_000, 65)
    numbers = uniforms(keys, positions, Purpose.ACCEPT)
    other = uniforms(keys, positions, Purpose.TOKEN)
    pairs = {
        "positions": (numbers[:, :-1], numbers[:, 1:]),
        "purposes": (numbers, other),
        "purpose and next position": (other[:, :-1], numbers[:, 1:]),
        "keys": (numbers[:-1], numbers[1:]),
        "key and position": (numbers[:-1, 1:], numbers[1:, :-1]),
    }
    for name, (a, b) in pairs.items():
        assert chi2_contingency(_table(a, b)).pvalue > 1e-4, name


def test_fresh_positions_never_meet_each_other_or_plain_ones() -> None:
    starts = torch.arange(50)
    fresh = slot_positions(starts, 9, fresh=True)
    plain = slot_positions(starts, 9, fresh=False)
    assert torch.equal(plain, starts[:, None] + torch.arange(9))
    assert len(fresh.unique()) == fresh.numel()
    assert not set(fresh.ravel().tolist()) & set(plain.ravel().tolist())


@pytest.mark.parametrize("uniform", [0.0, 0.5, 1 - 2.0**-53, 1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_weight_of_zero_is_never_drawn(uniform: float, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(1)
    weights = torch.rand(500, 8, generator=generator, dtype=dtype) * 10.0 ** torch.randint(
        -30, 1, (500, 8), generator=generator
    ).to(dtype)
    weights[torch.rand(500, 8, generator=generator) < 0.6] = 0
    weights[:, 3] += 1e-30 * (weights.sum(1) == 0).to(dtype)
    drawn = sample(weights, torch.full((500,), uniform, dtype=torch.float64))
    assert (weights.gather(1, drawn[:, None]) > 0).all()


def test_zero_draws_the_first_possible_and_one_the_last() -> None:
    weights = torch.tensor([[0.0, 0.25, 0.0, 0.5, 0.25, 0.0]]).expand(6, 6)
    u = torch.tensor([0.0, 0.249, 0.25, 0.749, 0.75, 1 - 2.0**-53], dtype=torch.float64)
    assert sample(weights, u).tolist() == [1, 1, 3, 3, 4, 4]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.floats(0, 1, width=32), min_size=1, max_size=8), st.floats(0, 1, exclude_max=True))
def test_the_inverse_of_the_cumulative_sum(weights: list[float], u: float) -> None:
    if sum(weights) < 1e-300:
        return
    cumulative = list(itertools.accumulate(weights))
    aim = min(u * cumulative[-1], np.nextafter(cumulative[-1], 0.0))
    expected = next(i for i, value in enumerate(cumulative) if value > aim)
    assert sample(torch.tensor(weights), torch.tensor(u, dtype=torch.float64)).item() == expected


def test_a_draw_does_not_depend_on_the_batch() -> None:
    generator = torch.Generator().manual_seed(2)
    weights = torch.randn(3, 4, 20_000, generator=generator).softmax(-1)
    u = torch.rand(3, 4, generator=generator, dtype=torch.float64)
    whole = sample(weights, u)
    for i, j in itertools.product(range(3), range(4)):
        assert sample(weights[i, j].clone(), u[i, j]) == whole[i, j]
