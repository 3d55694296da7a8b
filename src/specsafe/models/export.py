"""Write a GGUF model as a folder that other stacks read: config.json, safetensors, tokenizer, chat template.

Weights are dequantized; what is written is read back, and refused if it would describe another network. Run as
`python -m specsafe.models.export MODEL FOLDER DTYPE`: one line of JSON tells how it went.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch

from specsafe.errors import UserError
from specsafe.models.architecture import Architecture, from_hf_config
from specsafe.models.checkpoint import load_checkpoint
from specsafe.models.gguf_file import read_gguf
from specsafe.models.tokenizer_gguf import parts_of_gguf
from specsafe.models.tokenizer_parts import TokenizerParts

DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}
_CLASSES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}


def export(model: Path, folder: Path, dtype: str) -> None:
    """model: a GGUF file. folder: must not exist, or be empty. dtype: of the weights, bfloat16 or float32.

    Raises UserError for a file that cannot be read, and for a network that such a folder would not describe exactly
    (stretched rotary frequencies).
    """
    from safetensors.torch import save_file

    if folder.exists() and any(folder.iterdir()):
        raise UserError(f"{folder} is not empty", "name a new folder")
    checkpoint, parts = load_checkpoint(model, DTYPES[dtype]), parts_of_gguf(model)
    config = _config(checkpoint.architecture, _rope_theta(model), parts, dtype)
    if from_hf_config(config) != checkpoint.architecture:
        raise UserError(
            f"{model}: a config.json of this kind would describe another network",
            "its rotary frequencies are stretched in a way that is not written; use the model's own folder",
        )
    folder.mkdir(parents=True, exist_ok=True)
    named = {n if n.startswith("lm_head") else f"model.{n}": t for n, t in checkpoint.tensors.items()}
    save_file(named, str(folder / "model.safetensors"), metadata={"format": "pt"})
    files = {
        "tokenizer.json": _tokenizer(parts),
        "tokenizer_config.json": _tokenizer_config(parts, checkpoint.architecture),
        # temperature and the like are left to who asks
        "generation_config.json": {"eos_token_id": sorted(parts.end_ids)},
        "config.json": config,  # last: a folder without it is no model
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


def _rope_theta(model: Path) -> float:
    fields = read_gguf(model).fields
    field = fields.get(f"{fields['general.architecture'].contents()}.rope.freq_base")
    return 10000.0 if field is None else float(field.contents())


def _config(a: Architecture, rope_theta: float, parts: TokenizerParts, dtype: str) -> dict[str, Any]:
    return {
        "architectures": [_CLASSES[a.family]],
        "model_type": a.family,
        "vocab_size": a.vocab_size,
        "hidden_size": a.hidden_size,
        "intermediate_size": a.intermediate_size,
        "num_hidden_layers": a.layers,
        "num_attention_heads": a.heads,
        "num_key_value_heads": a.kv_heads,
        "head_dim": a.head_dim,
        "hidden_act": "silu",
        "rms_norm_eps": a.norm_eps,
        "max_position_embeddings": a.max_positions,
        "rope_theta": rope_theta,
        "rope_parameters": {"rope_type": "default", "rope_theta": rope_theta},
        "tie_word_embeddings": a.tied,
        "attention_bias": a.family != "qwen2" and a.qkv_bias,
        "mlp_bias": False,
        "dtype": dtype,
        "torch_dtype": dtype,
        "bos_token_id": parts.bos_ids[0] if parts.bos_ids else None,
        "eos_token_id": sorted(parts.end_ids),
    }


def _tokenizer(parts: TokenizerParts) -> dict[str, Any]:
    """tokenizer.json: ours without the token that stands for bytes outside the vocabulary, which no network has a row for."""
    tokenizer: dict[str, Any] = json.loads(parts.backend.to_str())
    vocabulary = tokenizer["model"]["vocab"]
    tokenizer["model"]["vocab"] = {t: n for t, n in vocabulary.items() if n < parts.vocab_size}
    tokenizer["model"]["unk_token"] = None
    if parts.bos_ids:
        first = next(t for t, n in parts.controls.items() if n == parts.bos_ids[0])
        one = [{"SpecialToken": {"id": first, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
        tokenizer["post_processor"] = {
            "type": "TemplateProcessing",
            "single": one,
            "pair": [*one, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {first: {"id": first, "ids": [parts.bos_ids[0]], "tokens": [first]}},
        }
    return tokenizer


def _tokenizer_config(parts: TokenizerParts, a: Architecture) -> dict[str, Any]:
    named = {name: text for name, text in parts.variables.items() if text}
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "model_max_length": a.max_positions,
        **named,
        **({"chat_template": parts.template} if parts.template else {}),
    }


def main() -> None:
    """See the module."""
    model, folder, dtype = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    try:
        export(model, folder, dtype)
    except UserError as error:
        print(json.dumps({"failed": error.message, "hint": error.hint}))
    else:
        print(json.dumps({"done": str(folder)}))


if __name__ == "__main__":
    main()
