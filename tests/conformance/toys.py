"""What the laws of the loop are tested on: tiny networks, drafters by name, and networks that misbehave on purpose."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from torch import Tensor

from specsafe.decoding.drafters import Drafter, LookupDrafter, NetworkDrafter, ScriptedDrafter
from specsafe.decoding.loop import Answer, Decoder, Plan, Prompt, Stopped
from specsafe.decoding.rules import AcceptanceRule, Agreement, Greedy
from specsafe.decoding.stopping import StopRule
from specsafe.models.architecture import from_hf_config
from specsafe.models.cache import SlotCache
from specsafe.models.checkpoint import Checkpoint
from specsafe.models.invariant import make_invariant
from specsafe.models.kernels import PANEL
from specsafe.models.network import LlamaNetwork, Network, network_of

# The writer of tiny checkpoints lives in the tests of the models, which pytest finds only when it runs them.
sys.path.append(str(Path(__file__).parents[1] / "models"))

from tiny import plain_names, tiny_model

torch.set_num_threads(1)
CPU = torch.device("cpu")
CAPACITY = 110
SIZES = {
    "vocab_size": 150,
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "head_dim": 16,
    "tie_word_embeddings": False,
    "max_position_embeddings": 640,
}


def model(seed: int = 0, family: str = "llama", **changes: object):
    """A transformers model of random weights."""
    return tiny_model(family, seed=seed, **SIZES | changes)


def network(
    hf, dtype: torch.dtype = torch.float32, *, invariant: bool = True, noise: float = 0.0, make=network_of
) -> LlamaNetwork:
    """Our network of a transformers model; noise: standard deviation added to every matrix."""
    checkpoint = Checkpoint(from_hf_config(hf.config.to_dict()), tensors_of(hf, dtype, noise))
    fast = make(checkpoint)
    return make_invariant(fast, SIZES["max_position_embeddings"])[0] if invariant else fast


def tensors_of(hf, dtype: torch.dtype = torch.float32, noise: float = 0.0) -> dict[str, Tensor]:
    """The tensors of a transformers model, with noise on its matrices."""
    generator = torch.Generator().manual_seed(1)
    tensors = {}
    for name, weight in plain_names(hf).items():
        shift = noise * torch.randn(weight.shape, generator=generator) if weight.dim() == 2 else 0.0
        tensors[name] = (weight.detach() + shift).to(dtype).contiguous()
    return tensors


def with_a_hole(hf, token: int, *, invariant: bool = True, noise: float = 0.0) -> LlamaNetwork:
    """The network of a model in which reading one token gives NaN for all that follows."""
    whole = network(hf, invariant=invariant, noise=noise)
    whole._table = whole._table.clone()
    whole._table[token // PANEL, :, token % PANEL] = float("nan")
    return whole


def prompts(count: int, vocabulary: int = 150, longest: int = 70) -> list[Prompt]:
    """Ragged prompts of 1 to `longest` tokens; every fourth repeats itself, so that a look-up finds something."""
    generator = torch.Generator().manual_seed(3)
    made = []
    for i in range(count):
        length = 1 + (i * 37) % longest
        tokens = torch.randint(3, vocabulary, (length,), generator=generator).tolist()
        if i % 4 == 3:
            tokens = (tokens[:3] * length)[:length]
        made.append(Prompt(f"item{i}", tuple(tokens)))
    return made


def stop_rule(limit: int, ends: Iterable[int] = (), strings: tuple[str, ...] = ()) -> StopRule:
    return StopRule(frozenset(ends), strings, limit, letter)


def letter(token: int) -> bytes:
    """Token 0 is "a", 1 is "b", …, 26 is "a" again."""
    return bytes([97 + token % 26])


def plan(
    limit: int = 12, rule: AcceptanceRule | None = None, ends: Iterable[int] = range(3, 150, 31), **changes
) -> Plan:
    fields = {"capacity": CAPACITY, "temperature": 0.0} | changes
    rule = rule or (Greedy() if fields["temperature"] == 0 else Agreement())
    return Plan(**{"rule": rule, "stop": stop_rule(limit, ends)} | fields)


def run(target: Network, plan: Plan, asked: Iterable[Prompt], drafter: Drafter | None = None) -> dict:
    """Answers by item."""
    return {a.item: a for a in Decoder(target, drafter, plan).generate(asked)}


def said(answers: dict) -> dict:
    """What must not depend on how an answer was made: tokens, finish, log-probabilities to the last bit."""
    return {
        item: (a.tokens, a.finish, a.logprobs) if isinstance(a, Answer) else a for item, a in answers.items()
    }


def drafts_of(drafting: Network, plan: Plan, *, sampled: bool = False) -> NetworkDrafter:
    """A network as drafter for a plan."""
    return NetworkDrafter(
        drafting,
        plan.slots,
        plan.capacity + plan.drafted + 1,
        CPU,
        temperature=plan.temperature,
        sampled=sampled,
    )


Maker = Callable[[LlamaNetwork, Plan, tuple[int, ...]], Drafter]
"""From the target, a plan and the right answer to the first prompt."""


def _other(target: LlamaNetwork, plan: Plan, answer: tuple[int, ...]) -> Drafter:
    return drafts_of(network(model(9, "qwen3", num_hidden_layers=2), target.dtype), plan)


def _near(target: LlamaNetwork, plan: Plan, answer: tuple[int, ...]) -> Drafter:
    return drafts_of(network(model(), target.dtype, noise=0.02), plan)


DRAFTERS: dict[str, Maker] = {
    "other network": _other,
    "near network": _near,
    "first layers": lambda target, plan, answer: drafts_of(target.with_layers(range(2)), plan),
    "self": lambda target, plan, answer: drafts_of(target, plan),
    "lookup": lambda target, plan, answer: LookupDrafter(CPU),
    "right script": lambda target, plan, answer: ScriptedDrafter(CPU, answer),
    "shifted script": lambda target, plan, answer: ScriptedDrafter(CPU, answer[1:]),
    "garbage script": lambda target, plan, answer: ScriptedDrafter(CPU, [5, 99] * 10),
}


class Chain:
    """A network that counts: after token t comes t + 1. Slots, caches and logits as any other's."""

    vocabulary, context, layers, bytes = 60, 1000, 1, 0
    reads_together = True
    device = CPU

    def new_cache(self, rows: int, capacity: int) -> SlotCache:
        return SlotCache((1, rows, 1, 1), capacity)

    def forward(self, tokens: Tensor, cache: SlotCache, first: int = 0) -> Tensor:
        cache.require_room(first, *tokens.shape)
        cache.append(first, *tokens.shape)
        return torch.nn.functional.one_hot((tokens + 1) % self.vocabulary, self.vocabulary).float()

    def logits(self, hidden: Tensor) -> Tensor:
        return 5.0 * hidden


class Recorder:
    """A network that remembers the whole context of every token it was given, by sequence.

    A token that is taken back before the next forward pass and was the copy of its neighbour is padding.
    """

    def __init__(self, inner: LlamaNetwork) -> None:
        self._inner = inner
        self.forwards = 0
        self.widths: list[int] = []
        self.read: list[tuple[int, tuple[int, ...]]] = []  # (sequence, context up to the token)
        self._sequences: list[int] = []
        self._contexts: dict[int, list[int]] = {}

    def __getattr__(self, name: str):
        return getattr(self._inner, name)

    def new_cache(self, rows: int, capacity: int) -> SlotCache:
        cache = self._inner.new_cache(rows, capacity)
        add, drop = cache.add_row, cache.drop_row

        def add_row() -> int:
            self._sequences.append(len(self._contexts))
            self._contexts[len(self._contexts)] = []
            return add()

        def drop_row(row: int) -> None:
            last = self._sequences.pop()
            if row < len(self._sequences):
                self._sequences[row] = last
            drop(row)

        cache.add_row, cache.drop_row = add_row, drop_row  # type: ignore[method-assign]
        return cache

    def forward(self, tokens: Tensor, cache: SlotCache, first: int = 0) -> Tensor:
        self.forwards += 1
        self.widths.append(tokens.shape[1])
        for row, new in enumerate(tokens.tolist(), first):
            sequence = self._sequences[row]
            context = self._contexts[sequence][: cache.lengths[row]]
            for token in new:
                context.append(token)
                self.read.append((sequence, tuple(context)))
            self._contexts[sequence] = context
        return self._inner.forward(tokens, cache, first)


def stopped(answers: dict) -> set[str]:
    return {item for item, a in answers.items() if isinstance(a, Stopped)}


def one_row(network: Network, capacity: int = 100) -> SlotCache:
    """An empty cache with a row."""
    cache = network.new_cache(1, capacity)
    cache.add_row()
    return cache
