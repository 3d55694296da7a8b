"""What target and draft say at all slots of a round: looked at where the logits are, what is few is brought to the host.

N positions (rows and slots side by side), V words that both models have, K candidates of each.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from specsafe.decoding.drafters import Clock
from specsafe.decoding.randomness import Purpose, uniforms
from specsafe.decoding.rules import Proposal
from specsafe.decoding.safety.choose import Array, Candidates, candidates, listed
from specsafe.decoding.safety.parts import Method, Random, Risk, Score
from specsafe.decoding.safety.signals import Openings, distances

_ROWS = 16  # positions looked at together: what is made of their vocabulary stays in a processor's cache
_BLOCK = 32
_PLACE_BITS = 26  # a part of positions holds 32 lines of up to two million words
_LINE_SHIFT = _PLACE_BITS + 32


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
    logits were blended after it guessed), told: p of the guesses. zs: log sum exp of target and of draft [B, S, 2].
    kl, gap: of signals.Distances; openings: q of Wanted.openings [B, S, W]. positions: in the answer. coins, draws: in
    [0, 1). What was not wanted is 0. lengths: int64 [B].
    """

    table: Candidates
    zs: Array
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
    if getattr(control, "match", "own") == "top":
        length = max(length, method.union.count)
    weighed = control if isinstance(control, Score | Risk) else None
    far = weighed is not None and bool(weighed.kl or weighed.entropy_gap)
    heard = weighed is not None and bool(weighed.openings)
    coins = method.sampled or method.recheck is not None or isinstance(control, Random)
    tokens = openings.words if telemetry or heard else openings.words[:0]
    return Wanted(min(length, words), words, telemetry or far, tokens, coins)


def look(logits: Tensor, draft: Tensor, proposal: Proposal, clock: Clock, want: Wanted) -> Views:
    """Look at logits of target and draft, float32 [B, S, V or more], with lists of the length that is wanted at first."""
    slots = logits.shape[:2]
    parts = _parts(logits, draft, want.words)
    likeliest = [_likeliest(*x, want.length) for x in parts]
    host = np.concatenate([_facts(*x, said, want) for x, said in zip(parts, likeliest, strict=True)])
    openings, rest = (x.reshape(*slots, -1) for x in np.split(host, [-4], -1))
    kl, gap, zs = rest[..., 0], rest[..., 1], rest[..., 2:]
    counters, guesses = clock.counters[:, : slots[1]], proposal.tokens
    numbers = torch.stack([guesses, counters, proposal.lengths[:, None].expand_as(counters)]).cpu().numpy()
    real = guesses.clamp(0, want.words - 1)[..., None]  # padding may be any number
    told = np.exp(logits.gather(-1, real)[..., 0].cpu().numpy() - zs[..., 0])
    none, purposes = np.zeros(slots), (Purpose.ACCEPT, Purpose.TOKEN)
    random = [uniforms(clock.keys, counters, p).cpu().numpy() if want.coins else none for p in purposes]
    coins, draws = random
    table = _table(likeliest, zs)
    return Views(table, zs, numbers[0], told, kl, gap, openings, numbers[1], coins, draws, numbers[2, :, 0])


def longer(views: Views, logits: Tensor, draft: Tensor, length: int, words: int) -> Views:
    """The same with lists of another length."""
    likeliest = [_likeliest(*x, length) for x in _parts(logits, draft, words)]
    return views._replace(table=_table(likeliest, views.zs))


def _parts(logits: Tensor, draft: Tensor, words: int) -> list[tuple[Tensor, Tensor]]:
    """Both as [≤_ROWS, V], which are looked at one after the other."""
    ours, theirs = (torch.split(x[..., :words].flatten(0, 1), _ROWS) for x in (logits, draft))
    return list(zip(ours, theirs, strict=True))


def _table(likeliest: list[Array], zs: Array) -> Candidates:
    """Of what _likeliest found."""
    told = np.concatenate(likeliest).reshape(*zs.shape[:2], -1, 3)
    p, q = np.moveaxis(np.exp(told[..., 1:] - zs[..., None, :]), -1, 0)
    return candidates(told[..., 0].astype(np.int64), p, q)


def _facts(logits: Tensor, draft: Tensor, likeliest: Array, want: Wanted) -> Array:
    """Of some positions [N, V]: q of openings, KL, difference of entropies, and log sum exp of both: float64 [N, W + 4]."""
    p, q = torch.softmax(logits, -1), torch.softmax(draft, -1)
    first, length = torch.from_numpy(likeliest).to(p.device), likeliest.shape[1] // 2
    tops = [x.gather(1, first[:, n, :1].long())[:, 0] for x, n in ((p, 0), (q, length))]
    zs = first[:, 0, 1] - tops[0].double().log(), first[:, length, 2] - tops[1].double().log()
    far = distances(logits, draft, p, q, zs) if want.distances else (torch.zeros_like(zs[0]),) * 2
    found: Array = torch.cat([q.index_select(1, want.openings), torch.stack([*far, *zs], 1)], 1).cpu().numpy()
    return found


def _likeliest(logits: Tensor, draft: Tensor, length: int) -> Array:
    """The `length` largest of logits [N, V], of equal ones the lower id first, then those of the draft's.

    Their id and what both say, float64 [N, 2K, 3]. The K-th largest maximum of blocks is reached by K logits or more, and
    what reaches it, equals and all, stands in blocks whose maximum does. A row that has no numbers is there whole.
    """
    rows, words = logits.shape
    block = _BLOCK
    while block > 1 and words < 4 * block * length:
        block //= 2
    short = -words % block
    whole = [pad(x, (0, short), value=-math.inf) if short else x for x in (logits, draft)]
    blocks = [torch.unflatten(x, -1, (-1, block)) for x in whole]
    told = torch.stack([x.amax(-1) for x in blocks], 1).cpu().numpy()
    maxima = told.reshape(2 * rows, -1)  # two lines a row
    least = np.partition(maxima, -length, -1)[:, -length, None]
    chosen = np.flatnonzero(~(maxima < least))
    line, at = np.divmod(chosen, maxima.shape[1])
    where = torch.from_numpy(chosen - ((line + 1) >> 1) * maxima.shape[1]).to(logits.device)
    said = torch.stack([x.flatten(0, 1).index_select(0, where) for x in blocks]).cpu().numpy()
    own = np.where(line[:, None] & 1, said[1], said[0])
    found = np.flatnonzero(~(own < least[line, 0, None]))
    found = found[_order(own.ravel()[found], line[found // block], 2 * rows, length)]
    ids = block * at[found // block] + found % block
    return np.stack([ids, *said.reshape(2, -1)[:, found]], -1).reshape(rows, -1, 3)


def _order(values: Array, lines: Array, count: int, length: int) -> Array:
    """Places of the `length` largest values of each of `count` lines, the first of equals first, int64 [count, length].

    values: float32 [M], line by line. One sort of integers, from the left: the line, the bits of the value turned so that
    they count downwards, the place.
    """
    known = np.where(np.isnan(values), np.float32(np.inf), values) + np.float32(0)  # no NaN, no negative zero
    bits = known.view(np.int32).astype(np.int64)
    falling = np.where(bits < 0, bits & 0x7FFFFFFF, ~bits) + (1 << 31)
    keys = (lines << _LINE_SHIFT) + (falling << _PLACE_BITS) + np.arange(len(lines))
    keys.sort()
    sizes = np.bincount(lines, minlength=count)
    places: Array = keys[(sizes.cumsum() - sizes)[:, None] + np.arange(length)] & ((1 << _PLACE_BITS) - 1)
    return places
