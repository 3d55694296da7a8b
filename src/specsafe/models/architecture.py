"""What a checkpoint says of its network: sizes, biases, rotary frequencies. Read from an HF config.json."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from specsafe.errors import UserError
from specsafe.models import rope

Json = dict[str, Any]
FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
_MOST_LAYERS, _WIDEST_HEAD = 1000, 4096
OTHER_ENGINES = "convert the model, or read it through transformers: model=transformers:FOLDER"


@dataclass(frozen=True)
class Architecture:
    """Sizes and switches of one network of the Llama family.

    qkv_bias, o_bias: whether q, k, v and the output projection have biases. qk_norm: RMSNorm over each head of
    q and k (Qwen3). tied: the output head is the embedding. max_positions: the longest context that the file
    allows (sliding windows included, so that a window never matters). inverse_frequencies: head_dim / 2 angles
    per position with the rotary scaling applied; attention_factor multiplies their cos and sin.
    """

    family: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    norm_eps: float
    qkv_bias: bool
    o_bias: bool
    qk_norm: bool
    tied: bool
    max_positions: int
    inverse_frequencies: tuple[float, ...]
    attention_factor: float = 1.0


class Rotary(NamedTuple):
    """Rotary part of an Architecture."""

    inverse_frequencies: tuple[float, ...]
    attention_factor: float


def from_hf_config(config: Json) -> Architecture:
    """Read a config.json of transformers 4.x or 5.x.

    Raises UserError for an unknown architecture, a missing or impossible value, and for everything that the
    network of ours would compute wrongly (partial rotary, other activations, biases in the MLP, ...).
    """
    family = _family(config)
    _refuse_the_unsupported(config, family)
    hidden, heads = _count(config, "hidden_size"), _count(config, "num_attention_heads")
    head_dim = checked_head_dim(_head_dim(config, family, hidden, heads))
    limit = _max_positions(config, family)
    rotary = rotary_of_config(config, head_dim)
    attention_bias = family in ("llama", "qwen3") and bool(config.get("attention_bias"))
    return checked(
        Architecture(
            family=family,
            vocab_size=_count(config, "vocab_size"),
            hidden_size=hidden,
            intermediate_size=_count(config, "intermediate_size"),
            layers=_count(config, "num_hidden_layers"),
            heads=heads,
            kv_heads=_count(config, "num_key_value_heads", heads if family == "llama" else None),
            head_dim=head_dim,
            norm_eps=_positive(config, "rms_norm_eps", 1e-6),
            qkv_bias=attention_bias or family == "qwen2",
            o_bias=attention_bias,
            qk_norm=family == "qwen3",
            tied=bool(config.get("tie_word_embeddings", False)),
            max_positions=limit,
            inverse_frequencies=rotary.inverse_frequencies,
            attention_factor=rotary.attention_factor,
        )
    )


def checked(architecture: Architecture) -> Architecture:
    """The same architecture if its sizes fit each other. Raises UserError otherwise."""
    if architecture.heads % architecture.kv_heads:
        raise UserError(
            f"{architecture.heads} attention heads cannot share {architecture.kv_heads} key-value heads",
            "the number of attention heads must be a multiple; check the model's configuration",
        )
    if architecture.layers > _MOST_LAYERS:
        raise UserError(f"{architecture.layers} layers are no real model", "check the model's configuration")
    if not all(
        math.isfinite(x) and x > 0 for x in (*architecture.inverse_frequencies, architecture.norm_eps)
    ):
        raise UserError(
            "rotary frequencies or norm_eps are not positive numbers", "check the model's rope settings"
        )
    return architecture


def checked_head_dim(head_dim: int) -> int:
    """The same number if rotary embeddings can turn its pairs. Raises UserError otherwise."""
    if head_dim % 2 or head_dim > _WIDEST_HEAD:
        raise UserError(
            f"head_dim {head_dim} is not an even number up to {_WIDEST_HEAD}",
            "check the model's configuration",
        )
    return head_dim


def expected_shapes(a: Architecture) -> dict[str, tuple[int, ...]]:
    """Every tensor the network needs -> its shape ([out, in] for projections)."""
    hidden, q, kv = a.hidden_size, a.heads * a.head_dim, a.kv_heads * a.head_dim
    layer: dict[str, tuple[int, ...]] = {
        "input_layernorm.weight": (hidden,),
        "post_attention_layernorm.weight": (hidden,),
        "self_attn.q_proj.weight": (q, hidden),
        "self_attn.k_proj.weight": (kv, hidden),
        "self_attn.v_proj.weight": (kv, hidden),
        "self_attn.o_proj.weight": (hidden, q),
        "mlp.gate_proj.weight": (a.intermediate_size, hidden),
        "mlp.up_proj.weight": (a.intermediate_size, hidden),
        "mlp.down_proj.weight": (hidden, a.intermediate_size),
    }
    if a.qkv_bias:
        layer |= {f"self_attn.{p}_proj.bias": (n,) for p, n in (("q", q), ("k", kv), ("v", kv))}
    if a.o_bias:
        layer["self_attn.o_proj.bias"] = (hidden,)
    if a.qk_norm:
        layer |= {f"self_attn.{p}_norm.weight": (a.head_dim,) for p in "qk"}
    shapes: dict[str, tuple[int, ...]] = {
        "embed_tokens.weight": (a.vocab_size, hidden),
        "norm.weight": (hidden,),
    }
    if not a.tied:
        shapes["lm_head.weight"] = (a.vocab_size, hidden)
    for index in range(a.layers):
        shapes |= {f"layers.{index}.{name}": shape for name, shape in layer.items()}
    return shapes


def unknown_architecture(found: object) -> UserError:
    """The error for a network that is not of the Llama family."""
    return UserError(
        f"architecture {found!r} is not one that specsafe's own engine computes",
        f"known: {', '.join(FAMILIES)}; other architectures: model=transformers:FOLDER",
    )


def rotary_of_config(config: Json, head_dim: int) -> Rotary:
    """Frequencies from `rope_parameters` (5.x) or `rope_theta` and `rope_scaling` (4.x).

    "dynamic" equals default up to max_positions, and longer contexts are refused by the engine.
    """
    settings = {"rope_theta": config.get("rope_theta", 10000.0), **_rope_settings(config)}
    kind = settings.get("rope_type", settings.get("type", "default"))
    base = _positive(settings, "rope_theta")
    original = config.get("original_max_position_embeddings") or settings.get(
        "original_max_position_embeddings", config.get("max_position_embeddings")
    )
    settings["original_max_position_embeddings"] = original
    if kind == "yarn":
        return _yarn_of_config(config, settings, base, head_dim)
    frequencies = rope.plain(base, head_dim)
    if kind == "linear":
        frequencies = rope.linear(frequencies, _positive(settings, "factor"))
    elif kind == "llama3":
        low, high = _positive(settings, "low_freq_factor"), _positive(settings, "high_freq_factor")
        if low >= high:
            raise UserError(
                f"rope low_freq_factor {low} is not under high_freq_factor {high}", "check config.json"
            )
        frequencies = rope.llama3(
            frequencies,
            _positive(settings, "factor"),
            low,
            high,
            _positive(settings, "original_max_position_embeddings"),
        )
    elif kind not in ("default", "dynamic"):
        raise UserError(
            f"rope_type {kind!r} is not known",
            f"known: default, dynamic, linear, llama3, yarn; {OTHER_ENGINES}",
        )
    return Rotary(as_tuple(frequencies), 1.0)


def as_tuple(frequencies: rope.Floats) -> tuple[float, ...]:
    """Float32 numbers as Python floats, exactly."""
    return tuple(float(x) for x in np.asarray(frequencies, dtype=np.float32))


def _yarn_of_config(config: Json, settings: Json, base: float, head_dim: int) -> Rotary:
    original = _positive(settings, "original_max_position_embeddings")
    if settings.get("factor") is None:
        factor = _count(config, "max_position_embeddings") / original
    else:
        factor = _positive(settings, "factor")
    frequencies = rope.yarn(
        base,
        head_dim,
        factor,
        original,
        beta_fast=_positive(settings, "beta_fast", 32.0),
        beta_slow=_positive(settings, "beta_slow", 1.0),
        truncate=bool(settings.get("truncate", True)),
    )
    mscales = [
        _positive(settings, key) if settings.get(key) else None for key in ("mscale", "mscale_all_dim")
    ]
    computed = rope.yarn_attention_factor(factor, *mscales)
    return Rotary(as_tuple(frequencies), _positive(settings, "attention_factor", computed))


def _rope_settings(config: Json) -> Json:
    """The rotary dictionary under its old or its new name; where both stand, transformers takes the old."""
    settings = config.get("rope_scaling") or config.get("rope_parameters") or {}
    if not isinstance(settings, dict) or any(isinstance(value, dict) for value in settings.values()):
        raise UserError(
            f"config.json: rope settings differ by layer or are no dictionary: {settings!r}", OTHER_ENGINES
        )
    return settings


def _family(config: Json) -> str:
    names = config.get("architectures") or [None]
    kind = config.get("model_type") or str(names[0]).removesuffix("ForCausalLM").lower()
    if kind not in FAMILIES:
        raise unknown_architecture(config.get("model_type") or names[0])
    return str(kind)


def _refuse_the_unsupported(config: Json, family: str) -> None:
    partial = config.get("partial_rotary_factor", _rope_settings(config).get("partial_rotary_factor"))
    wanted: dict[str, tuple[object, bool]] = {
        "hidden_act": (
            config.get("hidden_act", "silu"),
            config.get("hidden_act", "silu") in ("silu", "swish"),
        ),
        "mlp_bias": (config.get("mlp_bias"), not config.get("mlp_bias")),
        "partial_rotary_factor": (partial, partial in (None, 1)),
        "quantization_config": (config.get("quantization_config"), not config.get("quantization_config")),
        "layer_types": (
            config.get("layer_types"),
            set(config.get("layer_types") or ()) <= {"full_attention", "sliding_attention"},
        ),
        "attention_bias": (
            config.get("attention_bias"),
            family != "mistral" or not config.get("attention_bias"),
        ),
    }
    for key, (value, fine) in wanted.items():
        if not fine:
            raise UserError(f"config.json: {key} = {value!r} is not supported for {family}", OTHER_ENGINES)


def _head_dim(config: Json, family: str, hidden: int, heads: int) -> int:
    if config.get("head_dim") is not None:
        return _count(config, "head_dim")
    if family == "qwen3":  # the family's own default does not follow from its other sizes
        return 128
    if hidden % heads:
        raise UserError(
            f"config.json: hidden_size {hidden} is not a multiple of num_attention_heads {heads}",
            "give head_dim, or check where the file came from",
        )
    return hidden // heads


def _max_positions(config: Json, family: str) -> int:
    """The file's limit, cut to its sliding window: within a window, attention is complete."""
    limit = _count(config, "max_position_embeddings")
    slides = (
        family == "mistral"
        or config.get("use_sliding_window") is True
        or "sliding_attention" in (config.get("layer_types") or ())
    )
    if not slides or config.get("sliding_window", 4096) is None:
        return limit
    return min(limit, _count(config, "sliding_window", 4096))


def _count(config: Json, key: str, default: int | None = None) -> int:
    value = config.get(key)
    value = default if value is None else value
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise UserError(
            f"config.json: {key} must be a whole number above 0, got {value!r}",
            "check where the folder came from",
        )
    return value


def _positive(settings: Json, key: str, default: float | None = None) -> float:
    value = settings.get(key)
    value = default if value is None else value
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
        raise UserError(
            f"config.json: {key} must be a number above 0, got {value!r}", "check where the folder came from"
        )
    return float(value)
