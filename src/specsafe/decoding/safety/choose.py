"""From two short lists to a token: candidate sets in closed form, the affine mixture, its argmax or a draw.

numpy, on the host: the token of a slot decides how the next is chosen. Leading dimensions "…" are rows, or rows and
slots; K candidates are listed of each model. Ranks count from 0, by logit and then by the lower id: there are no ties.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from specsafe.decoding.randomness import sample
from specsafe.decoding.safety.parts import Choice

Array = NDArray[Any]
FAR = 1 << 40  # the rank of a token that is not on a list
_LISTED = 64  # good drafts share ten tokens of their first 32, most others of so many
_FLOOR = 1e-8  # least weight of a candidate in a draw (SafeDecoding's clamp)
_ID_BITS = 32


class Candidates(NamedTuple):
    """The K likeliest tokens of the target, then those of the draft, each in its order; those on both lists come twice.

    ids, target_rank, draft_rank: int64 […, 2K]. p, q: float64 […, 2K], under target and draft.
    """

    ids: Array
    target_rank: Array
    draft_rank: Array
    p: Array
    q: Array


class Allowed(NamedTuple):
    """A set of candidates, each token once: inside, bool […, 2K].

    guarded: bool […], the fallback took the set's place. size, k: int64 […], tokens of the set and its k*; 0 where there
    is no set, no k*. short: bool […], the lists share too little to say, and must be longer.
    """

    inside: Array
    guarded: Array
    size: Array
    k: Array
    short: Array


def listed(*choices: Choice) -> int:
    """How many candidates of each model are listed at first."""
    lengths = {"target": 1, "all": _LISTED // 2}
    lengths |= {"min_k": max(_LISTED, 2 * max(c.count for c in choices))}
    return max(lengths.get(c.kind, max(c.count, c.guard)) for c in choices)


def candidates(ids: Array, p: Array, q: Array) -> Candidates:
    """Of the two lists side by side, ids, p, q: […, 2K]. The ranks on the other list come from one short sort."""
    half = ids.shape[-1] // 2
    flat = ids.reshape(-1, 2 * half)
    keys = np.sort((flat << _ID_BITS) + np.arange(2 * half), -1)  # by token, the target's place first
    row, first = np.nonzero((keys[:, 1:] ^ keys[:, :-1]) >> _ID_BITS == 0)
    ours, theirs = (keys[row, at] & ((1 << _ID_BITS) - 1) for at in (first, first + 1))
    target_rank, draft_rank = np.full(flat.shape, FAR), np.full(flat.shape, FAR)
    target_rank[:, :half] = draft_rank[:, half:] = np.arange(half)
    target_rank[row, theirs], draft_rank[row, ours] = ours, theirs - half
    return Candidates(ids, target_rank.reshape(ids.shape), draft_rank.reshape(ids.shape), p, q)


def allowed(choice: Choice, table: Candidates) -> Allowed:
    """The set of a choice.

    The smallest k for which the k likeliest of both share c tokens is 1 + the c-th smallest of
    max(target rank, draft rank): no scan, and no sort of the vocabulary. For the whole vocabulary two shared tokens are
    enough: no token off the lists has more p or more q than they, so none has a larger mixture at an alpha of 0 to 1.
    """
    half = table.ids.shape[-1] // 2
    inside, last = _inside(choice, table)
    # where the guard asks for none in particular, any candidate will do
    least = min(choice.guard, half) if choice.guard else 2 * half
    guarded = np.logical_not(inside[..., :least].any(-1))
    if guarded.any():
        inside = np.where(guarded[..., None], _fallback(choice, table), inside)
    inside[..., half:] &= table.target_rank[..., half:] == FAR
    size = inside.sum(-1) * (choice.kind != "all")
    return Allowed(inside, guarded, size, (last + 1) * (choice.kind == "min_k"), last == FAR)


def _inside(choice: Choice, table: Candidates) -> tuple[Array, Array]:
    """The set, and the worst rank of what it needs on both lists: FAR if it is not there, 0 if nothing is needed."""
    nothing = np.zeros(table.ids.shape[:-1], np.int64)
    if choice.kind == "target":
        return table.target_rank == 0, nothing
    if choice.kind == "union":
        return np.minimum(table.target_rank, table.draft_rank) < choice.count, nothing
    worse = np.maximum(table.target_rank, table.draft_rank)
    if choice.kind == "top_k":
        return worse < choice.count, nothing
    half = table.ids.shape[-1] // 2
    nth = min(choice.count if choice.kind == "min_k" else 2, half) - 1
    last = np.partition(worse[..., :half], nth, -1)[..., nth]
    return (worse <= last[..., None]) | (choice.kind == "all"), last


def _fallback(choice: Choice, table: Candidates) -> Array:
    rank, least = table.target_rank, 1
    if choice.fallback == "target_top":
        least = choice.count
    if choice.fallback == "union":
        rank, least = np.minimum(rank, table.draft_rank), choice.count
    return rank < least


def pick(inside: Array, table: Candidates, alpha: Array, uniform: Array | None = None) -> Array:
    """Choose among candidates: the place of the chosen in the table, int64 […].

    alpha: float64 […]. uniform: float64 […] draws, None takes the best. Equal scores go to what the target finds
    likelier, then to the lower id, so alpha 0 over a set with the target's argmax gives that argmax.
    """
    score = mixture(table, alpha)
    if uniform is None:
        score = np.where(inside, score, -np.inf)
        best: Array = score.argmax(-1)
        equal = score == taken(score, best)[..., None]
        if np.count_nonzero(equal) > best.size:  # not by place: that depends on how long the lists are
            order = np.lexsort((table.ids, -table.p))
            best = taken(order, np.take_along_axis(equal, order, -1).argmax(-1))
        return best
    order = table.ids.argsort(-1)  # by token: a draw does not depend on how long the lists are
    weights = np.take_along_axis(np.where(inside, np.maximum(score, _FLOOR), 0.0), order, -1)
    return taken(order, sample(torch.from_numpy(weights), torch.from_numpy(uniform)).numpy())


def mixture(table: Candidates, alpha: Array) -> Array:
    """The scores p + alpha (q - p), float64 […, 2K]: in float32 they have ties that the exact numbers do not have."""
    score: Array = table.p + alpha[..., None] * (table.q - table.p)
    return score


def taken(values: Array, place: Array) -> Array:
    """The values […, 2K] at a place […] of the table."""
    found: Array = values.reshape(-1, values.shape[-1])[np.arange(place.size), place.ravel()]
    return found.reshape(place.shape)


def gap(inside: Array, table: Candidates, alpha: Array) -> Array:
    """Score of the best candidate minus that of the next, float64 […]; infinite where there is one alone."""
    two: Array = np.partition(np.where(inside, mixture(table, alpha), -np.inf), -2, -1)
    return two[..., -1] - two[..., -2]
