"""What a controller looks at: how far draft and target are apart, and how much the draft wants to refuse."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from specsafe.decoding.sums import dot

Array = NDArray[Any]

OPENINGS = (
    "I cannot",
    "I can't",
    "I'm sorry",
    "I am sorry",
    "Sorry",
    "I apologize",
    "I'm unable",
    "I am unable",
    "I must decline",
    "I won't",
    "I will not",
)
_LEAST = -100.0  # a log-probability of the target is taken as no smaller


class Distances(NamedTuple):
    """float64 [N]. kl: KL(draft || target), nats. gap: max(0, H_t - H_d) / ln V."""

    kl: Tensor
    gap: Tensor


def distances(
    logits: Tensor, draft: Tensor, p: Tensor, q: Tensor, zs: tuple[Tensor, Tensor] | None = None
) -> Distances:
    """Of raw logits [N, V] and their softmax; in three sums over the vocabulary. zs: log sum exp [N] of both, if known.

    log p = l - z with one z a row, so the sums of p log p, q log q and q log p are those of p l, q l_d and q l.
    """
    z, z_draft = zs or (_normalizer(logits, p), _normalizer(draft, q))
    own = torch.maximum(logits, (z + _LEAST)[:, None].to(logits))
    entropy = z - dot(p, own)
    draft_entropy = z_draft - dot(q, draft.clamp(min=torch.finfo(draft.dtype).min))  # 0 times -inf is 0
    kl = z - dot(q, own) - draft_entropy
    return Distances(kl, (entropy - draft_entropy).clamp(min=0) / math.log(logits.shape[-1]))


def _normalizer(logits: Tensor, p: Tensor) -> Tensor:
    return logits.amax(-1).double() - p.amax(-1).double().log()


class Openings(NamedTuple):
    """Refusal openings as a trie of tokens. Node 0 is where an opening may begin, the last one where none can.

    words: int64 [W] on the device of the networks, every token that is in an opening; the rest is on the host:
    children, after: int64 [nodes, width]: tokens that go on, as places in `words`, -1 where there is none, and the node
    they lead to. lost: the node after any other token. restart: bool [V], tokens after which a sentence begins.
    """

    words: Tensor
    tokens: Array
    children: Array
    after: Array
    lost: int
    restart: Array

    def mass(self, q: Array, node: Array) -> Array:
        """The draft's probability that the next token goes on with an opening: [B]; q [B, W] of `words`, node int64 [B]."""
        places = self.children[node]
        found: Array = np.where(places >= 0, q[np.arange(len(q))[:, None], places], 0.0).sum(1)
        return found

    def step(self, node: Array, token: Array) -> Array:
        """Where a token leads: int64 [B]."""
        if len(self.children) == 1:
            return node
        places = self.children[node]
        same = (self.tokens[places] == token[:, None]) & (places >= 0)
        onward = np.where(same, self.after[node], 0).sum(1)
        return np.where(self.restart[token], 0, np.where(same.any(1), onward, self.lost))


Encode = Callable[[str], Sequence[int]]


def first_tokens(encode: Encode, vocabulary: int, device: torch.device) -> Openings:
    """As published: the first token of each opening, looked for at every position."""
    first = sorted({next(iter(encode(text))) for text in OPENINGS})
    return _openings([dict.fromkeys(first, 0)], 0, np.ones(vocabulary, bool), device)


def spellings() -> tuple[str, ...]:
    """Every opening as it may be written: capital or not, straight or curly apostrophe, after a space or not."""
    cases = [form for text in OPENINGS for form in (text, text[0].lower() + text[1:])]
    quotes = [form for text in cases for form in (text, text.replace("'", "\N{RIGHT SINGLE QUOTATION MARK}"))]
    return tuple(dict.fromkeys(form for text in quotes for form in (text, f" {text}")))


def trie(
    encode: Encode, pieces: Iterable[tuple[int, bytes]], vocabulary: int, device: torch.device
) -> Openings:
    """Whole openings, from the start of an answer and of every sentence; pieces: (token, its bytes)."""
    edges: list[dict[int, int]] = [{}]
    for text in spellings():
        node = 0
        for token in encode(text):
            if token not in edges[node]:
                edges.append({})
                edges[node][token] = len(edges) - 1
            node = edges[node][token]
    edges.append({})
    restart = np.zeros(vocabulary, bool)
    restart[
        [t for t, b in pieces if t < vocabulary and b.rstrip(b" ").endswith((b".", b"!", b"?", b"\n"))]
    ] = True
    return _openings(edges, len(edges) - 1, restart, device)


def _openings(
    edges: Sequence[Mapping[int, int]], lost: int, restart: Array, device: torch.device
) -> Openings:
    """From the edges of each node, token -> node."""
    tokens = sorted({token for e in edges for token in e})
    place, width = {token: n for n, token in enumerate(tokens)}, max(map(len, edges))
    children = [[*map(place.__getitem__, e), *[-1] * (width - len(e))] for e in edges]
    after = [[*e.values(), *[0] * (width - len(e))] for e in edges]
    known = torch.tensor(tokens, dtype=torch.int64, device=device)
    return Openings(known, np.array(tokens), np.array(children), np.array(after), lost, restart)
