"""Architecture and tensors of a GGUF file, with HF's names and HF's order of rows."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from specsafe.errors import UserError
from specsafe.models import rope
from specsafe.models.architecture import (
    Architecture,
    Rotary,
    as_tuple,
    checked,
    checked_head_dim,
    unknown_architecture,
)
from specsafe.models.stored import StoredTensor

_GGUF_FAMILIES = ("llama", "qwen2", "qwen3")
_ROPE_FREQS = "rope_freqs.weight"
_TOP = {
    "token_embd.weight": "embed_tokens.weight",
    "output_norm.weight": "norm.weight",
    "output.weight": "lm_head.weight",
}
_IN_BLOCK = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_BLOCK = re.compile(r"^blk\.(\d+)\.(\w+)\.(weight|bias)$")


class _Keys:
    """Metadata of one file, by key with or without the architecture's prefix."""

    def __init__(self, reader: Any, path: Path) -> None:
        self.fields, self.path = reader.fields, path
        self.family = str(self.get("general.architecture", ""))

    def get(self, key: str, default: Any = None) -> Any:
        field = self.fields.get(key)
        return default if field is None else field.contents()

    def number(self, key: str, default: float | None = None) -> float:
        """A positive number under the architecture's prefix."""
        value = self.get(f"{self.family}.{key}", default)
        if isinstance(value, (list, str, bool)) or value is None or not 0 < value < math.inf:
            raise UserError(
                f"{self.path}: {self.family}.{key} must be one number above 0, got {value!r}",
                "the file is incomplete or varies by layer; fetch another conversion",
            )
        return float(value)

    def count(self, key: str, default: int | None = None) -> int:
        return int(self.number(key, default))


def gguf_architecture(reader: Any, path: Path) -> Architecture:
    """The Architecture of an opened GGUF file (gguf.GGUFReader); path: for messages.

    Vocabulary, biases and tying are read off the tensors. Raises UserError for other architectures,
    missing keys, and rotary or expert settings that our network does not compute.
    """
    keys = _Keys(reader, path)
    if keys.family not in _GGUF_FAMILIES:
        raise unknown_architecture(keys.family or "none named")
    shapes = {tensor.name: _shape(tensor) for tensor in reader.tensors}
    heads = keys.count("attention.head_count")
    head_dim = checked_head_dim(keys.count("attention.key_length", keys.count("embedding_length") // heads))
    _refuse_the_unsupported(keys, head_dim)
    if "token_embd.weight" not in shapes:
        raise UserError(f"{path}: missing tensor token_embd.weight", "the file is incomplete; fetch it again")
    limit = keys.count("context_length")
    rotary = _rotary(keys, head_dim, _frequency_divisors(reader, head_dim, path))
    return checked(
        Architecture(
            family=keys.family,
            vocab_size=shapes["token_embd.weight"][0],
            hidden_size=keys.count("embedding_length"),
            intermediate_size=keys.count("feed_forward_length"),
            layers=keys.count("block_count"),
            heads=heads,
            kv_heads=keys.count("attention.head_count_kv", heads),
            head_dim=head_dim,
            norm_eps=keys.number("attention.layer_norm_rms_epsilon"),
            qkv_bias="blk.0.attn_q.bias" in shapes,
            o_bias="blk.0.attn_output.bias" in shapes,
            qk_norm=keys.family == "qwen3",
            tied="output.weight" not in shapes,
            max_positions=min(limit, keys.count("attention.sliding_window", limit)),
            inverse_frequencies=rotary.inverse_frequencies,
            attention_factor=rotary.attention_factor,
        )
    )


def gguf_tensors(reader: Any, architecture: Architecture, path: Path) -> dict[str, StoredTensor]:
    """HF name -> tensor; each is dequantized to float32 when read. Unknown tensors keep their GGUF name."""
    stored = {}
    for tensor in reader.tensors:
        if tensor.name == _ROPE_FREQS:
            continue
        name = hf_name(tensor.name)
        heads = _interleaved_heads(name, architecture)
        stored[name] = StoredTensor(_shape(tensor), _reader(tensor, heads, path))
    return stored


def hf_name(name: str) -> str:
    """`blk.3.attn_q.weight` -> `layers.3.self_attn.q_proj.weight`; unknown names come back unchanged."""
    match = _BLOCK.match(name)
    if match and match[2] in _IN_BLOCK:
        return f"layers.{match[1]}.{_IN_BLOCK[match[2]]}.{match[3]}"
    return _TOP.get(name, name)


def separate_halves(rows: np.ndarray[Any, Any], heads: int) -> np.ndarray[Any, Any]:
    """Undo the converters' order of q and k rows of llama files; [heads * head_dim, ...] -> same shape.

    GGUF rotates neighbours (row 2i with 2i + 1), HF rotates halves (row i with i + head_dim / 2).
    """
    pairs = rows.reshape(heads, rows.shape[0] // heads // 2, 2, *rows.shape[1:])
    return pairs.swapaxes(1, 2).reshape(rows.shape)


def _interleaved_heads(name: str, architecture: Architecture) -> int:
    """Number of heads whose rows are interleaved in this tensor; 0 where rows are in HF's order."""
    if architecture.family != "llama":
        return 0
    if ".q_proj." in name:
        return architecture.heads
    return architecture.kv_heads if ".k_proj." in name else 0


def _reader(tensor: Any, heads: int, path: Path) -> Callable[[], torch.Tensor]:
    def read() -> torch.Tensor:
        rows = _dequantized(tensor, path)
        # the file is mapped read-only, torch wants memory of its own
        return torch.from_numpy(
            np.require(separate_halves(rows, heads) if heads else rows, np.float32, ["C", "W"])
        )

    return read


def _dequantized(tensor: Any, path: Path) -> np.ndarray[Any, Any]:
    """A tensor of the file as float32 in HF's [out, in] order."""
    from gguf.quants import dequantize

    try:
        rows: np.ndarray[Any, Any] = dequantize(tensor.data, tensor.tensor_type)
    except NotImplementedError as error:
        raise UserError(
            f"{path}: tensor {tensor.name} is stored as {tensor.tensor_type.name}, which cannot be read",
            "use another quantization of the model, such as Q8_0 or Q4_K_M",
        ) from error
    return rows


def _shape(tensor: Any) -> tuple[int, ...]:
    """GGUF counts dimensions from the innermost."""
    return tuple(int(n) for n in reversed(tensor.shape))


def _refuse_the_unsupported(keys: _Keys, head_dim: int) -> None:
    family = keys.family
    fine = {
        "split.count": (0, 1),
        f"{family}.expert_count": (0,),
        f"{family}.rope.dimension_count": (head_dim,),
        f"{family}.attention.value_length": (head_dim,),
        f"{family}.rope.scaling.yarn_log_multiplier": (0.0,),
        f"{family}.rope.scaling.yarn_ext_factor": (1.0, -1.0),
        f"{family}.rope.scaling.yarn_attn_factor": (1.0,),
    }
    for key, allowed in fine.items():
        value = keys.get(key)
        if value is not None and value not in allowed:
            raise UserError(
                f"{keys.path}: {key} = {value!r} is not supported",
                f"expected {' or '.join(str(x) for x in allowed)}; other networks: model=transformers:FOLDER",
            )


def _frequency_divisors(reader: Any, head_dim: int, path: Path) -> rope.Floats | None:
    """The tensor by which files with Llama 3's scaling divide their frequencies."""
    for tensor in reader.tensors:
        if tensor.name == _ROPE_FREQS:
            divisors: rope.Floats = _dequantized(tensor, path).astype(np.float32)
            if divisors.shape != (head_dim // 2,) or not np.all(np.isfinite(divisors) & (divisors > 0)):
                raise UserError(
                    f"{path}: tensor {_ROPE_FREQS} should hold {head_dim // 2} positive numbers, "
                    f"has shape {list(divisors.shape)}",
                    "the file is damaged; fetch it again",
                )
            return divisors
    return None


def _rotary(keys: _Keys, head_dim: int, divisors: rope.Floats | None) -> Rotary:
    """Frequencies from the rope keys: type none, linear (the default where only a factor is given) or yarn."""
    base = keys.number("rope.freq_base", 10000.0)
    prefix = f"{keys.family}.rope."
    given = next((key for key in ("scaling.factor", "scale_linear") if keys.get(prefix + key)), None)
    factor = keys.number(f"rope.{given}") if given else 1.0
    kind = keys.get(prefix + "scaling.type", "linear")
    attention = 1.0
    if kind in ("none", "linear"):
        frequencies = rope.linear(rope.plain(base, head_dim), 1.0 if kind == "none" else factor)
    elif kind == "yarn":
        frequencies = rope.yarn(
            base,
            head_dim,
            factor,
            keys.number("rope.scaling.original_context_length", keys.count("context_length")),
            beta_fast=keys.number("rope.scaling.yarn_beta_fast", 32.0),
            beta_slow=keys.number("rope.scaling.yarn_beta_slow", 1.0),
        )
        attention = rope.yarn_attention_factor(factor)
    else:
        raise UserError(
            f"{keys.path}: {prefix}scaling.type = {kind!r} is not known",
            "known: none, linear, yarn; other networks: model=transformers:FOLDER",
        )
    attention *= keys.number("rope.scaling.attn_factor", 1.0)
    return Rotary(as_tuple(frequencies if divisors is None else frequencies / divisors), attention)
