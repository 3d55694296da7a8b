"""From two distributions to a token: candidate sets in closed form, the affine mixture, its argmax or a draw.

N positions (rows and slots side by side), V words, K listed candidates of each model. Ranks count from 0, by logit and
then by the lower id, so that there are no ties.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from specsafe.decoding.randomness import sample
from specsafe.decoding.safety.parts import Choice

FAR = 1 << 40  # the rank of a token that is not on a list
_LISTED = 32
_FLOOR = 1e-8  # least weight of a candidate in a draw (SafeDecoding's clamp)


class Candidates(NamedTuple):
    """The K likeliest tokens of the target, then those of the draft; tokens on both lists come twice.

    ids, target_rank, draft_rank: int64 [N, 2K]. p, q: float32 [N, 2K], under target and draft.
    """

    ids: Tensor
    target_rank: Tensor
    draft_rank: Tensor
    p: Tensor
    q: Tensor


class Chosen(NamedTuple):
    """What was chosen of each row, and how.

    token: int64 [N]. guarded: bool [N], the fallback took the set's place. size, k: int64 [N], of the set and its k*
    (0 where there is none). gap: float32 [N], score of the best candidate minus that of the next other one.
    """

    token: Tensor
    guarded: Tensor
    size: Tensor
    k: Tensor
    gap: Tensor


def listed(choice: Choice, *others: Choice) -> int:
    """How many candidates of each model are listed at first."""
    return max(_LISTED, *(2 * c.count for c in (choice, *others)))


def candidates(logits: Tensor, draft: Tensor, p: Tensor, q: Tensor, *, share: int, length: int) -> Candidates:
    """List candidates; logits, draft, p, q: [N, V] float32. The lists grow until each pair shares `share` tokens.

    The smallest k for which the k likeliest of both share c tokens is 1 + the c-th smallest of
    max(target rank, draft rank): no scan, and no sort of the vocabulary.
    """
    words = logits.shape[-1]
    length, share = min(length, words), min(share, words)
    while True:
        found = _listed(logits, draft, p, q, length)
        common = (found.draft_rank[:, :length] < FAR).sum(-1)
        if length == words or bool((common >= share).all()):
            return found
        length = min(4 * length, words)


def _listed(logits: Tensor, draft: Tensor, p: Tensor, q: Tensor, length: int) -> Candidates:
    ours, theirs = likeliest(logits, length), likeliest(draft, length)
    places = torch.arange(length, device=logits.device)
    own = places.expand_as(ours)
    draft_rank, target_rank = _ranks(theirs, ours, logits.shape[-1]), _ranks(ours, theirs, logits.shape[-1])
    ids = torch.cat([ours, theirs], 1)
    return Candidates(
        ids,
        torch.cat([own, target_rank], 1),
        torch.cat([draft_rank, own], 1),
        p.gather(1, ids),
        q.gather(1, ids),
    )


def _ranks(ranked: Tensor, wanted: Tensor, words: int) -> Tensor:
    """The place of each wanted id in a ranked list of its row, FAR where it is not there: int64 [N, K]."""
    places = torch.arange(ranked.shape[1], device=ranked.device).expand_as(ranked)
    far = torch.full((len(ranked), words), FAR, device=ranked.device)
    return far.scatter_(1, ranked, places).gather(1, wanted)


def likeliest(logits: Tensor, length: int) -> Tensor:
    """Ids of the `length` largest logits of each row, int64 [N, length]; of equal ones the lower id first.

    topk orders equal values as it likes and takes any of those that tie at its end. So twice as many are taken and
    ordered; where equal values reach beyond even those, which bfloat16 makes rare, the whole rows are sorted.
    """
    words = logits.shape[-1]
    more = min(2 * length, words)
    values, ids = logits.topk(more, -1)
    if more < words and bool((values[:, length - 1] == values[:, -1]).any()):
        return torch.sort(logits, stable=True, dim=-1, descending=True).indices[:, :length]
    ids, order = ids.sort(-1)
    order = values.gather(1, order).sort(stable=True, dim=-1, descending=True).indices
    return ids.gather(1, order)[:, :length]


def choose(choice: Choice, table: Candidates, alpha: Tensor, uniform: Tensor | None = None) -> Chosen:
    """Choose a token of each row. alpha: float [N]. uniform: float64 [N] draws, None takes the best.

    Equal scores go to the target's order, so alpha 0 over a set with the target's argmax gives that argmax.
    """
    inside, k = _inside(choice, table)
    half = inside.shape[1] // 2
    guarded = ~inside.any(1)
    if choice.guard:
        top = table.target_rank[:, :half] < choice.guard
        guarded = guarded | ~(inside[:, :half] & top).any(1)
    inside = torch.where(guarded[:, None], _fallback(choice, table), inside)
    # float64: p + alpha (q - p) in float32 has ties that the exact numbers do not have
    score = table.p.double() + alpha.double()[:, None] * (table.q.double() - table.p.double())
    twice = torch.zeros_like(inside)
    twice[:, half:] = table.target_rank[:, half:] < FAR
    alone = inside & ~twice
    if uniform is not None:
        index = sample(torch.where(alone, score.clamp(min=_FLOOR), 0.0), uniform)
    else:
        index = _best(score, alone, table.target_rank)
    token = table.ids.gather(1, index[:, None])[:, 0]
    return Chosen(token, guarded, alone.sum(1), k, _gap(score, alone))


def _inside(choice: Choice, table: Candidates) -> tuple[Tensor, Tensor]:
    """The set [N, 2K] and its k* [N]."""
    none = torch.zeros(len(table.ids), dtype=torch.int64, device=table.ids.device)
    half = table.ids.shape[1] // 2
    if choice.kind == "target":
        return table.target_rank == 0, none
    if choice.kind == "union":
        return (table.target_rank < choice.count) | (table.draft_rank < choice.count), none
    worse = torch.maximum(table.target_rank, table.draft_rank)
    if choice.kind == "top_k":
        return worse < choice.count, none
    last = worse[:, :half].kthvalue(min(choice.count, half), 1).values
    return worse <= last[:, None], last + 1


def _fallback(choice: Choice, table: Candidates) -> Tensor:
    if choice.fallback == "target_top":
        return table.target_rank < choice.count
    if choice.fallback == "union":
        return (table.target_rank < choice.count) | (table.draft_rank < choice.count)
    return table.target_rank == 0


def _best(score: Tensor, inside: Tensor, order: Tensor) -> Tensor:
    best = score.masked_fill(~inside, -torch.inf)
    equal = best == best.amax(1, keepdim=True)
    return torch.where(equal, order, 2 * FAR).argmin(1)


def _gap(score: Tensor, inside: Tensor) -> Tensor:
    """Infinite where there is one candidate alone."""
    two = score.masked_fill(~inside, -torch.inf).topk(2, 1).values
    return (two[:, 0] - two[:, 1]).float()


def choose_anywhere(p: Tensor, q: Tensor, alpha: Tensor) -> Tensor:
    """The argmax of p + alpha (q - p) over the vocabulary: int64 [N]; p, q: [N, V]."""
    return torch.lerp(p, q, alpha.to(p.dtype)[:, None]).argmax(-1)
