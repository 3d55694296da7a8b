"""Audit: one forward pass over prompt and answer tells whether the target alone would have said it, greedily.

A row of logits depends only on the tokens before it. As long as an answer's tokens are the target's own choices,
the rows of one prefill are the rows that decoding would have computed, so all tokens can be looked at together; the
first token that is another ends that. Where the arithmetic is invariant (models.invariant) they are equal bit for bit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from specsafe.decoding.drafters import PREFILL_CHUNK
from specsafe.decoding.stopping import Emitted, Finish, cut
from specsafe.models.cache import Cache
from specsafe.models.network import Network

if TYPE_CHECKING:
    from specsafe.decoding.stack import Stack
    from specsafe.models.tokenizer import Tokenizer

_ROWS = 64  # rows of logits at once: at a vocabulary of 150,000 they take 40 MB
_LARGEST = torch.finfo(torch.float32).max  # of an impossible token, so that every number can be written down
_BROKEN = "\N{REPLACEMENT CHARACTER}"  # what cut characters decode to


class UnfitError(ValueError):
    """An answer that cannot be audited; the message is the reason."""


class Fork(NamedTuple):
    """The first token that is not the target's own choice.

    gap: log-probability of the target's own token minus that of the answer's, at the prefix that both share, in
    nats. rank: how many tokens the target puts before the answer's; 0 would be its own.
    """

    position: int
    gap: float
    rank: int


class Verification(NamedTuple):
    """What the target says of an answer. Lists have one entry a token.

    tokens: of the answer, the end token included where `ends` found it. greedy: is it the target's own choice?
    fork: None if all are. logprobs, top, watched: as in decoding.loop.Answer. broken: first position whose logits
    are not numbers; whatever stands after it means nothing.
    """

    tokens: tuple[int, ...]
    greedy: list[bool]
    fork: Fork | None
    logprobs: list[float]
    top: list[list[tuple[int, float]]]
    watched: list[float]
    broken: int | None


@torch.inference_mode()
def verify(
    network: Network,
    prompt_tokens: Sequence[int],
    answer_tokens: Sequence[int],
    *,
    top: int = 0,
    watch: Sequence[int] = (),
    ends: Sequence[int] = (),
    cache: Cache | None = None,
) -> Verification:
    """Look at an answer with one prefill of prompt and answer.

    prompt_tokens: at least one. top: log-probabilities told a position. watch: tokens whose log-probability at the
    first position is told. ends: the answer is followed by one of these, the likeliest. cache: one without rows,
    which it is again afterwards; None makes one. Raises ValueError for empty tokens.
    """
    given = [*answer_tokens, ends[0]] if ends else list(answer_tokens)
    if not prompt_tokens or not given:
        raise ValueError("a prompt and an answer need a token each")
    read = [*prompt_tokens, *given[:-1]]
    cache = network.new_cache(1, len(read)) if cache is None else cache
    cache.add_row()
    looked = _Looked(len(given), top)
    first = len(prompt_tokens) - 1  # the row that says the answer's first token
    for start in range(0, len(read), PREFILL_CHUNK):
        chunk = torch.tensor([read[start : start + PREFILL_CHUNK]], device=network.device)
        hidden = network.forward(chunk, cache)[0]
        for rows in torch.split(hidden[max(first - start, 0) :], _ROWS):
            if len(rows):
                _look(looked, network.logits(rows), given, watch, ends)
    cache.drop_row(0)
    fork = next((f for f in looked.forks if f), None)
    return Verification(
        tuple(given),
        [f is None for f in looked.forks],
        fork,
        looked.logprobs,
        looked.top,
        looked.watched,
        next((n for n, fine in enumerate(looked.finite) if not fine), None),
    )


class _Looked:
    """What was seen so far, one entry a token."""

    def __init__(self, length: int, most: int) -> None:
        self.length, self.most = length, most
        self.finite: list[bool] = []
        self.forks: list[Fork | None] = []
        self.logprobs: list[float] = []
        self.top: list[list[tuple[int, float]]] = []
        self.watched: list[float] = []


def _look(
    looked: _Looked, logits: Tensor, given: list[int], watch: Sequence[int], ends: Sequence[int]
) -> None:
    """Rows of logits [N, V], float32, of the next N tokens; an end that is looked for is chosen into `given`."""
    done = len(looked.forks)
    if ends and done + len(logits) == looked.length:
        options = torch.tensor(sorted(ends), device=logits.device)
        given[-1] = int(options[logits[-1, options].argmax()])
    tokens = torch.tensor(given[done : done + len(logits)], device=logits.device)[:, None]
    normalizer = torch.logsumexp(logits, -1)
    own = logits.argmax(-1, keepdim=True)  # of equal logits the lowest index, as records.Target has it
    said, best = logits.gather(1, tokens), logits.gather(1, own)
    index = torch.arange(logits.shape[1], device=logits.device)
    rank = ((logits > said) | ((logits == said) & (index < tokens))).sum(-1)
    gaps = (best - said)[:, 0].clamp(max=_LARGEST).tolist()
    greedy = (own == tokens)[:, 0].tolist()
    for n, (chosen, gap, place) in enumerate(zip(greedy, gaps, rank.tolist(), strict=True)):
        looked.forks.append(None if chosen else Fork(done + n, gap, place))
    looked.finite += logits.amax(-1).isfinite().tolist()
    looked.logprobs += (said[:, 0] - normalizer).clamp(min=-_LARGEST).tolist()
    if not done:
        looked.watched = (logits[0, torch.tensor(list(watch), dtype=torch.int64)] - normalizer[0]).tolist()
    if looked.most:
        values, ids = logits.topk(looked.most, -1)
        rows = zip(ids.tolist(), (values - normalizer[:, None]).tolist(), strict=True)
        looked.top += [list(zip(i, v, strict=True)) for i, v in rows]


class Claimed(NamedTuple):
    """The tokens that an answer is taken to have. unended: the end token that followed is not among them."""

    tokens: list[int]
    retokenized: bool
    unended: bool


def claimed_tokens(
    tokenizer: Tokenizer,
    vocabulary: int,
    text: str,
    token_ids: Sequence[int] | None,
    finish: Finish,
    stops: Sequence[str],
) -> Claimed:
    """The tokens of an answer: its own where they spell its text, otherwise those of the text.

    vocabulary: ids below it are tokens. stops: stop strings of the target; a text ends before the first of them.
    Raises UnfitError where there is nothing to audit, for an id that is no token, for a text that the tokenizer cannot
    spell, and where the answer goes on after an end token.
    """
    own = list(token_ids or ())
    wrong = [t for t in own if not 0 <= t < vocabulary]
    if wrong:
        raise UnfitError(f"token {wrong[0]} is not in the target's vocabulary of {vocabulary}")
    if not own and not text:
        raise UnfitError("nothing to audit: the answer is empty and has no tokens")
    if any(t in tokenizer.end_ids for t in own[:-1]):
        raise UnfitError("its tokens go on after an end token")
    spoken = tokenizer.decode([t for t in own if t not in tokenizer.end_ids])
    spelled = {s.rstrip(_BROKEN) for s in (spoken, cut(spoken, stops))}
    if own and text.rstrip(_BROKEN) in spelled:
        stopped = own[-1] in tokenizer.end_ids or cut(spoken, stops) != spoken
        return Claimed(own, False, finish == "stop" and not stopped)
    tokens = tokenizer.encode(text)
    if not tokens or tokenizer.decode(tokens) != text:
        raise UnfitError("the target's tokenizer cannot spell its text")
    # where stop strings are in force, the text does not say whether one of them ended it
    return Claimed(tokens, True, finish == "stop" and not stops)


class Auditor:
    """Audits requests of the worker against the target of a stack, one at a time."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._cache: Cache | None = None

    def audit(self, item: str, prompt: Sequence[int], answer: Mapping[str, Any]) -> dict[str, Any]:
        """One answer {"text", "token_ids", "finish"} to a prompt -> the fields of engines.base.Audited as JSON.

        Raises UnfitError for an answer that cannot be audited.
        """
        stack, config = self._stack, self._stack.config
        if not prompt:
            raise UnfitError("the prompt has no token")
        vocabulary = min(stack.tokenizer.vocab_size, stack.target.vocabulary)
        claimed = claimed_tokens(
            stack.tokenizer,
            vocabulary,
            answer["text"],
            answer["token_ids"],
            answer["finish"],
            config["stops"],
        )
        count = len(claimed.tokens) + claimed.unended
        if len(prompt) + count > config["context"]:
            raise UnfitError(
                f"{len(prompt)} prompt tokens and {count} of answer pass the context of {config['context']}"
            )
        if self._cache is None:  # of the size that decoding has and the proof of its arithmetic was made for
            room = max(config["num_speculative_tokens"] + 1, config["width"])
            self._cache = stack.target.new_cache(1, config["context"] + room)
        seen = verify(
            stack.target,
            prompt,
            claimed.tokens,
            top=config["top"],
            watch=[t for tokens in stack.letters.values() for t in tokens],
            ends=sorted(stack.tokenizer.end_ids) if claimed.unended else (),
            cache=self._cache,
        )
        if seen.broken is not None:
            raise UnfitError(f"the logits after {seen.broken} tokens are not numbers (NaN or infinite)")
        fork = seen.fork
        return {
            "item": item,
            "tokens": len(seen.tokens),
            "retokenized": claimed.retokenized,
            "fork": fork.position if fork else None,
            "gap": fork.gap if fork else None,
            "rank": fork.rank if fork else None,
            "complete": fork is None and self._ends_there(seen.tokens, answer["finish"]),
            "logprobs": seen.logprobs,
            "top": seen.top,
            "letters": stack.letter_logprobs(tuple(seen.watched)),
            "prompt_tokens": len(prompt),
        }

    def _ends_there(self, tokens: Sequence[int], finish: str) -> bool:
        """Whether decoding with the arm's own limits would have ended with the last token, and in that way."""
        emitted = Emitted(self._stack.stop_rule())
        done = [emitted.push(t) for t in tokens]
        return done.index(True) == len(tokens) - 1 and emitted.finish == finish if any(done) else False
