"""What a controller looks at: how far draft and target are apart, and how much the draft wants to refuse."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

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
    """float32, of the shape of the leading dimensions. kl: KL(draft || target), nats. gap: max(0, H_t - H_d) / ln V."""

    kl: Tensor
    gap: Tensor


def distances(logits: Tensor, draft: Tensor) -> Distances:
    """Of raw logits [..., V]."""
    logp, logq = torch.log_softmax(logits, -1), torch.log_softmax(draft, -1)
    p, q = logp.exp(), logq.exp()
    kl = (q * (logq.clamp(min=_LEAST) - logp.clamp(min=_LEAST))).sum(-1)
    entropy = -(p * logp.clamp(min=_LEAST)).sum(-1)
    draft_entropy = -(q * logq.clamp(min=_LEAST)).sum(-1)
    words = torch.tensor(float(logits.shape[-1]))
    return Distances(kl, (entropy - draft_entropy).clamp(min=0) / words.log().to(kl.device))


class Openings(NamedTuple):
    """Refusal openings as a trie of tokens. Node 0 is where an opening may begin, the last one where none can.

    children, after: int64 [nodes, width]: tokens that go on, -1 where there is none, and the node they lead to.
    lost: the node after any other token. restart: bool [V], tokens after which a sentence begins.
    """

    children: Tensor
    after: Tensor
    lost: int
    restart: Tensor

    def mass(self, q: Tensor, node: Tensor) -> Tensor:
        """The draft's probability that the next token goes on with an opening: [B]; q [B, V], node int64 [B]."""
        tokens = self.children[node]
        return (q.gather(1, tokens.clamp(min=0)) * (tokens >= 0)).sum(1)

    def step(self, node: Tensor, token: Tensor) -> Tensor:
        """Where a token leads: int64 [B]."""
        tokens = self.children[node]
        same = tokens == token[:, None]
        onward = self.after[node].gather(1, same.long().argmax(1, keepdim=True))[:, 0]
        reached = torch.where(same.any(1), onward, self.lost)
        return torch.where(self.restart[token], 0, reached)


Encode = Callable[[str], Sequence[int]]


def first_tokens(encode: Encode, vocabulary: int, device: torch.device) -> Openings:
    """As published: the first token of each opening, looked for at every position."""
    first = sorted({next(iter(encode(text))) for text in OPENINGS})
    children = torch.tensor([first], dtype=torch.int64, device=device)
    restart = torch.ones(vocabulary, dtype=torch.bool, device=device)
    return Openings(children, torch.zeros_like(children), 0, restart)


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
    width = max(map(len, edges))
    children = [[*e, *[-1] * (width - len(e))] for e in edges]
    after = [[*e.values(), *[0] * (width - len(e))] for e in edges]
    restart = torch.zeros(vocabulary, dtype=torch.bool, device=device)
    ends = [t for t, b in pieces if t < vocabulary and b.rstrip(b" ").endswith((b".", b"!", b"?", b"\n"))]
    restart[torch.tensor(ends, dtype=torch.int64, device=device)] = True
    return Openings(
        torch.tensor(children, dtype=torch.int64, device=device),
        torch.tensor(after, dtype=torch.int64, device=device),
        len(edges) - 1,
        restart,
    )
