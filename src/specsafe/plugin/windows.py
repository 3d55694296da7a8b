"""A step of vLLM as windows that the rules and methods of `decoding` decide on, and their tokens as vLLM takes them.

vLLM verifies all requests of a step in one flat tensor: N draft tokens of R requests, N + R rows of logits. A window is
what G of the requests have, those with one setting and one temperature: up to T draft tokens each, and a bonus position.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from specsafe.decoding.drafters import Clock, Draft
from specsafe.decoding.loop import RuleDecider
from specsafe.decoding.randomness import slot_positions, stream_key
from specsafe.decoding.records import Acceptance, Proposal
from specsafe.decoding.rules import AcceptanceRule
from specsafe.decoding.safety.control import State
from specsafe.decoding.safety.decider import begin_rows, decide_round
from specsafe.decoding.safety.parts import Method
from specsafe.decoding.safety.signals import Openings
from specsafe.decoding.safety.views import wanted
from specsafe.plugin.setting import Setting

NOTHING = -1  # vLLM's placeholder for a token that is not there


@dataclass
class Row:
    """What is remembered of a request for its life. key: of its random numbers. state: of its controller, of one row."""

    setting: Setting
    temperature: float
    key: int
    state: State | None = None


class Step(NamedTuple):
    """What vLLM hands over for verification.

    logits: [N + R, V] of the target. target_at: int [N], where those of the draft tokens are; bonus_at: int [R].
    drafted: int [N]. counts: draft tokens of each request. draft: [N, V] raw logits of the draft, None without.
    """

    logits: Tensor
    target_at: Tensor
    bonus_at: Tensor
    drafted: Tensor
    counts: Sequence[int]
    draft: Tensor | None


class Window(NamedTuple):
    """Some requests of a step. logits: float32 [G, T+1, V]; behind a row's last draft token follows its bonus position.

    tokens: int64 [G, T]. lengths: int64 [G]. draft: [G, T, V] as the draft gave it, None without. keys, done: int64 [G],
    of the random numbers, and tokens of the answer so far.
    """

    logits: Tensor
    tokens: Tensor
    lengths: Tensor
    draft: Tensor | None
    keys: Tensor
    done: Tensor


def new_row(setting: Setting, temperature: float, seed: int | None, prompt: Sequence[int]) -> Row:
    """The row of a request that vLLM has just taken.

    Its random numbers hang on its seed and its prompt, so neither on batch nor on order; at a temperature without a seed
    they are drawn anew.
    """
    name = hashlib.sha256(" ".join(map(str, prompt)).encode()).hexdigest()
    chance = int(torch.randint(1 << 30, ())) if seed is None and temperature else 0
    state = None if setting.method is None else begin_rows(setting.method, np.zeros(1, bool))
    return Row(setting, temperature, stream_key(seed or 0, name, chance), state)


def window(
    step: Step, chosen: Sequence[int], rows: Sequence[Row], done: Sequence[int], *, known: bool
) -> Window:
    """The window of the requests `chosen` (places in step.counts), each with a draft token at least.

    known: False where a model drafts and its distributions are missing: what it drafted is no draft then.
    """
    home, counts = step.logits.device, torch.tensor(step.counts)
    starts = (counts.cumsum(0) - counts)[list(chosen)].to(home)
    lengths = counts[list(chosen)].to(home)
    slots = torch.arange(int(lengths.max()) + 1, device=home)
    places = starts[:, None] + torch.minimum(
        slots, lengths[:, None] - 1
    )  # padding repeats the last draft token
    bonus = step.bonus_at[torch.tensor(chosen, device=home)].long()
    at = torch.where(slots < lengths[:, None], step.target_at.long()[places], bonus[:, None])
    return Window(
        logits=step.logits[at].float(),
        tokens=step.drafted[places[:, :-1]].long(),
        lengths=lengths if known else torch.zeros_like(lengths),
        draft=None if step.draft is None else step.draft[places[:, :-1]],
        keys=torch.tensor([row.key for row in rows], device=home),
        done=torch.tensor(done, device=home),
    )


def by_rule(rule: AcceptanceRule, temperature: float, seen: Window, *, sampled: bool) -> Acceptance:
    """What a rule makes of a window. sampled: tokens were drawn from the draft's distribution at the temperature."""
    q = None
    if sampled and temperature and seen.draft is not None:
        q = torch.softmax(seen.draft / temperature, -1, dtype=torch.float32)
    counters = slot_positions(seen.done, seen.logits.shape[1], fresh=rule.looks_ahead)
    draft = Draft(Proposal(seen.tokens, seen.lengths, q), None)
    return RuleDecider(rule, temperature).decide(seen.logits, draft, Clock(seen.keys, counters))


def by_method(
    method: Method, openings: Openings, states: Sequence[State], seen: Window
) -> tuple[Acceptance, list[State]]:
    """What a method makes of a window with the draft's logits, and the state of each row after it."""
    if seen.draft is None:
        raise ValueError("a safety-aware method needs the draft's logits")
    together = {name: np.concatenate([s[name] for s in states]) for name in states[0]}
    words = min(seen.logits.shape[-1], seen.draft.shape[-1])
    slots = seen.tokens.shape[1]
    acceptance, new = decide_round(
        method,
        openings,
        together,
        seen.logits[:, :slots],
        Draft(Proposal(seen.tokens, seen.lengths), seen.draft.float()),
        Clock(seen.keys, slot_positions(seen.done, slots, fresh=False)),
        wanted(method, openings, words, telemetry=False),
    )
    return acceptance, [{name: v[i : i + 1] for name, v in new.items()} for i in range(len(states))]


def tokens_of(acceptance: Acceptance, seen: Window, *, bonus: bool) -> Tensor:
    """What each row says, int64 [G, T+1], NOTHING behind its last token.

    bonus: a token follows where all draft tokens stand. Without, such a row says its draft tokens alone: for vLLM as if
    the last one had been refused and said again, which reads it once more in the next step.
    """
    slots = torch.arange(seen.logits.shape[1], device=seen.logits.device)
    accepted = acceptance.accepted[:, None]
    own = (slots == accepted) & (bonus | (accepted < seen.lengths[:, None]))
    padded = torch.nn.functional.pad(seen.tokens, (0, 1), value=NOTHING)
    return torch.where(own, acceptance.token[:, None], padded.where(slots < accepted, NOTHING))
