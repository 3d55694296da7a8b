"""In the place of vLLM's verification: each request's draft tokens are decided by its own setting."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from vllm.v1.outputs import LogprobsTensors, SamplerOutput
from vllm.v1.sample.metadata import SamplingMetadata
from vllm.v1.sample.rejection_sampler import RejectionSampler
from vllm.v1.spec_decode.metadata import SpecDecodeMetadata

from specsafe.decoding.rules import Agreement
from specsafe.decoding.safety.signals import Openings
from specsafe.plugin.setting import Setting, read_fields, temperature_of
from specsafe.plugin.windows import NOTHING, Row, Step, by_method, by_rule, new_row, tokens_of, window

_GREEDY = Agreement()


@dataclass
class Count:
    """What one setting decided: windows of requests, draft tokens in them, how many stood, how many had no distribution."""

    windows: int = 0
    drafted: int = 0
    accepted: Tensor = field(default_factory=lambda: torch.zeros((), dtype=torch.int64))
    unknown: int = 0


class Sampler(RejectionSampler):  # type: ignore[misc]  # vLLM is not there where types are checked
    """vLLM's sampler for requests whose setting is `standard`; the others' tokens are put over what it says.

    runner: vLLM's, whose requests carry their Row. default: of requests that name nothing. openings: the refusal openings
    that a method looks for, made when first asked for. drafts_known: whether the drafter hands its logits over, where
    vLLM expects probabilities. sampled: whether draft tokens are drawn at a temperature.
    """

    def __init__(
        self,
        runner: Any,
        default: Setting,
        openings: Callable[[str], Openings],
        *,
        drafts_known: bool,
        sampled: bool,
    ) -> None:
        super().__init__(runner.sampler, runner.speculative_config, runner.device)
        self._runner, self._default, self._openings_of = runner, default, openings
        self._drafts_known, self._sampled = drafts_known, sampled
        self._openings: dict[str, Openings] = {}
        self._waiting: tuple[Step, list[Row]] | None = None
        self.counts: dict[str, Count] = {}

    def forward(
        self,
        metadata: SpecDecodeMetadata,
        draft_probs: Tensor | None,
        logits: Tensor,
        sampling_metadata: SamplingMetadata,
    ) -> SamplerOutput:
        """As vLLM's. draft_probs: the draft's logits where `drafts_known`."""
        requests = self._runner.input_batch.req_ids
        if len(requests) != len(metadata.num_draft_tokens):  # vLLM's warm-up, which is of no request
            return super().forward(metadata, draft_probs, logits, sampling_metadata)
        rows = [self._row(name) for name in requests]
        step = Step(
            logits,
            metadata.target_logits_indices,
            metadata.bonus_logits_indices,
            metadata.draft_token_ids,
            metadata.num_draft_tokens,
            draft_probs,
        )
        q = self._stock_q(step, sampling_metadata)
        self._waiting = (step, rows)
        output = super().forward(metadata, q, logits, sampling_metadata)
        self._decide(output.sampled_token_ids)
        return output

    def _get_logprobs_tensors(
        self,
        max_num_logprobs: int,
        metadata: SpecDecodeMetadata,
        logits: Tensor,
        target_logits: Tensor,
        bonus_logits: Tensor,
        sampled_token_ids: Tensor,
    ) -> LogprobsTensors:
        self._decide(sampled_token_ids)  # log-probabilities are those of what is said
        tensors: LogprobsTensors = super()._get_logprobs_tensors(
            max_num_logprobs, metadata, logits, target_logits, bonus_logits, sampled_token_ids
        )
        return tensors

    def _row(self, name: str) -> Row:
        """The row of a request; it lies on vLLM's own object of the request, and goes with it."""
        request = self._runner.requests[name]
        row: Row | None = vars(request).get("specsafe")
        if row is None:
            params = request.sampling_params
            setting = read_fields(params.extra_args) or self._default
            row = new_row(setting, temperature_of(params), params.seed, request.prompt_token_ids or ())
            request.specsafe = row
        return row

    def _stock_q(self, step: Step, sampling_metadata: SamplingMetadata) -> Tensor | None:
        """The probabilities that vLLM's own drafter would have handed over: none unless tokens are drawn."""
        if not self._drafts_known:
            return step.draft
        if step.draft is None or not self._sampled or sampling_metadata.all_greedy:
            return None
        each = torch.tensor(step.counts, device=step.draft.device)
        temperature = sampling_metadata.temperature.repeat_interleave(each)[:, None]
        scaled = step.draft / torch.where(temperature == 0, 1.0, temperature)
        return scaled.to(step.draft.dtype).softmax(-1, dtype=torch.float32).contiguous()

    def _decide(self, said: Tensor) -> None:
        """Put over what vLLM says [R, T+1] what our settings decide; once a step."""
        if self._waiting is None:
            return
        (step, rows), self._waiting = self._waiting, None
        discarded = self._runner.discard_request_mask.np
        groups: dict[tuple[str, float], list[int]] = {}
        for place, row in enumerate(rows):
            if step.counts[place] and not discarded[place]:
                groups.setdefault((row.setting.text, row.temperature), []).append(place)
        for chosen in groups.values():
            self._decide_window(said, step, chosen, [rows[place] for place in chosen])

    def _decide_window(self, said: Tensor, step: Step, chosen: Sequence[int], rows: Sequence[Row]) -> None:
        setting, home = rows[0].setting, torch.tensor(chosen, device=said.device)
        drafted = sum(step.counts[place] for place in chosen)
        unknown = self._drafts_known and step.draft is None
        if setting.rule is None and setting.method is None:
            self._count(setting, chosen, drafted, (said[home] != NOTHING).sum() - len(chosen), 0)
            return
        requests = [self._runner.requests[self._runner.input_batch.req_ids[place]] for place in chosen]
        done = [len(request.output_token_ids) for request in requests]
        seen = window(step, chosen, rows, done, known=not unknown)
        if setting.method is not None and not unknown:
            states = [row.state for row in rows if row.state is not None]
            openings = self._openings_for(setting.method.openings)
            acceptance, new = by_method(setting.method, openings, states, seen)
            for row, state in zip(rows, new, strict=True):
                row.state = state
            tokens = tokens_of(acceptance, seen, bonus=False)
        else:
            acceptance = by_rule(setting.rule or _GREEDY, rows[0].temperature, seen, sampled=self._sampled)
            tokens = tokens_of(acceptance, seen, bonus=True)
        whole = torch.full_like(said[home], NOTHING)
        whole[:, : tokens.shape[1]] = tokens.to(said.dtype)
        said[home] = whole
        self._count(setting, chosen, drafted, acceptance.accepted.sum(), drafted if unknown else 0)

    def _openings_for(self, kind: str) -> Openings:
        if kind not in self._openings:
            self._openings[kind] = self._openings_of(kind)
        return self._openings[kind]

    def _count(
        self, setting: Setting, chosen: Sequence[int], drafted: int, accepted: Tensor, unknown: int
    ) -> None:
        count = self.counts.setdefault(setting.text, Count())
        count.windows += len(chosen)
        count.drafted += drafted
        count.accepted = count.accepted.to(accepted.device) + accepted
        count.unknown += unknown

    def told(self) -> dict[str, Mapping[str, int]]:
        """The counts by setting."""
        return {
            text: {
                "windows": c.windows,
                "drafted": c.drafted,
                "accepted": int(c.accepted),
                "without_distribution": c.unknown,
            }
            for text, c in self.counts.items()
        }
