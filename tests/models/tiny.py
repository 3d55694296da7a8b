"""Tiny random checkpoints and tokenizers, written with the public writers (transformers, gguf)."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from specsafe.errors import UserError
from specsafe.models.checkpoint import load_checkpoint

F32 = torch.float32
YARN = {"factor": 4.0, "original_max_position_embeddings": 64}
CLASSES = {
    "llama": (LlamaConfig, LlamaForCausalLM),
    "mistral": (MistralConfig, MistralForCausalLM),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM),
}
SIZES = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "head_dim": 8,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GGUF_NAMES = {
    "embed_tokens": "token_embd",
    "norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def tiny_model(family, *, seed=0, **changes):
    """A transformers model of a family with random weights, norms and biases included, in eval mode."""
    config_class, model_class = CLASSES[family]
    torch.manual_seed(seed)
    model = model_class(config_class(**SIZES | changes)).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.normal_(1.0 if "norm" in name else 0.0, 0.2)
    return model


def write_folder(model, folder, **options):
    """config.json and safetensors, as transformers saves them."""
    model.save_pretrained(folder, **options)
    return folder


def plain_names(model):
    """A model's weights under the names that Checkpoint uses; a tied head is left out."""
    weights = {name.removeprefix("model."): tensor for name, tensor in model.state_dict().items()}
    if model.config.tie_word_embeddings:
        weights.pop("lm_head.weight", None)
    return weights


def interleave(rows, heads):
    """The converters' order of q and k rows: the two halves of a head alternate."""
    halves = rows.reshape(heads, 2, rows.shape[0] // heads // 2, *rows.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(rows.shape))


def gguf_name(name):
    """HF's name of a tensor -> GGUF's."""
    stem, _, kind = name.rpartition(".")
    if stem.startswith("layers."):
        _, index, part = stem.split(".", 2)
        return f"blk.{index}.{GGUF_NAMES[part]}.{kind}"
    return f"{GGUF_NAMES[stem]}.{kind}"


def write_gguf(
    model, path, *, architecture="llama", quantized=None, extra=None, keys=(), tokenizer=None, leave_out=()
):
    """A GGUF file of a tiny model.

    quantized: type of the matrices (None: F32). extra: further tensors. keys: further (name, value, type)
    metadata. tokenizer: tokens, merges, types, pre. leave_out: GGUF names of keys or tensors.
    """
    config = model.config
    writer = gguf.GGUFWriter(path, architecture)
    facts = {
        "block_count": config.num_hidden_layers,
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.key_length": config.head_dim,
        "attention.value_length": config.head_dim,
        "rope.dimension_count": config.head_dim,
    }
    for key, value in facts.items():
        if key not in leave_out:
            writer.add_uint32(f"{architecture}.{key}", value)
    writer.add_float32(f"{architecture}.attention.layer_norm_rms_epsilon", config.rms_norm_eps)
    writer.add_float32(f"{architecture}.rope.freq_base", config.rope_parameters["rope_theta"])
    for key, value, kind in keys:
        writer.add_key_value(key, value, kind)
    if tokenizer:
        add_tokenizer(writer, **tokenizer)
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    for name, weight in plain_names(model).items():
        rows = weight.detach().float().numpy()
        part = name.split(".")[-2]
        if architecture == "llama" and part in heads:
            rows = interleave(rows, heads[part])
        add_tensor(writer, gguf_name(name), rows, quantized if rows.ndim == 2 else None, leave_out)
    for name, rows in (extra or {}).items():
        writer.add_tensor(name, rows)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def add_tensor(writer, name, rows, kind, leave_out):
    if name in leave_out:
        return
    if kind is None:
        writer.add_tensor(name, np.ascontiguousarray(rows))
    else:
        writer.add_tensor(name, gguf.quants.quantize(rows, kind), raw_dtype=kind)


def add_tokenizer(writer, *, tokens, merges, types, pre, model="gpt2", template=None, **ids):
    """A vocabulary under GGUF's keys. ids: eos_token_id=…, add_bos_token=…"""
    writer.add_tokenizer_model(model)
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges(merges)
    if template:
        writer.add_chat_template(template)
    for key, value in ids.items():
        add = writer.add_bool if isinstance(value, bool) else writer.add_uint32
        add(f"tokenizer.ggml.{key}", value)


def write_speaking_folder(folder, *, family="llama", seed=0, **changes):
    """A model folder that can be asked: a token a byte, an end token, and a chat template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE({c: i for i, c in enumerate([*letters, "<end>"])}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    template = "{% for m in messages %}{{ m.role[0] + ':' + m.content + '/' }}{% endfor %}"
    write_folder(tiny_model(family, seed=seed, **{"vocab_size": 260, "eos_token_id": 256} | changes), folder)
    special = {"eos_token": "<end>"}
    PreTrainedTokenizerFast(tokenizer_object=backend, chat_template=template, **special).save_pretrained(
        folder
    )
    return folder


def hf_config(a):
    """Transformers' configuration of a network of ours; the frequencies are those of SmolLM2."""
    return LlamaConfig(
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
        rope_parameters={"rope_type": "default", "rope_theta": 100_000.0},
    )


def refused(path, *words, dtype=F32):
    with pytest.raises(UserError) as caught:
        load_checkpoint(path, dtype)
    for word in words:
        assert word in str(caught.value)


def same(left, right):
    assert set(left) == set(right)
    for name, tensor in left.items():
        assert torch.equal(tensor, right[name]), name
