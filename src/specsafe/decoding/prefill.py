"""Prefill: prompts into the last rows of a cache, in few passes; what texts share is read once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import takewhile

import torch
from torch import Tensor

from specsafe.models.cache import Cache, SlotCache
from specsafe.models.network import LlamaNetwork, Network

PREFILL_CHUNK = 512  # tokens of one pass over prompts, padding included
_WASTE = 1.25
_WORTH = 32  # rows saved from which a pass of its own over what texts share costs less than they do

Look = Callable[[int, int, Tensor], None]
"""The first text of a pass, its first position there, and the hidden states [texts, width, H] that the pass gave."""


def read(
    network: Network,
    texts: Sequence[Sequence[int]],
    cache: Cache,
    look: Look | None = None,
    unseen: Sequence[int] | None = None,
) -> None:
    """Prefill new last rows of a cache with some tokens each (none is fine), in few and not too long passes.

    unseen: how many first tokens of each text `look` can do without; by default all if nobody looks, else none. What
    texts have in common there (a system prompt, a template) is read once and copied, also from texts read before.
    """
    free = (list(map(len, texts)) if look is None else [0] * len(texts)) if unseen is None else unseen
    known = _known(network, texts, cache, min(free, default=0))
    start = 0
    while start < len(texts):
        count = _together([t[known:] for t in texts[start:]]) if network.reads_together else 1
        seen = partial(look, start) if look else None
        _read_rows(network, texts[start : start + count], cache, seen, known)
        start += count
    kept = _sharing(network, cache)
    if texts and kept is not None:
        kept.remember(texts[-1])


def _sharing(network: Network, cache: Cache) -> SlotCache | None:
    """The cache, if rows may be copied in it. Fast arithmetic that answers one by one must not depend on the order."""
    if not isinstance(cache, SlotCache) or not isinstance(network, LlamaNetwork):
        return None
    return cache if cache.rows > 1 or network.invariant else None


def _known(network: Network, texts: Sequence[Sequence[int]], cache: Cache, limit: int) -> int:
    """How many first tokens of all texts the cache remembers; what they share is read first where that saves work."""
    kept = _sharing(network, cache)
    if not limit or kept is None:
        return 0
    shared = min(limit, _common(texts))
    known = _common([kept.remembered, texts[0][:shared]])
    if (shared - known) * (len(texts) - 1) < _WORTH:
        return known
    _read_rows(network, [texts[0][:shared]], cache, None, known)
    kept.remember(texts[0][:shared])
    kept.drop_row(len(kept.lengths) - 1)
    return shared


def _common(texts: Sequence[Sequence[int]]) -> int:
    """Length of the longest common beginning."""
    return sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, zip(*texts, strict=False)))


def _together(texts: Sequence[Sequence[int]]) -> int:
    """How many of the first texts are worth one pass: padding to the longest costs less than passes of their own."""
    longest, tokens, count = 0, 0, 0
    for text in texts:
        longest, tokens = max(longest, len(text)), tokens + len(text)
        padded = longest * (count + 1)
        if count and (padded > PREFILL_CHUNK or padded > _WASTE * tokens):
            break
        count += 1
    return count


def _read_rows(
    network: Network,
    texts: Sequence[Sequence[int]],
    cache: Cache,
    look: Callable[[int, Tensor], None] | None,
    known: int,
) -> None:
    """Texts side by side, padded on the right by what is taken back; `known` first tokens of each are remembered."""
    rows = []
    for _ in texts:
        rows.append(cache.add_row())
        if known and isinstance(cache, SlotCache):
            cache.recall(known)
    before, width = cache.lengths.copy(), max(map(len, texts))
    padded = torch.tensor([[*t, *[*t[-1:], 0][:1] * (width - len(t))] for t in texts], device=network.device)
    for start in range(known, width, PREFILL_CHUNK):
        hidden = network.forward(padded[:, start : start + PREFILL_CHUNK], cache, rows[0])
        if look is not None:
            look(start, hidden)
    cache.truncate([*before[: rows[0]], *map(len, texts)])
