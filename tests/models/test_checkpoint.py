"""Weights of the four families read back from safetensors and GGUF, and damaged files refused by name."""

import json
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import SIZES, interleave, plain_names, tiny_model, write_folder, write_gguf
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from specsafe.errors import UserError
from specsafe.models.architecture import FAMILIES, expected_shapes, from_hf_config
from specsafe.models.catalogue import DEFAULT_MODEL
from specsafe.models.checkpoint import load_checkpoint
from specsafe.models.gguf_weights import separate_halves

F32, F16 = torch.float32, torch.float16
UINT, FLOAT, STRING = gguf.GGUFValueType.UINT32, gguf.GGUFValueType.FLOAT32, gguf.GGUFValueType.STRING


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture
def folder(tmp_path):
    return write_folder(tiny_model("llama"), tmp_path / "model")


def refused(path, *words, dtype=F32):
    with pytest.raises(UserError) as caught:
        load_checkpoint(path, dtype)
    for word in words:
        assert word in str(caught.value)


def same(left, right):
    assert set(left) == set(right)
    for name, tensor in left.items():
        assert torch.equal(tensor, right[name]), name


def rewrite(folder, change):
    """Change the tensors of a folder's only weight file."""
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def reconfigure(folder, **changes):
    config = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps(config))


# ---------------------------------------------------------------- architectures


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_each_family_comes_back_as_it_was_saved(family, tied, tmp_path):
    model = tiny_model(family, tie_word_embeddings=tied)
    architecture, tensors = load_checkpoint(write_folder(model, tmp_path / "m"), F32)
    same(tensors, plain_names(model))
    assert (architecture.family, architecture.tied) == (family, tied)
    assert architecture.qkv_bias == (family == "qwen2")
    assert architecture.qk_norm == (family == "qwen3")
    assert architecture.norm_eps == model.config.rms_norm_eps
    assert architecture.inverse_frequencies == tuple(model.model.rotary_emb.inv_freq.tolist())
    assert {name: tuple(t.shape) for name, t in tensors.items()} == expected_shapes(architecture)
    assert all(t.is_contiguous() and t.dtype == F32 for t in tensors.values())


def test_biases_of_llama_and_qwen3_include_the_output(tmp_path):
    for family in ("llama", "qwen3"):
        model = tiny_model(family, attention_bias=True)
        architecture, tensors = load_checkpoint(write_folder(model, tmp_path / family), F32)
        assert architecture.qkv_bias and architecture.o_bias
        same(tensors, plain_names(model))


def test_shards_and_bfloat16(tmp_path):
    model = tiny_model("qwen2")
    folder = write_folder(model, tmp_path / "m", max_shard_size="20KB")
    assert len(list(folder.glob("*.safetensors"))) > 2
    same(load_checkpoint(folder, torch.bfloat16).tensors, plain_names(model.to(torch.bfloat16)))
    (folder / sorted(p.name for p in folder.glob("*.safetensors"))[0]).unlink()
    refused(folder, "shard model-00001")


def test_half_precision_files_are_widened_exactly(tmp_path):
    model = tiny_model("llama").to(F16)
    tensors = load_checkpoint(write_folder(model, tmp_path / "m"), F32).tensors
    same(tensors, {name: t.float() for name, t in plain_names(model).items()})


def test_weights_share_no_memory_with_the_file(folder):
    before = load_checkpoint(folder, F32).tensors
    kept = {name: t.clone() for name, t in before.items()}
    file = folder / "model.safetensors"
    with file.open("r+b") as opened:
        opened.seek(file.stat().st_size // 2)
        opened.write(b"\x11" * 2000)
    same(before, kept)


OLD = {"rope_theta": 50000.0, "rope_parameters": None}
YARN = {"factor": 4.0, "original_max_position_embeddings": 64}
LLAMA3 = {
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}


@pytest.mark.parametrize("head_dim", [8, 64, 80, 128])
@pytest.mark.parametrize("theta", [10000.0, 100000.0, 500000.0, 1e6])
@pytest.mark.parametrize(
    "scaling",
    [
        {"rope_type": "default"},
        {"rope_type": "linear", "factor": 4.0},
        {"rope_type": "llama3", **LLAMA3},
        {"rope_type": "yarn", **YARN},
        {
            "rope_type": "yarn",
            **YARN,
            "mscale": 1.0,
            "mscale_all_dim": 0.7,
            "beta_fast": 16,
            "truncate": False,
        },
        {"rope_type": "yarn", **YARN, "attention_factor": 0.9},
        {"rope_type": "dynamic", "factor": 2.0},
    ],
    ids=lambda s: "-".join(map(str, s.values())),
)
def test_rotary_frequencies_are_those_of_transformers(scaling, theta, head_dim):
    sizes = SIZES | {"head_dim": head_dim, "max_position_embeddings": 256}
    config = LlamaConfig(**sizes, rope_parameters={"rope_theta": theta, **scaling})
    kind = scaling["rope_type"]
    function = (
        LlamaRotaryEmbedding.compute_default_rope_parameters
        if kind == "default"
        else ROPE_INIT_FUNCTIONS[kind]
    )
    frequencies, factor = function(config)
    old_names = {"rope_theta": theta, "rope_scaling": None if kind == "default" else scaling}
    for written in (config.to_dict(), {"model_type": "llama", **sizes, **old_names}):
        read = from_hf_config(written)
        # a power may round differently in its last bit
        assert np.allclose(read.inverse_frequencies, frequencies.numpy(), rtol=2.5e-7, atol=0)
        assert read.attention_factor == pytest.approx(factor, rel=1e-12)


def test_old_spelling_of_the_rope_type():
    written = {"model_type": "llama", **SIZES, "rope_scaling": {"type": "linear", "factor": 2.0}}
    assert from_hf_config(written).inverse_frequencies[0] == 0.5


def test_a_sliding_window_limits_the_context():
    def limit(family, **keys):
        return from_hf_config(
            {"model_type": family, **SIZES, "max_position_embeddings": 9000} | keys
        ).max_positions

    assert limit("mistral", sliding_window=64) == 64
    assert limit("mistral", sliding_window=None) == 9000
    assert limit("mistral") == 4096  # what transformers assumes
    assert limit("qwen2", sliding_window=64, use_sliding_window=False) == 9000
    assert limit("qwen2", sliding_window=64, use_sliding_window=True) == 64
    assert limit("llama", sliding_window=64) == 9000


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model_type": "gemma2"}, ["gemma2", "llama, mistral, qwen2, qwen3", "transformers:FOLDER"]),
        ({"model_type": None}, ["None"]),
        ({"hidden_act": "gelu"}, ["hidden_act", "gelu"]),
        ({"mlp_bias": True}, ["mlp_bias"]),
        ({"partial_rotary_factor": 0.5}, ["partial_rotary_factor", "0.5"]),
        ({"quantization_config": {"quant_method": "gptq"}}, ["quantization_config", "gptq"]),
        ({"rope_scaling": {"rope_type": "longrope"}}, ["longrope"]),
        ({"rope_scaling": {"full_attention": {"rope_theta": 1.0}}}, ["differ by layer"]),
        ({"rope_scaling": {"rope_type": "linear"}}, ["factor"]),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 2.0, "beta_fast": "x"}}, ["beta_fast"]),
        (
            {"rope_scaling": {"rope_type": "yarn", "factor": 2.0, "mscale": "x", "mscale_all_dim": 1.0}},
            ["mscale"],
        ),
        ({"layer_types": ["linear_attention"]}, ["layer_types"]),
        ({"num_key_value_heads": 3}, ["4 attention heads", "3 key-value heads"]),
        ({"num_hidden_layers": "two"}, ["num_hidden_layers", "two"]),
        ({"hidden_size": 0}, ["hidden_size"]),
        ({"head_dim": 7}, ["head_dim 7"]),
        ({"head_dim": 2**40}, ["head_dim"]),
        ({"num_hidden_layers": 10**9}, ["1000000000 layers"]),
        ({"hidden_size": 33, "head_dim": None}, ["hidden_size 33"]),
        ({"rms_norm_eps": -1}, ["rms_norm_eps"]),
        ({"model_type": "mistral", "attention_bias": True}, ["attention_bias", "mistral"]),
        ({"model_type": "qwen2", "num_key_value_heads": None}, ["num_key_value_heads"]),
    ],
    ids=str,
)
def test_configurations_that_we_would_compute_wrongly_are_refused(changes, words):
    with pytest.raises(UserError) as caught:
        from_hf_config({"model_type": "llama", **SIZES} | changes)
    for word in words:
        assert word in str(caught.value)


# ---------------------------------------------------------------- broken folders


def test_missing_unexpected_and_misshapen_tensors_are_named(folder):
    name = "model.layers.1.self_attn.k_proj.weight"
    rewrite(folder, lambda t: t.update({name: torch.zeros(8, 32)}))
    refused(folder, "layers.1.self_attn.k_proj.weight", "[16, 32]", "[8, 32]")
    rewrite(folder, lambda t: t.pop(name))
    refused(folder, "missing tensor layers.1.self_attn.k_proj.weight")
    rewrite(folder, lambda t: t.update({name: torch.zeros(16, 32), "score.weight": torch.zeros(2)}))
    refused(folder, "unexpected tensor score.weight")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_named(folder, value):
    rewrite(folder, lambda t: t["model.norm.weight"].__setitem__(3, value))
    refused(folder, "norm.weight", "NaN or infinite")


def test_old_rotary_buffers_are_ignored_and_integers_refused(folder):
    rewrite(folder, lambda t: t.update({"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}))
    load_checkpoint(folder, F32)
    rewrite(folder, lambda t: t.update({"model.norm.weight": torch.ones(32, dtype=torch.int8)}))
    refused(folder, "model.norm.weight", "I8")


def test_a_tied_head_may_be_stored_only_if_it_is_the_embedding(folder):
    reconfigure(folder, tie_word_embeddings=True)
    refused(folder, "lm_head.weight differs")
    rewrite(folder, lambda t: t.update({"lm_head.weight": t["model.embed_tokens.weight"].clone()}))
    assert "lm_head.weight" not in load_checkpoint(folder, F32).tensors
    reconfigure(folder, tie_word_embeddings=False)
    rewrite(folder, lambda t: t.pop("lm_head.weight"))
    refused(folder, "missing tensor lm_head.weight")


@pytest.mark.parametrize("suffix", ["bin", "pt", "pth", "pkl"])
def test_pickle_is_never_read(folder, suffix):
    (folder / "model.safetensors").unlink()
    pickle = folder / f"pytorch_model.{suffix}"
    pickle.write_bytes(b"cos\nsystem\n(S'exit 1'\ntR.")
    refused(folder, pickle.name, "pickle")
    refused(pickle, pickle.name, "pickle")


@pytest.mark.parametrize("length", [0, 7, 100, 5000])
def test_truncated_safetensors_are_refused(folder, length):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:length])
    refused(folder, "model.safetensors is not a readable safetensors file")


def test_a_header_that_lies_is_refused(folder):
    file = folder / "model.safetensors"
    file.write_bytes((2**62).to_bytes(8, "little") + b"{}")
    refused(folder, "not a readable safetensors file")


def test_folders_that_are_no_models(tmp_path, folder):
    refused(tmp_path / "nothing", "no model at")
    empty = tmp_path / "empty"
    empty.mkdir()
    refused(empty, "config.json")
    refused(folder / "model.safetensors", "weight file alone")
    refused(folder, "float16", dtype=F16)
    (folder / "config.json").write_text("[1]")
    refused(folder, "JSON object")
    (folder / "config.json").write_bytes(b"{\xff")
    refused(folder, "cannot read")


def test_an_index_cannot_point_outside_its_folder(folder):
    file = folder / "model.safetensors"
    file.rename(folder.parent / "other.safetensors")
    index = folder / "model.safetensors.index.json"
    for name in ("../other.safetensors", "weights.bin"):
        index.write_text(json.dumps({"weight_map": {"norm.weight": name}}))
        refused(folder, repr(name))
    index.write_text("{}")
    refused(folder, "no weight_map")


# ---------------------------------------------------------------- GGUF


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
    config = LlamaConfig(
        vocab_size=a.vocab_size,
        hidden_size=a.hidden_size,
        intermediate_size=a.intermediate_size,
        num_hidden_layers=a.layers,
        num_attention_heads=a.heads,
        num_key_value_heads=a.kv_heads,
        head_dim=a.head_dim,
        rms_norm_eps=a.norm_eps,
        tie_word_embeddings=a.tied,
        max_position_embeddings=a.max_positions,
        rope_parameters={"rope_type": "default", "rope_theta": 100000.0},
    )
    with torch.device("meta"):
        model = LlamaForCausalLM(config).eval()
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
