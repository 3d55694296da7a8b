"""Weights of the four families read back from safetensors, and damaged folders refused by name."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import F32, plain_names, refused, same, tiny_model, write_folder

from specsafe.models.architecture import FAMILIES, expected_shapes
from specsafe.models.checkpoint import load_checkpoint

F16 = torch.float16


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture
def folder(tmp_path):
    return write_folder(tiny_model("llama"), tmp_path / "model")


def rewrite(folder, change):
    """Change the tensors of a folder's only weight file."""
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def reconfigure(folder, **changes):
    config = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps(config))


# ---------------------------------------------------------------- families


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
