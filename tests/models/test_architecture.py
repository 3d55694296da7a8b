"""Room: models/architecture. Laws: frequencies and limits are those of transformers; others are refused."""

import numpy as np
import pytest
from tiny import SIZES, YARN
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from specsafe.errors import UserError
from specsafe.models.architecture import from_hf_config

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
