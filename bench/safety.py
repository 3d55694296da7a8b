"""What safety-aware decoding costs: selection in a round, the whole beside plain speculation, and the published loop.

SmolLM2-135M for target, weights dequantized from the catalogue's GGUF file, bf16, arithmetic=fast, T = 3; target and draft
each read their own system prompt. Answers end at their limit alone. Sides take turns in one run: a, b, …, a, b, …; a ratio
is taken between turns of one repeat, and its median shown. Time is without prefill. "selection" is the time in decide():
candidates, choice, controller, distances.

plain: speculation by the greedy rule with the same draft reads T+1 rows of the target a round and may say T+1 tokens: a
bonus token follows where all drafts are right. A method has none (its draft has to speak at every position) and says T at
most. Acceptance differs by method, so what is compared first is the time of a round, the same T draft passes in both
(plain / ssd-crs, the goal is 0.9). "rate at equal acceptance" is the rate of ssd-crs over plain's as it would be were each
guess right with the same probability a: (1 + a + … + a^(T-1)) / (1 + … + a^T) times that ratio; a is such that 1 + … + a^T
are the tokens a round that plain measured. The same against `vanilla`, which verifies drafts in the methods' own loop
without a bonus token, needs no correction.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import NamedTuple

import torch

from decode import ASKED, THINGS
from decode_page import finish, machine, show
from decode_sides import Row
from published_loop import DRAFTED, Bins, Scores, decode
from safety_sides import Side, Turn, in_turns, of_method, plain, side
from specsafe.compare.trace import method_arm
from specsafe.decoding.safety.methods import METHODS
from specsafe.decoding.safety.parts import Method
from specsafe.decoding.safety.signals import first_tokens
from specsafe.decoding.stack import Stack, open_stack
from specsafe.engines.native import stack_config
from specsafe.models.catalogue import DEFAULT_MODEL
from timing import middle, progress, ratio

GOAL_SHARE, GOAL_RATIO = 0.05, 0.9
TEXTS = [asked.format(thing) for thing in THINGS for asked in ASKED]
SINGLES = 2  # prompts one after the other at batch 1


class Bench(NamedTuple):
    """What all sections share; stacks by the name of their draft, the first one the default."""

    options: argparse.Namespace
    stacks: dict[str, Stack]

    @property
    def names(self) -> list[str]:
        """Methods that were asked for and can run."""
        wanted = self.options.methods or list(METHODS)
        return [n for n in wanted if METHODS[n].steering is None or self.options.steering]

    def sides(self, stack: Stack, batch: int) -> dict[str, Side]:
        """Methods by name, with one draft."""
        of = {n: of_method(stack, n, self.options.steering) for n in self.names}
        return {n: side(s, batch, self.options.tokens) for n, s in of.items()}


def beside(bench: Bench) -> Iterator[Row]:
    """ssd-crs beside plain speculation with the same draft at batch 1; see the top for what is compared."""
    t, new = DRAFTED, bench.options.tokens
    for draft, stack in bench.stacks.items():
        progress(f"plain, draft={draft}")
        stacks = {"plain": plain(stack, t), **{n: of_method(stack, n) for n in ("vanilla", "ssd-crs")}}
        sides = {name: side(s, 1, new) for name, s in stacks.items()}
        turns = in_turns(sides, TEXTS[: 2 * SINGLES], 2 * bench.options.repeats)
        ours, said = turns["ssd-crs"], middle(turns["plain"], "a_round")
        rounds = {name: ratio(turns[name], ours, "round_ms") for name in ("plain", "vanilla")}
        yield {
            "draft": draft,
            **{f"{name}, ms a round": middle(found, "round_ms") for name, found in turns.items()},
            **{f"{name} / ssd-crs": value for name, value in rounds.items()},
            "goal": "met" if rounds["plain"] >= GOAL_RATIO else "missed",
            **{f"{name}, tokens a round": middle(found, "a_round") for name, found in turns.items()},
            "rate at equal acceptance": rounds["plain"] * (1 - _right(said, t) ** t / said),
            **{f"{name}, tok/s": middle(found, "rate") for name, found in turns.items()},
        }


def _right(said: float, t: int) -> float:
    """The probability a of a right guess for which 1 + a + … + a^t is `said`, by halving."""
    low, high = 0.0, 1.0
    for _ in range(40):
        a = (low + high) / 2
        low, high = (a, high) if sum(a**n for n in range(t + 1)) < said else (low, a)
    return low


def methods(bench: Bench) -> Iterator[Row]:
    """Every method: batch 1 with each draft, larger batches with the first one (one turn).

    Goal: selection takes at most 5 % of a round at batch 1 where a method chooses from lists; `continuous` chooses from
    the vocabulary.
    """
    for batch in bench.options.batches:
        for draft, stack in bench.stacks.items() if batch == 1 else [next(iter(bench.stacks.items()))]:
            progress(f"methods, batch {batch}, draft={draft}")
            repeats = bench.options.repeats if batch == 1 else 1
            texts = TEXTS[: max(batch, SINGLES)]
            for name, found in in_turns(bench.sides(stack, batch), texts, repeats).items():
                yield {"batch": batch, "draft": draft, "method": name, **_cost(found, METHODS[name], batch)}
    for name in [n for n in bench.options.methods or METHODS if n not in bench.names]:
        yield {"method": name, "ms a round": "skipped: no --steering FILE"}


def _cost(found: list[Turn], method: Method, batch: int) -> Row:
    part = middle(found, "share")
    listed = method.who == "pair" and method.union.kind != "all"
    return {
        "ms a round": middle(found, "round_ms"),
        "ms of selection": middle(found, "selecting_ms"),
        "share": f"{100 * part:.1f} %",
        "goal": ("met" if part <= GOAL_SHARE else "missed") if listed and batch == 1 else "",
        "tokens a round and row": middle(found, "a_round"),
        "tok/s": middle(found, "rate"),
    }


def published(bench: Bench) -> Iterator[Row]:
    """The published loop as described (published_loop.py) on one prompt, and ours on the same."""
    draft, stack = next(iter(bench.stacks.items()))
    target, drafter = stack.steerable()
    prompt = stack.prompt("0", TEXTS[0])
    openings = first_tokens(stack.tokenizer.encode, target.vocabulary, target.device).words.tolist()
    for name, controller in (("ssd", Bins()), ("ssd-crs", Scores(openings))):
        progress(f"published loop, {name}, draft={draft}")
        run = side(of_method(stack, name), 1, bench.options.tokens)
        run(TEXTS[:1])
        before = run(TEXTS[:1])
        slow = decode(target, drafter, prompt.tokens, prompt.read_by_draft, controller, bench.options.tokens)
        turns = [before, run(TEXTS[:1])]  # before and after it
        same = sum(a == b for a, b in zip(slow.tokens, before.outputs[0], strict=True))
        yield {
            "method": name,
            "published, tok/s": len(slow.tokens) / slow.seconds,
            "ours, tok/s": middle(turns, "rate"),
            "ours / published": middle(turns, "rate") * slow.seconds / len(slow.tokens),
            "published, selection a token, ms": 1000 * slow.selecting / len(slow.tokens),
            "ours, selection a token, ms": median(1000 * x.selecting / x.tokens for x in turns),
            "equal tokens": f"{same} of {len(slow.tokens)}",
            "rounds": f"{slow.rounds}, ours {before.rounds}",
        }


SECTIONS = {"methods": methods, "plain": beside, "published": published}


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "--only", type=lambda text: text.split(","), default=list(SECTIONS), help=",".join(SECTIONS)
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=32, help="new tokens a prompt")
    parser.add_argument("--repeats", type=int, default=2, help="turns that count")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 32])
    parser.add_argument("--drafts", nargs="+", default=["self", "first:6"], help="as draft= of an arm")
    parser.add_argument("--methods", nargs="+", help="only these of the table")
    parser.add_argument("--steering", type=Path, help="projection of the first draft, for methods that steer")
    parser.add_argument("--json", type=Path, help="also write everything to this file")
    options = parser.parse_args()
    unknown = [n for n in options.only if n not in SECTIONS] or [
        n for n in options.methods or () if n not in METHODS
    ]
    if unknown:
        parser.error(f"unknown: {unknown[0]}; sections are {', '.join(SECTIONS)}")
    if max(options.batches) > len(TEXTS) or options.repeats < 1:
        parser.error(f"at most {len(TEXTS)} sequences, at least one repeat")
    return options


def main() -> None:
    options = parsed()
    stacks: dict[str, Stack] = {}
    for draft in options.drafts:
        keys = f"num_speculative_tokens={DRAFTED},context=512,threads={options.threads}"
        arm = method_arm("ssd-crs", f"kind=native,draft={draft},arithmetic=fast,telemetry=off,{keys}")
        stacks[draft] = open_stack(stack_config(arm))
    said = {"machine": [machine(options.threads)]}
    print(f"{DEFAULT_MODEL}, bf16, T = {DRAFTED}, {options.tokens} new tokens\n")
    show("machine", said["machine"])
    bench = Bench(options, stacks)
    with torch.inference_mode():
        for title, section in SECTIONS.items():
            if title in options.only:
                said[title] = list(section(bench))
                show(title, said[title], section)
    finish(said, options.json)


if __name__ == "__main__":
    sys.exit(main())
