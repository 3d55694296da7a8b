"""Weights read back from GGUF files, in the order of safetensors, and files that do not fit refused by name."""

from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from tiny import F32, YARN, hf_config, interleave, plain_names, refused, same, tiny_model, write_gguf

from specsafe.models.architecture import from_hf_config
from specsafe.models.catalogue import DEFAULT_MODEL
from specsafe.models.checkpoint import load_checkpoint
from specsafe.models.gguf_weights import separate_halves

UINT, FLOAT, STRING = gguf.GGUFValueType.UINT32, gguf.GGUFValueType.FLOAT32, gguf.GGUFValueType.STRING


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.mark.parametrize(
    ("family", "architecture"),
    [("llama", "llama"), ("mistral", "llama"), ("qwen2", "qwen2"), ("qwen3", "qwen3")],
)
def test_gguf_of_each_family_comes_back_in_hf_order(family, architecture, tmp_path):
    model = tiny_model(family, tie_word_embeddings=family == "qwen3")
    path = write_gguf(model, tmp_path / "m.gguf", architecture=architecture)
    read = load_checkpoint(path, F32)
    same(read.tensors, plain_names(model))
    a = read.architecture
    saved = from_hf_config(model.config.to_dict() | {"sliding_window": None})
    facts = {field: getattr(saved, field) for field in saved.__dataclass_fields__}
    facts |= {"family": architecture, "norm_eps": a.norm_eps}
    assert {field: getattr(a, field) for field in facts} == facts
    assert a.norm_eps == pytest.approx(saved.norm_eps, rel=1e-6)


def test_biases_of_llama_files_are_permuted_too(tmp_path):
    model = tiny_model("llama", attention_bias=True)
    read = load_checkpoint(write_gguf(model, tmp_path / "m.gguf"), F32)
    assert read.architecture.o_bias
    same(read.tensors, plain_names(model))


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_1", "F16", "BF16"])
def test_quantized_matrices_are_dequantized(kind, tmp_path):
    model, kind = tiny_model("llama"), gguf.GGMLQuantizationType[kind]
    read = load_checkpoint(write_gguf(model, tmp_path / "m.gguf", quantized=kind), F32).tensors
    heads = {"q_proj": 4, "k_proj": 2}
    for name, weight in plain_names(model).items():
        rows, n = weight.detach().numpy(), heads.get(name.split(".")[-2])
        if rows.ndim == 2:
            rows = gguf.quants.dequantize(
                gguf.quants.quantize(interleave(rows, n) if n else rows, kind), kind
            )
            rows = separate_halves(rows, n) if n else rows
        assert np.array_equal(read[name].numpy(), rows), name


def test_separating_halves_undoes_interleaving():
    rows = np.arange(24).reshape(12, 2)
    assert interleave(np.arange(8), 1).tolist() == [0, 4, 1, 5, 2, 6, 3, 7]
    assert np.array_equal(separate_halves(interleave(rows, 3), 3), rows)


def test_rope_keys_and_the_divisors_of_llama3(tmp_path):
    model = tiny_model("llama")
    plain = model.model.rotary_emb.inv_freq.numpy()

    def read(**options):
        return load_checkpoint(write_gguf(model, tmp_path / "m.gguf", **options), F32).architecture

    factor = ("llama.rope.scaling.factor", 4.0, FLOAT)
    kind = "llama.rope.scaling.type"
    assert np.allclose(read(keys=[factor]).inverse_frequencies, plain / 4)
    assert np.allclose(read(keys=[factor, (kind, "linear", STRING)]).inverse_frequencies, plain / 4)
    assert np.allclose(read(keys=[factor, (kind, "none", STRING)]).inverse_frequencies, plain)
    original = ("llama.rope.scaling.original_context_length", 64, UINT)
    yarn = read(keys=[factor, (kind, "yarn", STRING), original])
    config = model.config.to_dict() | {
        "rope_parameters": {"rope_theta": 10000.0, "rope_type": "yarn", **YARN}
    }
    wanted = from_hf_config(config)
    assert yarn.inverse_frequencies == wanted.inverse_frequencies
    assert yarn.attention_factor == wanted.attention_factor > 1
    divisors = np.array([1, 2, 4, 8], dtype=np.float32)
    assert np.allclose(read(extra={"rope_freqs.weight": divisors}).inverse_frequencies, plain / divisors)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"architecture": "gemma2"}, ["gemma2", "transformers:FOLDER"]),
        ({"leave_out": ["blk.1.ffn_up.weight"]}, ["missing tensor layers.1.mlp.up_proj.weight"]),
        ({"leave_out": ["token_embd.weight"]}, ["token_embd.weight"]),
        ({"leave_out": ["block_count"]}, ["llama.block_count"]),
        ({"leave_out": ["embedding_length"]}, ["llama.embedding_length"]),
        (
            {"extra": {"blk.0.ffn_up.bias": np.zeros(64, np.float32)}},
            ["unexpected tensor layers.0.mlp.up_proj.bias"],
        ),
        ({"extra": {"strange.weight": np.zeros(4, np.float32)}}, ["unexpected tensor strange.weight"]),
        ({"extra": {"rope_freqs.weight": np.zeros(4, np.float32)}}, ["rope_freqs.weight"]),
        (
            {"leave_out": ["block_count"], "keys": [("llama.block_count", 2**32 - 1, UINT)]},
            ["4294967295 layers"],
        ),
        (
            {"leave_out": ["attention.key_length"], "keys": [("llama.attention.key_length", 2**31, UINT)]},
            ["head_dim"],
        ),
        ({"keys": [("llama.rope.scaling.factor", -2.0, FLOAT)]}, ["llama.rope.scaling.factor"]),
        ({"keys": [("llama.expert_count", 8, UINT)]}, ["llama.expert_count", "8"]),
        ({"keys": [("split.count", 2, UINT)]}, ["split.count"]),
        ({"keys": [("llama.rope.scaling.type", "longrope", STRING)]}, ["longrope"]),
        (
            {"leave_out": ["rope.dimension_count"], "keys": [("llama.rope.dimension_count", 4, UINT)]},
            ["llama.rope.dimension_count", "4"],
        ),
    ],
    ids=lambda value: str(value)[:60],
)
def test_gguf_files_that_do_not_fit_are_refused(options, words, tmp_path):
    refused(write_gguf(tiny_model("llama"), tmp_path / "m.gguf", **options), *words)


def test_damaged_gguf_files_are_refused(tmp_path):
    path = write_gguf(tiny_model("llama"), tmp_path / "m.gguf")
    whole = path.read_bytes()
    for length in (0, 3, 200, 5000, len(whole) - 100):
        path.write_bytes(whole[:length])
        refused(path, "not a readable GGUF file")
    model = tiny_model("llama")
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[3, 5] = float("nan")
    refused(write_gguf(model, path), "layers.1.mlp.up_proj.weight", "NaN")


@pytest.mark.model
def test_the_real_model_speaks():
    from transformers import LlamaForCausalLM

    from specsafe.models.store import resolve
    from specsafe.models.tokenizer import load_tokenizer

    path = Path(resolve(DEFAULT_MODEL))
    a, tensors = load_checkpoint(path, F32)
    with torch.device("meta"):
        model = LlamaForCausalLM(hf_config(a)).eval()
    model.model.load_state_dict(tensors, assign=True)
    model.model.rotary_emb.inv_freq = torch.tensor(a.inverse_frequencies)
    model.tie_weights()
    tokenizer = load_tokenizer(path)
    ids = tokenizer.chat("What is the capital of France?")
    with torch.no_grad():
        made = model.generate(
            torch.tensor([ids]), max_new_tokens=8, do_sample=False, pad_token_id=2, eos_token_id=2
        )
    assert tokenizer.decode(made[0, len(ids) :].tolist()) == "The capital of France is Paris."
