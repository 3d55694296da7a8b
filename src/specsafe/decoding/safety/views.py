"""What target and draft say at all slots of a round: looked at where the logits are, brought to the host in one piece.

N positions (rows and slots side by side), V words that both models have, K candidates of each.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from specsafe.decoding.drafters import Clock
from specsafe.decoding.randomness import Purpose, uniforms
from specsafe.decoding.rules import Proposal
from specsafe.decoding.safety.choose import Array, Candidates, candidates, listed
from specsafe.decoding.safety.parts import Method, Random, Risk, Score
from specsafe.decoding.safety.signals import Openings, distances

_ROWS = 16  # positions looked at together: what is made of their vocabulary stays in a processor's cache
_BLOCK = _SPARE = 32


class Wanted(NamedTuple):
    """What a method looks at; no more than that is computed.

    length: of the lists at first. words: V. distances: KL and entropies. openings: int64 [W], tokens whose mass under the
    draft is asked for; may be none. coins: random numbers.
    """

    length: int
    words: int
    distances: bool
    openings: Tensor
    coins: bool


class Views(NamedTuple):
    """All slots of a round, arrays [B, S, …] on the host.

    table: the candidates; own: the draft's likeliest token, guesses: what it proposed (they differ where the draft's
    logits were blended after it guessed), told: p of the guesses. kl, gap: of signals.Distances; openings: q of
    Wanted.openings [B, S, W]. positions: in the answer. coins, draws: in [0, 1). What was not wanted is 0. lengths:
    int64 [B]. tied: a list ends among equals, and others might stand at its end.
    """

    table: Candidates
    tied: Array
    guesses: Array
    told: Array
    kl: Array
    gap: Array
    openings: Array
    positions: Array
    coins: Array
    draws: Array
    lengths: Array

    @property
    def own(self) -> Array:
        """int64 [B, S]."""
        return self.table.ids[..., self.table.ids.shape[-1] // 2]

    @property
    def finite(self) -> Array:
        """Whether both models gave numbers, bool [B, S]; the loop refuses what is none."""
        finite: Array = np.isfinite(self.table.p[..., 0] + self.table.q[..., 0])
        return finite


def wanted(method: Method, openings: Openings, words: int, *, telemetry: bool) -> Wanted:
    """What a method looks at; telemetry: everything."""
    control, length = method.control, listed(method.intersection, method.union)
    weighed = control if isinstance(control, Score | Risk) else None
    far = weighed is not None and bool(weighed.kl or weighed.entropy_gap)
    heard = weighed is not None and bool(weighed.openings)
    coins = method.sampled or method.recheck is not None or isinstance(control, Random)
    tokens = openings.words if telemetry or heard else openings.words[:0]
    return Wanted(min(length, words), words, telemetry or far, tokens, coins)


def look(logits: Tensor, draft: Tensor, proposal: Proposal, clock: Clock, want: Wanted, length: int) -> Views:
    """Look at logits of target and draft, float32 [B, S, V or more], and bring all to the host in one transfer.

    length: of the lists, at most V.
    """
    rows, slots, _ = logits.shape
    flat = [x[..., : want.words].flatten(0, 1) for x in (logits, draft)]
    parts = zip(*(torch.split(x, _ROWS) for x in (*flat, _rest(proposal, clock, slots, want))), strict=True)
    host = torch.cat([_facts(t, d, r, want, length) for t, d, r in parts]).cpu().numpy()
    cuts = (0, 2 * length, 4 * length, 6 * length, host.shape[1] - 9)
    host = host.reshape(rows, slots, -1)
    ids, p, q, openings = (host[..., a:b] for a, b in pairwise(cuts))
    guesses, positions, lengths, coins, draws, told, kl, gap, tied = (host[..., n] for n in range(-9, 0))
    guesses, positions, lengths = (x.astype(np.int64) for x in (guesses, positions, lengths[:, 0]))
    table = candidates(ids.astype(np.int64), p, q)
    return Views(table, tied > 0, guesses, told, kl, gap, openings, positions, coins, draws, lengths)


def _rest(proposal: Proposal, clock: Clock, slots: int, want: Wanted) -> Tensor:
    """What needs no logits, float64 [N, 5], in which ids stay whole: guess, position, length, coin, draw."""
    positions = clock.counters[:, :slots]
    lengths, none = proposal.lengths[:, None].expand_as(positions), torch.zeros_like(positions)
    purposes = (Purpose.ACCEPT, Purpose.TOKEN)
    random = [uniforms(clock.keys, positions, p) if want.coins else none for p in purposes]
    return torch.stack([proposal.tokens, positions, lengths, *random], -1).flatten(0, 1).double()


def _facts(logits: Tensor, draft: Tensor, rest: Tensor, want: Wanted, length: int) -> Tensor:
    """Of some positions [N, V]: ids, p, q of candidates, q of openings, then single columns: float64 [N, …]."""
    ids, tied = likeliest(logits, draft, length)
    p, q = torch.softmax(logits, -1), torch.softmax(draft, -1)
    far = distances(logits, draft, p, q) if want.distances else (torch.zeros_like(tied),) * 2
    said = (p.gather(1, ids), q.gather(1, ids), q.index_select(1, want.openings))
    told = p.gather(1, rest[:, :1].long())
    return torch.cat([ids, *said, rest, told, torch.stack([*far, tied], 1)], 1)


def likeliest(logits: Tensor, draft: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """Ids of the `length` largest logits of either, side by side, int64 [N, 2K]; of equal ones the lower id first.

    topk takes any of the equal ones at its end, so some more are taken and put in order. Second, float32 [N]: 1
    where equal values reach beyond even those, which bfloat16 makes rare, and other ids might stand at the end.
    """
    words = logits.shape[-1]
    more = min(length + max(_SPARE, length // 3), words)
    values, ids = (torch.stack(x, 1) for x in zip(_largest(logits, more), _largest(draft, more), strict=True))
    ids, order = ids.sort(-1)
    values, order = values.gather(-1, order).sort(stable=True, dim=-1, descending=True)
    tied = (values[..., length - 1] == values[..., -1]).any(-1) & (more < words)
    return ids.gather(-1, order)[..., :length].flatten(1), tied.float()


def _largest(logits: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """topk: whatever is among the `count` largest stands in one of the `count` blocks with the largest maxima."""
    words = logits.shape[-1]
    if words % _BLOCK or words < 4 * _BLOCK * count:
        values, ids = logits.topk(count, -1, sorted=False)
        return values, ids
    blocks = torch.unflatten(logits, -1, (-1, _BLOCK)).amax(-1).topk(count, -1, sorted=False).indices
    inside = (_BLOCK * blocks[..., None] + torch.arange(_BLOCK, device=logits.device)).flatten(1)
    values, places = logits.gather(1, inside).topk(count, -1, sorted=False)
    return values, inside.gather(1, places)
