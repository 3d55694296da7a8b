"""Our worker with an ear at its sampler: what each request's windows held and what was said of them, for a replay."""

from __future__ import annotations

from typing import Any

import torch
from vllm.v1.sample.rejection_sampler import RejectionSampler

from specsafe.plugin.sampler import Sampler
from specsafe.plugin.worker import Worker


class Ear(Sampler):
    """Keeps what it was given where it is asked to, in windows a request."""

    heard: list[dict[str, Any]] | None = None

    def forward(self, metadata, draft_probs, logits, sampling_metadata):
        """As Sampler's."""
        output = super().forward(metadata, draft_probs, logits, sampling_metadata)
        names = self._runner.input_batch.req_ids
        if self.heard is None or len(names) != len(metadata.num_draft_tokens):
            return output
        begin = 0
        for place, (name, n) in enumerate(zip(names, metadata.num_draft_tokens, strict=True)):
            request = self._runner.requests[name]
            at = metadata.target_logits_indices[begin : begin + n].long()
            bonus = metadata.bonus_logits_indices[place : place + 1].long()
            self.heard.append(
                {
                    "request": name,
                    "done": len(request.output_token_ids),
                    "logits": logits[torch.cat([at, bonus])].float().clone(),
                    "draft": None if draft_probs is None else draft_probs[begin : begin + n].float().clone(),
                    "drafted": metadata.draft_token_ids[begin : begin + n].tolist(),
                    "discarded": bool(self._runner.discard_request_mask.np[place]),
                    "said": [t for t in output.sampled_token_ids[place].tolist() if t >= 0],
                    "key": request.specsafe.key,
                    "setting": request.specsafe.setting.text,
                    "temperature": request.specsafe.temperature,
                }
            )
            begin += n
        return output


class RecordingWorker(Worker):
    """See above."""

    def init_device(self) -> None:
        """As Worker's, its sampler with an ear."""
        super().init_device()
        sampler = getattr(self.model_runner, "rejection_sampler", None)
        if isinstance(sampler, RejectionSampler):
            sampler.__class__ = Ear

    def record(self, path: str) -> int:
        """Begin to listen (no path), or write down what was heard; how many windows."""
        sampler = self.model_runner.rejection_sampler
        heard, sampler.heard = sampler.heard or [], None if path else []
        if path:
            torch.save(heard, path)
        return len(heard)

    def rows_left(self) -> int:
        """Requests that still have a row."""
        return sum("specsafe" in vars(r) for r in self.model_runner.requests.values())
