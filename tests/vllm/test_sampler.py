"""Room: plugin. The sampler beside vLLM's own, on tensors: what is not ours is left exactly as vLLM has it."""

from __future__ import annotations

import os
import random
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from running import environment

from specsafe.decoding.drafters import Clock, Draft
from specsafe.decoding.loop import Prompt, RuleDecider
from specsafe.decoding.randomness import slot_positions
from specsafe.decoding.records import Proposal
from specsafe.decoding.safety.decider import MethodDecider
from specsafe.decoding.safety.signals import first_tokens
from specsafe.plugin.setting import setting

pytestmark = pytest.mark.vllm
V = 400
COUNTS = [3, 0, 2, 4, 4]


def expanded(x, cu_num_tokens, num_tokens, replace_from=0, replace_to=0):
    """What vLLM's expand_batch_to_tokens says it does: each request's value for each of its draft tokens."""
    counts = torch.diff(cu_num_tokens, prepend=cu_num_tokens.new_zeros(1))
    return torch.where(x == replace_from, replace_to, x).to(x.dtype).repeat_interleave(counts)


@pytest.fixture(scope="module")
def vllm():
    """VLLM's parts, its kernels replaced by those of this machine as a worker does it."""
    os.environ |= environment()
    from vllm.platforms import current_platform
    from vllm.v1.sample.logits_processor import LogitsProcessors
    from vllm.v1.sample.metadata import SamplingMetadata
    from vllm.v1.sample.rejection_sampler import RejectionSampler
    from vllm.v1.sample.sampler import Sampler as StockSampler
    from vllm.v1.spec_decode.llm_base_proposer import compute_probs_and_sample_next_token
    from vllm.v1.spec_decode.metadata import SpecDecodeMetadata

    from specsafe.plugin.sampler import Sampler

    current_platform.register_triton_kernel_overrides()
    # The CPU build's own writes into a copy: at temperatures above 0 vLLM divides by memory that nobody has written.
    sys.modules[RejectionSampler.__module__].expand_batch_to_tokens = expanded
    parts = (LogitsProcessors, SamplingMetadata, RejectionSampler, SpecDecodeMetadata, Sampler)
    named = {part.__name__: part for part in parts}
    return SimpleNamespace(**named, StockSampler=StockSampler, draw=compute_probs_and_sample_next_token)


class Batch:
    """Five requests with drafts of a model; texts, temperatures: of each."""

    def __init__(self, vllm, texts, temperatures, logprobs=None, seed=1):
        g = torch.Generator().manual_seed(seed)
        self.vllm, self.temperatures = vllm, temperatures
        n, rows = sum(COUNTS), sum(COUNTS) + len(COUNTS)
        self.logits = torch.randn(rows, V, generator=g) * 3
        at = list(range(rows))
        ends = list(np.cumsum([c + 1 for c in COUNTS]) - 1)
        target_at = [i for i in at if i not in ends]
        self.draft = self.logits[target_at] + torch.randn(n, V, generator=g)
        drafted = self.draft.argmax(-1).int()
        cu = torch.tensor(np.cumsum(COUNTS), dtype=torch.int32)
        self.metadata = vllm.SpecDecodeMetadata(
            draft_token_ids=drafted,
            num_draft_tokens=COUNTS,
            cu_num_draft_tokens=cu,
            cu_num_sampled_tokens=cu + torch.arange(1, len(COUNTS) + 1, dtype=torch.int32),
            target_logits_indices=torch.tensor(target_at, dtype=torch.int32),
            bonus_logits_indices=torch.tensor(ends, dtype=torch.int32),
            logits_indices=torch.tensor(at, dtype=torch.int32),
        )
        self.logprobs = logprobs
        self.names = [f"r{i}" for i in range(len(COUNTS))]
        self.discarded = np.zeros(8, bool)
        self.requests = {
            name: SimpleNamespace(
                sampling_params=SimpleNamespace(temperature=t, seed=7, extra_args=fields_of(text)),
                prompt_token_ids=[i],
                output_token_ids=[1] * i,
            )
            for i, (name, text, t) in enumerate(zip(self.names, texts, temperatures, strict=True))
        }

    def sampling(self):
        """A fresh one each time: generators move."""
        greedy = [t == 0 for t in self.temperatures]
        count = len(COUNTS)
        return self.vllm.SamplingMetadata(
            temperature=None if all(greedy) else torch.tensor(self.temperatures),
            all_greedy=all(greedy),
            all_random=not any(greedy),
            top_p=None,
            top_k=None,
            generators={i: torch.Generator().manual_seed(i) for i in range(count) if not greedy[i]},
            max_num_logprobs=self.logprobs,
            no_penalties=True,
            prompt_token_ids=None,
            frequency_penalties=torch.zeros(count),
            presence_penalties=torch.zeros(count),
            repetition_penalties=torch.ones(count),
            output_token_ids=[[] for _ in range(count)],
            spec_token_ids=[[] for _ in range(count)],
            allowed_token_ids_mask=None,
            bad_words_token_ids={},
            logitsprocs=self.vllm.LogitsProcessors(),
        )

    def ours(self, *, sampled=False, known=True):
        stock = self.vllm.StockSampler()
        runner = SimpleNamespace(
            sampler=stock,
            speculative_config=None,
            device=torch.device("cpu"),
            input_batch=SimpleNamespace(req_ids=self.names),
            requests=self.requests,
            discard_request_mask=SimpleNamespace(np=self.discarded),
        )
        words = first_tokens(lambda text: [len(text)], V, torch.device("cpu"))
        sampler = self.vllm.Sampler(
            runner, setting("rule", "standard"), lambda _: words, drafts_known=True, sampled=sampled
        )
        draft = self.draft if known else None
        return sampler, sampler(self.metadata, draft, self.logits.clone(), self.sampling())

    def stocks(self, q=None):
        sampler = self.vllm.RejectionSampler(self.vllm.StockSampler())
        return sampler(self.metadata, q, self.logits.clone(), self.sampling())


def fields_of(text):
    kind, _, name = text.partition(" ")
    return {"specsafe_method": name} if kind == "method" else {"specsafe_rule": text} if text else None


RULES = ["rejection", "block", "typical", "threshold:threshold=0.05", "relaxed:top_k=3", "leak:rate=0.5"]
METHODS = ["ssd", "ssd-crs", "ssd-crs-zero-lag", "continuous", "composite:union.alpha=0.75"]


def test_every_setting_decides_as_our_engine_does_on_the_same_logits_step_after_step(vllm):
    """Twenty requests, five of them a step and in any order: each as our engine's own decider has it, bit for bit."""
    words = first_tokens(lambda text: [len(text)], V, torch.device("cpu"))
    kinds = [*((r, t) for r in RULES for t in (0.0, 0.8)), *((f"method {m}", 0.0) for m in METHODS)]
    deciders, rows, checked = {}, {}, 0
    sampler = None
    for step in range(30):
        here = random.Random(step).sample(range(len(kinds)), len(COUNTS))
        batch = Batch(vllm, [kinds[i][0] for i in here], [kinds[i][1] for i in here], seed=step)
        for name, i in zip(batch.names, here, strict=True):  # a request's object stays, whatever row it has
            rows[i] = batch.requests[name] = rows.get(i, batch.requests[name])
        if sampler is None:
            sampler, _ = batch.ours()  # made as a worker makes it; its own first step is asked again
            for i in here:
                vars(rows[i]).pop("specsafe")
        sampler._runner.requests, sampler._runner.input_batch.req_ids = batch.requests, batch.names
        said = sampler(batch.metadata, batch.draft, batch.logits.clone(), batch.sampling()).sampled_token_ids
        begin = 0
        for place, (i, n) in enumerate(zip(here, COUNTS, strict=True)):
            drafted = batch.metadata.draft_token_ids[begin : begin + n].long()
            begin += n
            if not n:
                continue
            row = rows[i].specsafe
            if i not in deciders:
                deciders[i] = RuleDecider(row.setting.rule, row.temperature) if row.setting.rule else None
                if deciders[i] is None:
                    deciders[i] = MethodDecider(row.setting.method, words, telemetry=False, words=V)
                    deciders[i].join([Prompt("", (1,))])
            slots, first = n + deciders[i].bonus, begin - n + place
            done = torch.tensor([len(rows[i].output_token_ids)])
            acceptance = deciders[i].decide(
                batch.logits[None, first : first + slots],
                Draft(Proposal(drafted[None], torch.tensor([n])), batch.draft[None, begin - n : begin]),
                Clock(torch.tensor([row.key]), slot_positions(done, slots, fresh=deciders[i].looks_ahead)),
            )
            kept = int(acceptance.accepted[0])
            own = [int(acceptance.token[0])] if deciders[i].bonus or kept < n else []
            got = [t for t in said[place].tolist() if t >= 0]
            assert got == [*drafted[:kept].tolist(), *own], row.setting.text
            rows[i].output_token_ids = [*rows[i].output_token_ids, *got]
            checked += n
    assert checked > 300 and len(deciders) == len(kinds)


@pytest.mark.parametrize("temperatures", [[0.0] * 5, [0.0, 0.7, 0.7, 0.0, 1.3], [0.9] * 5])
@pytest.mark.parametrize("sampled", [False, True])
def test_requests_that_name_nothing_are_answered_by_vllm_to_the_bit(vllm, temperatures, sampled):
    """Drafts that were drawn get the probabilities that vLLM's own proposer would have handed over."""
    batch = Batch(vllm, [""] * 5, temperatures, logprobs=0)
    _, got = batch.ours(sampled=sampled)
    q = None
    if sampled and not batch.sampling().all_greedy:
        rows = batch.sampling()
        rows.temperature = rows.temperature.repeat_interleave(torch.tensor(COUNTS))
        rows.generators = {}
        _, q = vllm.draw(batch.draft.clone(), rows)
    expected = batch.stocks(q)
    assert torch.equal(got.sampled_token_ids, expected.sampled_token_ids)
    assert torch.equal(got.logprobs_tensors.logprobs, expected.logprobs_tensors.logprobs)


def test_one_lossy_request_changes_nothing_for_its_neighbours(vllm):
    temperatures = [0.0, 0.7, 0.7, 0.0, 0.0]
    alone = Batch(vllm, [""] * 5, temperatures).ours()[1].sampled_token_ids
    texts = ["", "", "", "leak:rate=1", "method ssd-crs"]
    sampler, output = Batch(vllm, texts, temperatures).ours()
    got = output.sampled_token_ids
    assert torch.equal(got[:3], alone[:3])
    assert (got[3] >= 0).all() and not torch.equal(got[3], alone[3])
    told = sampler.told()
    assert told["leak:rate=1"] == {"windows": 1, "drafted": 4, "accepted": 4, "without_distribution": 0}
    assert told["standard"]["windows"] == 2 and told["standard"]["drafted"] == 5


def test_log_probabilities_follow_the_tokens_that_are_said(vllm):
    batch = Batch(vllm, ["leak:rate=1"] * 5, [0.0] * 5, logprobs=0)
    _, output = batch.ours()
    said = output.sampled_token_ids.flatten()
    logprobs = torch.log_softmax(batch.logits, -1)
    starts = np.cumsum([0, *(c + 1 for c in COUNTS)])
    told = output.logprobs_tensors
    for r, n in enumerate(COUNTS):
        for slot in range(n + 1):
            place = r * (max(COUNTS) + 1) + slot
            assert told.logprob_token_ids[place, 0] == said[place]
            assert told.logprobs[place, 0] == logprobs[starts[r] + slot, said[place].long()]


def test_discarded_rows_and_missing_distributions_move_no_state(vllm):
    texts = ["method ssd-crs"] * 5
    batch = Batch(vllm, texts, [0.0] * 5)
    batch.discarded[3] = True
    sampler, _ = batch.ours()
    counts = {name: int(r.specsafe.state["count"][0]) for name, r in batch.requests.items()}
    assert counts["r1"] == counts["r3"] == 0  # nothing drafted; thrown away
    assert counts["r0"] and counts["r2"] and counts["r4"]
    blind = Batch(vllm, texts, [0.0] * 5)
    sampler, output = blind.ours(known=False)
    own = [int(blind.logits[i].argmax()) for i in (0, 4, 5, 8, 13)]
    assert output.sampled_token_ids[:, 0].tolist() == own
    assert (output.sampled_token_ids[:, 1:] == -1).all()
    assert {int(r.specsafe.state["count"][0]) for r in blind.requests.values()} == {0}
    assert sampler.told()["method ssd-crs"]["without_distribution"] == sum(COUNTS)


def test_the_warm_up_of_no_request_is_vllms(vllm):
    batch = Batch(vllm, [""] * 5, [0.0] * 5)
    expected = batch.stocks()
    batch.names = []
    sampler, output = batch.ours()
    assert torch.equal(output.sampled_token_ids, expected.sampled_token_ids)
    assert sampler.told() == {}


def test_a_worker_made_from_ours_is_ours_and_registering_twice_is_registering_once(vllm):
    from vllm.v1.engine.input_processor import InputProcessor

    from specsafe.plugin import frontend

    frontend.register()
    check = InputProcessor._validate_params
    frontend.register()
    assert InputProcessor._validate_params is check and frontend.registered()
    assert frontend.has_worker(frontend.WORKER)
    assert not frontend.has_worker("auto") and not frontend.has_worker("vllm.v1.worker.cpu_worker.CPUWorker")
