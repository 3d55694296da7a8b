"""Tiny GGUF files: llama.cpp's log-probabilities against transformers with the weights that we read."""

import gguf
import numpy as np
import pytest
import torch
from tiny import tiny_model, write_gguf
from tokenizers import pre_tokenizers

from specsafe.models.checkpoint import load_checkpoint

xllamacpp = pytest.importorskip("xllamacpp")
FLOAT, STRING, UINT = gguf.GGUFValueType.FLOAT32, gguf.GGUFValueType.STRING, gguf.GGUFValueType.UINT32
LETTERS = sorted(pre_tokenizers.ByteLevel.alphabet())
VOCABULARY = {"tokens": [*LETTERS, "th"], "merges": ["t h"], "types": [1] * 257, "pre": "gpt-2"}
LINEAR = [("llama.rope.scaling.type", "linear", STRING), ("llama.rope.scaling.factor", 4.0, FLOAT)]
YARN = [
    ("llama.rope.scaling.type", "yarn", STRING),
    ("llama.rope.scaling.factor", 4.0, FLOAT),
    ("llama.rope.scaling.original_context_length", 32, UINT),
]
DIVISORS = {"rope_freqs.weight": np.array([1, 2, 4, 8], np.float32)}
PROMPTS = [[(7 * n * n + k) % 257 for n in range(40 + k)] for k in range(12)]


def llama_tops(path):
    """Prompt -> {token: log-probability} of the ten most likely next tokens.

    llama.cpp gives none where the first token is half a character; such prompts are left out.
    """
    p = xllamacpp.CommonParams()
    p.model.path, p.n_ctx, p.ui, p.verbosity, p.cpuparams.n_threads = str(path), 128, False, 0, 1
    p.fit_params, p.warmup = False, False
    # in half precision both would hide small mistakes
    p.cache_type_k = p.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    p.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    server = xllamacpp.Server(p)
    for prompt in PROMPTS:
        body = {"prompt": prompt, "max_tokens": 1, "temperature": 0, "logprobs": 10, "cache_prompt": False}
        said = server.handle_completions(body)["choices"][0].get("logprobs")
        if said:
            yield prompt, {top["id"]: top["logprob"] for top in said["content"][0]["top_logprobs"]}


@pytest.mark.parametrize(
    ("family", "options"),
    [
        ("llama", {}),
        ("llama", {"keys": LINEAR}),
        ("llama", {"keys": YARN}),
        ("llama", {"extra": DIVISORS}),
        ("qwen2", {"architecture": "qwen2"}),
        ("qwen3", {"architecture": "qwen3"}),
    ],
    ids=["plain", "linear", "yarn", "llama3", "qwen2", "qwen3"],
)
def test_llama_cpp_reads_the_same_network(family, options, tmp_path):
    torch.set_num_threads(1)
    made = tiny_model(family, vocab_size=257, seed=3)
    with torch.no_grad():
        for name, weight in made.named_parameters():
            weight.mul_(3 if "q_proj" in name or "k_proj" in name else 1)  # positions must matter
    path = write_gguf(made, tmp_path / "m.gguf", tokenizer=VOCABULARY, **options)
    architecture, tensors = load_checkpoint(path, torch.float32)
    model = tiny_model(family, vocab_size=257, seed=4)
    model.load_state_dict({n if n == "lm_head.weight" else f"model.{n}": t for n, t in tensors.items()})
    rotary = model.model.rotary_emb
    rotary.inv_freq = torch.tensor(architecture.inverse_frequencies)
    rotary.attention_scaling = architecture.attention_factor
    errors, unscaled = [], []
    for prompt, tops in llama_tops(path):
        with torch.no_grad():
            ours = model(torch.tensor([prompt])).logits[0, -1].log_softmax(-1)
            plain = made(torch.tensor([prompt])).logits[0, -1].log_softmax(-1)
        errors += [abs(ours[token].item() - value) for token, value in tops.items()]
        unscaled += [abs(plain[token].item() - value) for token, value in tops.items()]
    assert len(errors) >= 30
    assert max(errors) < 5e-4
    if "keys" in options or "extra" in options:
        assert max(unscaled) > 0.1  # the scaling is seen by this test
