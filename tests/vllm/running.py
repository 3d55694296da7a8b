"""A real vLLM with our worker, and how it is asked. `make test-vllm` makes its environment, and the models.

SmolLM2 as target, a draft of 24 of its 30 layers, float32, a cache that holds eight short answers and not sixteen.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

HERE = Path(__file__).parent
MODELS = Path(os.environ.get("SPECSAFE_VLLM_MODELS", HERE.parents[1] / ".venv-vllm" / "models"))
DRAFTED = 4
DRAFT = {"method": "draft_model", "model": str(MODELS / "draft"), "num_speculative_tokens": DRAFTED}


def settings(**changes: object) -> dict:
    """Arguments of vllm.LLM."""
    return {
        "model": str(MODELS / "target"),
        "dtype": "float32",
        "max_model_len": 512,
        "enforce_eager": True,
        "block_size": 32,
        "kv_cache_memory_bytes": 100 * 2**20,
        "enable_prefix_caching": False,
        "per_request_spec_decode_metrics": "detailed",
        "disable_log_stats": False,
        "worker_cls": "recording.RecordingWorker",
        "speculative_config": DRAFT,
        **changes,
    }


def environment() -> dict[str, str]:
    """What vLLM reads of the environment, here and in its processes."""
    return {
        "VLLM_USE_V2_MODEL_RUNNER": "0",
        "VLLM_PLUGINS": "specsafe",
        "VLLM_LOGGING_LEVEL": "WARNING",
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
        "PYTHONPATH": os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")]),
    }


def started(**changes: object):
    """A vLLM whose workers are processes of this one."""
    os.environ |= environment()
    sys.path.insert(0, str(HERE))
    from vllm import LLM

    return LLM(**settings(**changes))


def stopped(llm) -> None:
    """Ends its processes."""
    llm.llm_engine.engine_core.shutdown()


def ask(llm, prompts: Sequence[Sequence[int]], fields=None, limits=40, **sampling):
    """Token ids, log-probabilities and counts of each prompt. fields, limits: of every request, or a list of each."""
    from vllm import SamplingParams

    n = len(prompts)
    each = fields if isinstance(fields, list) else [fields] * n
    longest = limits if isinstance(limits, list) else [limits] * n
    params = [
        SamplingParams(**{"temperature": 0.0, "max_tokens": m, "extra_args": f} | sampling)
        for f, m in zip(each, longest, strict=True)
    ]
    outputs = llm.generate([{"prompt_token_ids": list(p)} for p in prompts], params, use_tqdm=False)
    return [_answer(o.outputs[0]) for o in outputs]


def _answer(output) -> SimpleNamespace:
    told = output.spec_decode_metrics.to_dict()
    return SimpleNamespace(
        tokens=list(output.token_ids),
        logprobs=output.logprobs,
        drafted=told["num_draft_tokens"],
        accepted=told["num_accepted_draft_tokens"],
    )


def metric(llm, name: str) -> float:
    """A counter of the engine."""
    return sum(m.value for m in llm.get_metrics() if m.name == name)
