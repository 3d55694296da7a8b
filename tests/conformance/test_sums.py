"""A sum over the vocabulary is the same bits for a row alone as for that row among others, whatever the threads."""

from __future__ import annotations

import pytest
import torch

from specsafe.decoding.sums import log_normalizer, total

SIZES = (49_152, 151_936)


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("words", SIZES)
@pytest.mark.parametrize("of", [total, log_normalizer])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.usefixtures("two_threads")
def test_a_row_alone_sums_to_the_bits_that_it_has_among_others(words, of, dtype):
    values = torch.randn(24, words, generator=torch.Generator().manual_seed(0)).to(dtype) * 6
    among = of(values.view(4, 6, words)).view(24)
    for row in range(24):
        assert torch.equal(of(values[row]), among[row])
        assert torch.equal(of(values[row][None, None])[0, 0], among[row])
    assert torch.equal(of(values[:7]), among[:7])


def test_the_sums_are_sums():
    values = torch.randn(3, 2, 500, dtype=torch.float64)
    assert torch.allclose(total(values), values.sum(-1))
    assert torch.allclose(log_normalizer(values), values.logsumexp(-1))
    assert total(values[:0]).shape == (0, 2)
