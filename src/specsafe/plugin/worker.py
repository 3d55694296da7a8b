"""vLLM's worker with our sampler in it: `--worker-cls specsafe.plugin.worker.Worker`.

Nothing of vLLM is changed for anybody else: a server that does not name this class runs as it did. Everything that
cannot work stops the start.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor
from vllm.platforms import current_platform

from specsafe.decoding.safety.signals import Openings, first_tokens, trie
from specsafe.errors import UserError
from specsafe.models.tokenizer import Tokenizer
from specsafe.plugin import frontend
from specsafe.plugin.sampler import Sampler
from specsafe.plugin.server import PROPOSERS, read_tokenizer, require_version, served, vllm_version

if current_platform.is_cpu():
    from vllm.v1.worker.cpu_worker import CPUWorker as _Worker
else:
    from vllm.v1.worker.gpu_worker import Worker as _Worker


class Worker(_Worker):  # type: ignore[misc]  # vLLM is not there where types are checked
    """See above. Our only method beside vLLM's is `specsafe_report`, for its collective_rpc."""

    def init_device(self) -> None:
        """As vLLM's, then the sampler and the drafter are ours. Raises UserError for what cannot work."""
        require_version(vllm_version())
        if not frontend.registered():
            raise UserError(
                "VLLM_PLUGINS leaves specsafe out, so nobody would check requests",
                "add specsafe to VLLM_PLUGINS",
            )
        self._served = served(self.vllm_config)
        super().init_device()
        runner, spec = self.model_runner, self.vllm_config.speculative_config
        if spec is None:
            return
        keeps = PROPOSERS[spec.method]
        if keeps:
            hand_over_logits(runner.drafter)
        runner.rejection_sampler = Sampler(
            runner,
            self._served.default,
            self._openings,
            drafts_known=keeps,
            sampled=keeps and spec.draft_sample_method == "probabilistic",
        )

    def _openings(self, kind: str) -> Openings:
        return openings_of(
            kind,
            read_tokenizer(*self._served.tokenizer),
            self.vllm_config.model_config.get_vocab_size(),
            self.model_runner.device,
        )

    def specsafe_report(self) -> dict[str, Any]:
        """What the sampler that runs here decides by, and what it has decided so far."""
        sampler = getattr(self.model_runner, "rejection_sampler", None)
        counts: Mapping[str, Any] = sampler.told() if isinstance(sampler, Sampler) else {}
        spec = self.vllm_config.speculative_config
        return {
            "specsafe": version("specsafe"),
            "vllm": vllm_version(),
            "setting": self._served.default.text,
            "lossless": self._served.default.lossless,
            "drafts": isinstance(sampler, Sampler),
            "drafter": spec.method if spec is not None else "",
            "decided": counts,
        }


def hand_over_logits(drafter: Any) -> None:
    """Let a draft model hand over the logits of every token it proposes, where vLLM has probabilities or nothing."""

    def draw(hidden_states: Tensor, sampling_metadata: Any) -> tuple[Tensor, Tensor]:
        logits = drafter.model.compute_logits(hidden_states)
        kept = logits.clone()  # vLLM divides by the temperature in place
        tokens, _ = drafter._sample_from_logits(logits, sampling_metadata)
        return tokens, kept

    drafter._sample_draft_tokens = draw


def openings_of(kind: str, tokenizer: Tokenizer, words: int, device: torch.device) -> Openings:
    """The refusal openings in the words of a model; kind: first or trie, as in parts.Method.openings."""
    if kind == "trie":
        pieces = ((t, tokenizer.bytes_of(t)) for t in range(tokenizer.vocab_size))
        return trie(tokenizer.encode, pieces, words, device)
    return first_tokens(tokenizer.encode, words, device)
