"""Room: models/kernels, models/compiled. Laws: a product is that of its weights, and no bit depends on what stands beside it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from numba import njit
from numba.core.errors import TypingError
from tiny import plain_names, tiny_model

from specsafe.errors import UserError
from specsafe.models import compiled, kernels
from specsafe.models.architecture import from_hf_config
from specsafe.models.cache import SlotCache
from specsafe.models.checkpoint import Checkpoint
from specsafe.models.compiled import CompiledNetwork
from specsafe.models.network import LlamaNetwork, Push, network_of

BF16, F32 = torch.bfloat16, torch.float32
DTYPES = [BF16, F32]


def drawn(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def product(weight, x, bias=None, onto=None):
    """What kernels.product makes of x [R, in] and weight [out, in]."""
    outputs = len(weight)
    bias = np.zeros(outputs, np.float32) if bias is None else bias.numpy()
    out = np.full((len(x), outputs), np.nan, np.float32) if onto is None else onto.numpy().copy()
    kernels.product(compiled.array_of(compiled.panels(weight)), bias, x.numpy(), out, onto is not None)
    return torch.from_numpy(out)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [(1, 1), (31, 7), (32, 64), (70, 33), (129, 160)])
def test_a_product_is_that_of_exact_arithmetic_up_to_rounding(size, dtype):
    outputs, inputs = size
    weight, bias, x, onto = (
        drawn(1, *size).to(dtype),
        drawn(2, outputs),
        drawn(3, 14, inputs),
        drawn(4, 14, outputs),
    )
    exact = x.double() @ weight.double().T
    room = inputs * 2.0**-24 * (x.double().abs() @ weight.double().abs().T)
    assert ((product(weight, x) - exact).abs() <= room).all()
    both = product(weight, x, bias, onto)
    assert (
        (both - (exact + bias + onto)).abs() <= room + 2.0**-22 * (exact.abs() + bias.abs() + onto.abs())
    ).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_of_a_product_do_not_see_each_other(dtype):
    """Alone, in any company, at any place, beside what is no number: the same bits."""
    weight, x = drawn(1, 70, 100).to(dtype), drawn(2, 20, 100)
    alone = torch.cat([product(weight, row[None]) for row in x])
    for count in range(1, 21):
        assert torch.equal(product(weight, x[:count]), alone[:count])
        assert torch.equal(product(weight, x[-count:].contiguous()), alone[-count:])
    spoilt = x.clone()
    spoilt[3] = float("nan")
    others = [r for r in range(20) if r != 3]
    assert torch.equal(product(weight, spoilt)[others], alone[others])
    assert product(weight, spoilt)[3].isnan().all()


@pytest.mark.parametrize("exponent", [-130, -100, -20, 0, 15, 100])
@pytest.mark.parametrize("dtype", DTYPES)
def test_weights_are_read_as_they_are(exponent, dtype):
    """Of any size: a product with unit vectors is the matrix, and so is its table of rows."""
    weight = (drawn(1, 90, 48) * 2.0**exponent).to(dtype)
    assert weight.abs().max() > 0
    assert torch.equal(product(weight, torch.eye(48)).T, weight.float())
    which = torch.tensor([0, 89, 15, 16, 31, 32, 47, 48, 0])
    assert torch.equal(compiled.rows_of(compiled.panels(weight), which), weight[which].float())


@njit
def exponentials(x):
    out = np.empty_like(x)
    for i in range(len(x)):
        out[i] = kernels._exp(x[i])
    return out


def test_the_exponential_is_right_to_the_last_digit_but_one():
    x = np.concatenate([np.linspace(-87, 88, 200_001), np.linspace(-1e-3, 1e-3, 2001)]).astype(np.float32)
    exact = np.exp(x.astype(np.float64))
    assert np.abs(exponentials(x) / exact - 1).max() < 2.0**-23
    assert exponentials(np.zeros(1, np.float32))[0] == 1
    ends = exponentials(np.array([-np.inf, -1e30, -87, 88, 1e30, np.inf, np.nan], np.float32))
    assert list(ends[[0, 1, 4, 5]]) == [0, 0, np.inf, np.inf]
    assert 0 < ends[2] < 2e-38
    assert 1e38 < ends[3] < np.inf
    assert np.isnan(ends[6])
    assert np.array_equal(exponentials(x[:5]), exponentials(x)[:5]), "one number is as good as many"


@njit
def folds(x):
    return kernels._sum(x), kernels._squares(x), kernels._largest(x)


@pytest.mark.parametrize("length", [1, 2, 15, 16, 17, 48, 63, 1000])
def test_sums_and_the_largest_of_vectors_of_any_length(length):
    x = drawn(length, length).numpy() - 5
    total, squares, largest = folds(x)
    exact = x.astype(np.float64)
    assert total == pytest.approx(exact.sum(), rel=1e-6)
    assert squares == pytest.approx((exact**2).sum(), rel=1e-6)
    assert largest == x.max()


def networks(dtype=F32, **changes):
    """The compiled network of tiny random weights."""
    hf = tiny_model("qwen3", **changes)
    tensors = {n: t.detach().to(dtype).contiguous() for n, t in plain_names(hf).items()}
    return CompiledNetwork(Checkpoint(from_hf_config(hf.config.to_dict()), tensors))


def read(network, tokens, widths, rows=1, spoil=False):
    """Hidden states of a text read in passes of these widths, in the last of so many rows that all read it."""
    cache = network.new_cache(rows, 100)
    for _ in range(rows):
        cache.add_row()
    if spoil:
        cache.require_room(0, rows, 100)
        with torch.inference_mode():
            cache.keys.fill_(float("nan"))
            cache.values.fill_(float("nan"))
    return torch.cat(
        [network.forward(part.expand(rows, -1), cache)[-1] for part in tokens[None].split(widths, 1)]
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("heads", [(4, 2), (8, 1), (3, 3)])
def test_hidden_states_are_the_same_bits_however_a_text_is_read(heads, dtype):
    """In one pass or many, beside others, over slots that hold what is no number."""
    network = networks(dtype, num_attention_heads=heads[0], num_key_value_heads=heads[1])
    tokens = torch.arange(70) * 7 % 96
    whole = read(network, tokens, [70])
    assert whole.isfinite().all()
    for widths in ([1] * 70, [33, 1, 5, 31], [31, 2, 37]):
        assert torch.equal(read(network, tokens, widths), whole)
        assert torch.equal(read(network, tokens, widths, rows=5), whole)
    assert torch.equal(read(network, tokens, [40, 3, 27], rows=2, spoil=True), whole)


def test_what_is_not_the_networks_own_is_refused_before_any_loop():
    """Loops look at no bounds: a wrong shape would be read from foreign memory, a token that is none as zeros."""
    network = networks(vocab_size=90)
    other = network.with_layers([0])
    hidden, tokens = torch.zeros(2, 32), torch.zeros(2, 3, dtype=torch.int64)
    cache = network.new_cache(3, 40)
    cache.add_row()
    with pytest.raises(ValueError, match="rows 0 to 1 of a cache that has 1"):
        network.forward(tokens, cache)
    cache.add_row()
    for wrong in (90, 95, -1):
        with pytest.raises(IndexError, match="90 rows of vocabulary"):
            network.forward(tokens + wrong, cache)
    for mixed in (other.new_cache(3, 40), SlotCache((network.layers, 3, 2, 8), 64)):
        mixed.add_row()
        mixed.add_row()
        with pytest.raises(ValueError, match="is not one of this network"):
            network.forward(tokens, mixed)
    for rows in (hidden[:1], hidden[:, :8]):
        with pytest.raises(ValueError, match="a push"):
            network.forward(tokens, cache, push=Push(rows, 0))
    for short in (hidden[:, :31], torch.zeros(2, 64)):
        with pytest.raises(ValueError, match="and 32 in this network"):
            network.logits(short)
    assert cache.lengths == [0, 0]
    tensors = {n: t.double() for n, t in plain_names(tiny_model("llama")).items()}
    with pytest.raises(ValueError, match=r"not in torch\.float64"):
        CompiledNetwork(Checkpoint(from_hf_config(tiny_model("llama").config.to_dict()), tensors))


def test_arrays_that_lie_otherwise_are_refused_by_the_loops():
    weight = compiled.array_of(compiled.panels(drawn(1, 40, 30)))
    bias, out, x = np.zeros(40, np.float32), np.zeros((4, 40), np.float32), drawn(2, 4, 60).numpy()
    for wrong in (x[:, ::2], np.asfortranarray(x[:, :30]), x[:, :30].astype(np.float64)):
        with pytest.raises(TypingError):
            kernels.product(weight, bias, wrong, out, False)


def test_numbers_near_zero_are_no_zeros_whatever_this_thread_was_told():
    network = networks()
    hidden = torch.full((6, 32), 1e-40) * torch.arange(1, 33)
    wanted = network.final(hidden)
    assert torch.set_flush_denormal(True)
    try:
        seen = network.final(hidden)
    finally:
        torch.set_flush_denormal(False)
    assert wanted.abs().min() > 0
    assert torch.equal(seen, wanted)


@pytest.mark.parametrize("capacity", [1, 32, 33, 64, 100, 160])
@pytest.mark.parametrize("head_dim", [8, 64])
def test_a_cache_takes_the_bytes_that_it_tells(capacity, head_dim):
    network = networks(head_dim=head_dim)
    cache = network.new_cache(2, capacity)
    cache.add_row()
    network.forward(torch.zeros(1, cache.capacity, dtype=torch.int64), cache)
    assert cache.bytes == cache.keys.nbytes + cache.values.nbytes
    assert capacity <= cache.capacity < capacity + 32


def test_threads_change_no_bit():
    network, tokens = networks(), torch.arange(70) * 7 % 96
    seen = []
    before = torch.get_num_threads()
    for threads in (1, 2, 64):
        torch.set_num_threads(threads)
        hidden = read(network, tokens, [60, 10])
        seen.append((hidden, network.logits(hidden)))
    torch.set_num_threads(before)
    for hidden, logits in seen[1:]:
        assert torch.equal(hidden, seen[0][0])
        assert torch.equal(logits, seen[0][1])


def test_positions_beyond_the_last_are_read_as_the_last():
    """Drafts may reach there; what they are told is taken back, and nothing is read from beyond the table."""
    network = networks(max_position_embeddings=20)
    cache = network.new_cache(1, 40)
    cache.add_row()
    assert network.forward(torch.arange(30)[None], cache).isfinite().all()


def test_processors_get_compiled_loops_and_what_has_no_numba_gets_torch(monkeypatch):
    hf = tiny_model("llama")
    checkpoint = Checkpoint(from_hf_config(hf.config.to_dict()), plain_names(hf))
    assert type(network_of(checkpoint)) is CompiledNetwork
    with monkeypatch.context() as patch:
        patch.setattr("specsafe.models.network.find_spec", lambda name: None)
        plain = network_of(checkpoint)
        assert type(plain) is LlamaNetwork
        assert plain.library.startswith("torch")
    monkeypatch.setitem(sys.modules, "specsafe.models.compiled", None)
    with pytest.raises(UserError, match="numba is installed and cannot be imported") as error:
        network_of(checkpoint)
    assert "specsafe[native]" in error.value.hint


def test_compiled_code_is_kept_where_one_may_write(tmp_path, monkeypatch):
    monkeypatch.setenv("NUMBA_CACHE_DIR", "")  # so that it is put back
    monkeypatch.delenv("NUMBA_CACHE_DIR")
    hf = tiny_model("llama")
    checkpoint = Checkpoint(from_hf_config(hf.config.to_dict()), plain_names(hf))
    monkeypatch.setattr("specsafe.models.network.os.access", lambda *_: False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    network_of(checkpoint)
    assert os.environ["NUMBA_CACHE_DIR"] == str(tmp_path / "specsafe" / "compiled")
    monkeypatch.setenv("NUMBA_CACHE_DIR", "mine")
    network_of(checkpoint)
    assert os.environ["NUMBA_CACHE_DIR"] == "mine"
    monkeypatch.delenv("NUMBA_CACHE_DIR")
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    network_of(checkpoint)
    own = Path(os.environ["NUMBA_CACHE_DIR"])
    assert own.is_dir()
    own.rmdir()


def test_starting_the_pool_of_threads_leaves_torch_its_own():
    """Both may share one OpenMP, and a pool that starts with all cores would set that number for everybody."""
    said = """
import torch
torch.set_num_threads(1)
from specsafe.models import compiled
import numba
with compiled._loops():
    pass
print(torch.get_num_threads(), numba.get_num_threads())
"""
    done = subprocess.run(
        [sys.executable, "-c", said], capture_output=True, text=True, check=True, timeout=100
    )
    assert done.stdout.split() == ["1", "1"]
