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


class _Part(NamedTuple):
    """Some positions, where their logits are: float32 [N, V], and single columns float64 [N, 8]."""

    logits: Tensor
    draft: Tensor
    p: Tensor
    q: Tensor
    columns: Tensor


class Sight:
    """All slots of a round, where their logits are."""

    def __init__(self, logits: Tensor, draft: Tensor, proposal: Proposal, clock: Clock, want: Wanted) -> None:
        """logits, draft: float32 [B, S, V or more]."""
        self._want, self._shape = want, logits.shape[:2]
        flat = [x[..., : want.words].flatten(0, 1) for x in (logits, draft)]
        rest = _rest(proposal, clock, logits.shape[1], want)
        parts = zip(*(torch.split(x, _ROWS) for x in (*flat, rest)), strict=True)
        self._parts = [_part(t, d, r, want) for t, d, r in parts]

    def views(self, length: int) -> Views:
        """Everything on the host in one transfer, with lists of some length, at most V."""
        host = torch.cat([_told(part, self._want, length) for part in self._parts]).cpu().numpy()
        host, cuts = (
            host.reshape(*self._shape, -1),
            (0, 2 * length, 4 * length, 6 * length, host.shape[1] - 9),
        )
        ids, p, q, openings = (host[..., a:b] for a, b in pairwise(cuts))
        guesses, positions, lengths, coins, draws, told, kl, gap, tied = (host[..., n] for n in range(-9, 0))
        guesses, positions, lengths = (x.astype(np.int64) for x in (guesses, positions, lengths[:, 0]))
        table = candidates(ids.astype(np.int64), p, q)
        return Views(table, tied > 0, guesses, told, kl, gap, openings, positions, coins, draws, lengths)


def _rest(proposal: Proposal, clock: Clock, slots: int, want: Wanted) -> Tensor:
    """What needs no logits, float64 [N, 5], in which ids stay whole: guess, position, length, coin, draw."""
    positions = clock.counters[:, :slots]
    lengths, none = proposal.lengths[:, None].expand_as(positions), torch.zeros_like(positions)
    random = [
        uniforms(clock.keys, positions, p) if want.coins else none for p in (Purpose.ACCEPT, Purpose.TOKEN)
    ]
    return torch.stack([proposal.tokens, positions, lengths, *random], -1).flatten(0, 1).double()


def _part(logits: Tensor, draft: Tensor, rest: Tensor, want: Wanted) -> _Part:
    p, q = torch.softmax(logits, -1), torch.softmax(draft, -1)
    told = p.gather(1, rest[:, :1].long())
    far = distances(logits, draft, p, q) if want.distances else (torch.zeros_like(told[:, 0]),) * 2
    return _Part(logits, draft, p, q, torch.cat([rest, told, torch.stack(far, 1)], 1))


def _told(part: _Part, want: Wanted, length: int) -> Tensor:
    """Ids, p and q of the candidates, q of the openings, then single columns: float64 [N, …]."""
    ids, tied = likeliest(part.logits, part.draft, length)
    said = (part.p.gather(1, ids), part.q.gather(1, ids), part.q.index_select(1, want.openings))
    return torch.cat([ids, *said, part.columns, tied[:, None]], 1)


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
