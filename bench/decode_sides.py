"""What `bench/decode.py` lets run and how it is timed: our loop, a peer, single passes, the bounds of the machine."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch
from torch.nn.functional import linear

from decode_peers import Peer, PeerError, Prompts
from specsafe.decoding.drafters import NetworkDrafter
from specsafe.decoding.loop import Answer, Decoder, Plan, Prompt
from specsafe.decoding.rules import make_rule
from specsafe.decoding.stopping import StopRule
from specsafe.models.cache import SlotCache
from specsafe.models.checkpoint import Checkpoint
from specsafe.models.compiled import array_of, panels
from specsafe.models.kernels import product
from specsafe.models.network import LlamaNetwork
from timing import pause, peak_megabytes, progress

CAPACITY, PREFILL, PASSES = 256, 256, 15
Row = dict[str, Any]


class Turn(NamedTuple):
    """One turn of one side. prefill: seconds of it; rounds: of all rows; forwards: of the target, all rows at once."""

    seconds: float
    outputs: list[list[int]]
    prefill: float = 0.0
    rounds: int = 0
    forwards: int = 0

    @property
    def rate(self) -> float:
        """New tokens a second."""
        return sum(map(len, self.outputs)) / self.seconds

    @property
    def decoding_rate(self) -> float:
        """New tokens a second of what is not prefill."""
        return sum(map(len, self.outputs)) / (self.seconds - self.prefill)


Side = Callable[[Prompts], Turn]


def ours(
    network: LlamaNetwork,
    batch: int,
    new: int,
    keep: Sequence[int] = (),
    drafted: int = 0,
    telemetry: bool = False,
) -> Side:
    """Our loop; keep: layers of the target that draft `drafted` tokens a round."""
    plan = Plan(
        rule=make_rule("greedy"),
        stop=StopRule(frozenset(), (), new, lambda _: b""),
        drafted=drafted,
        slots=batch,
        capacity=CAPACITY,
        telemetry=telemetry,
    )
    drafter = NetworkDrafter(
        network.with_layers(keep), batch, CAPACITY + drafted + 1, network.device, temperature=0, sampled=False
    )
    decoder = Decoder(network, drafter if drafted else None, plan)

    def run(prompts: Prompts) -> Turn:
        before, started = decoder.forwards, time.perf_counter()
        done = list(decoder.generate(Prompt(str(n), tuple(p)) for n, p in enumerate(prompts)))
        seconds = time.perf_counter() - started
        answers = {int(a.item): a for a in done if isinstance(a, Answer)}
        return Turn(
            seconds,
            [list(answers[n].tokens) for n in range(len(prompts))],
            sum(a.prefill_seconds for a in answers.values()),
            sum(a.rounds for a in answers.values()),
            decoder.forwards - before,
        )

    return run


def theirs(peer: Peer, batch: int, new: int) -> Side:
    """A peer's loop."""
    return lambda prompts: Turn(*peer.run(prompts, batch, new))


def in_turns(
    sides: dict[str, Side], prompts: Prompts, repeats: int
) -> tuple[dict[str, list[Turn]], dict[str, str]]:
    """Turns of each side, and why a side has none."""
    turns: dict[str, list[Turn]] = {name: [] for name in sides}
    failed: dict[str, str] = {}
    for repeat in range(repeats + 1):
        for name, side in sides.items():
            if name in failed:
                continue
            pause()
            try:
                turn = side(prompts)
            except PeerError as error:
                failed[name] = str(error)
                continue
            told = "warm-up" if not repeat else f"{repeat} of {repeats}"
            progress(f"  {name}: {turn.rate:.1f} tok/s ({told})")
            if repeat:
                turns[name].append(turn)
    return turns, failed


def spread(turns: list[Turn]) -> Row:
    rates = [t.rate for t in turns]
    return {"tok/s": median(rates), "lowest": min(rates), "highest": max(rates)}


@torch.inference_mode()
def pass_seconds(
    network: LlamaNetwork, keeps: Sequence[Sequence[int]], drafted: Sequence[int], prompts: Prompts
) -> dict[Any, float]:
    """Median seconds of a forward pass over all prompts, by its rows (target) or its layers (drafts, one row)."""
    passes: dict[Any, Callable[[], None]] = {
        width: one_pass(network, prompts, width) for width in (1, *(t + 1 for t in drafted))
    }
    passes |= {tuple(keep): one_pass(network.with_layers(keep), prompts, 1) for keep in keeps}
    seconds: dict[Any, list[float]] = {name: [] for name in passes}
    for _ in range(PASSES):
        for name, run in passes.items():
            seconds[name].append(timed(run))
    return {name: median(found[2:]) for name, found in seconds.items()}


def one_pass(network: LlamaNetwork, prompts: Prompts, width: int) -> Callable[[], None]:
    """A pass of `width` rows a prompt at contexts as in the middle of an answer; what it read is taken back."""
    cache = network.new_cache(len(prompts), CAPACITY)
    for row, prompt in enumerate(prompts):
        cache.add_row()
        network.forward(torch.tensor([[*prompt, *prompt[:32]]]), cache, row)
    lengths, tokens = list(cache.lengths), torch.tensor([[p[0]] * width for p in prompts])

    def run() -> None:
        hidden = network.forward(tokens, cache)
        network.logits(hidden.reshape(len(prompts) * width, -1)).argmax(-1)
        cache.truncate(lengths)

    return run


@torch.inference_mode()
def bounds(
    network: LlamaNetwork, checkpoint: Checkpoint, batches: Sequence[int]
) -> tuple[dict[str, float], list[Row]]:
    """Tokens a second that the machine allows, by name, and how that was found."""
    tensors = checkpoint.tensors
    size = sum(t.numel() * t.element_size() for t in tensors.values())
    buffer = torch.ones(size // 4)
    read = size / best(buffer.sum)
    rows: list[Row] = [{"bound": "read", "measured": f"{read / 1e9:.1f} GB/s", "tok/s": read / size}]
    weights = _products(checkpoint)
    work = 2 * sum(w.numel() for w in weights)
    for count in sorted({*(b for b in batches if b > 1), 32, PREFILL}):
        seconds, way = min((best(way, 4), name) for name, way in _ways(weights, count).items())
        rate = f"{count * work / seconds / 1e9:.0f} GFLOP/s ({way})"
        rows.append({"bound": f"products {count}", "measured": rate, "tok/s": count / seconds})
    for name, last in (("prefill", -1), ("prefill, all logits", 0)):
        cache = network.new_cache(1, PREFILL)
        seconds = best(partial(_prefill, network, cache, last))
        rows.append(
            {
                "bound": name,
                "measured": f"{PREFILL} tokens in {1000 * seconds:.0f} ms",
                "tok/s": PREFILL / seconds,
            }
        )
    return {row["bound"]: row["tok/s"] for row in rows}, rows


def _products(checkpoint: Checkpoint) -> list[torch.Tensor]:
    """The weights of the large products of a pass, side by side where the network has them so; the head is tied."""
    tensors = checkpoint.tensors

    def together(layer: int, *names: str) -> torch.Tensor:
        return torch.cat([tensors[f"layers.{layer}.{name}_proj.weight"] for name in names])

    groups = (
        ("self_attn.q", "self_attn.k", "self_attn.v"),
        ("self_attn.o",),
        ("mlp.gate", "mlp.up"),
        ("mlp.down",),
    )
    layers = [together(i, *group) for i in range(checkpoint.architecture.layers) for group in groups]
    return [*layers, tensors["embed_tokens.weight"]]


def _ways(weights: list[torch.Tensor], count: int) -> dict[str, Callable[[], object]]:
    """All products of a pass of so many rows: by the library in two dtypes, and by our loops; the fastest is the bound."""
    widths = {w.shape[1] for w in weights}
    wide = [w.float() for w in weights]
    packed = [array_of(panels(w)) for w in weights]
    x = {n: torch.ones(count, n) for n in widths}
    narrow = {n: t.bfloat16() for n, t in x.items()}
    bias = torch.zeros(max(map(len, weights))).numpy()
    out = [torch.empty(count, len(w)).numpy() for w in weights]

    def loops() -> None:
        for panel, weight, into in zip(packed, weights, out, strict=True):
            product(panel, bias, x[weight.shape[1]].numpy(), into, False)

    return {
        "torch, bfloat16": lambda: [linear(narrow[w.shape[1]], w) for w in weights],
        "torch, float32": lambda: [linear(x[w.shape[1]], w) for w in wide],
        "compiled loops": loops,
    }


def _prefill(network: LlamaNetwork, cache: SlotCache, last: int) -> None:
    cache.add_row()
    network.logits(network.forward(torch.ones(1, PREFILL, dtype=torch.int64), cache)[0, last:])
    cache.drop_row(0)


def best(run: Callable[[], object], times: int = 8) -> float:
    """Fewest seconds of some tries: a bound is what the machine can do."""
    return min(timed(run) for _ in range(times))


def timed(run: Callable[[], object]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def memory(network: LlamaNetwork, prompts: Prompts, before: float) -> Row:
    """Bytes of weights and cache as computed, and what the process took; called before anything else has run."""
    batch = len(prompts)
    ours(network, batch, 8)(prompts)
    status = Path("/proc/self/status")
    now = [
        x.split()[1]
        for x in (status.read_text().splitlines() if status.exists() else [])
        if x.startswith("VmRSS")
    ]
    return {
        "batch": batch,
        "weights, MB": network.bytes / 1e6,
        "cache, MB": network.new_cache(batch, CAPACITY + 1).bytes / 1e6,
        "process before loading, MB": before,
        "process now, MB": int(now[0]) / 1e3 if now else None,
        "process at most, MB": peak_megabytes(),
    }
