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

from specsafe.decoding.prefill import read
from specsafe.decoding.stopping import Emitted, Finish, cut
from specsafe.decoding.sums import log_normalizer
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


class Asked(NamedTuple):
    """A prompt of one token or more and an answer to look at; ends: one of these follows it, the likeliest."""

    prompt: Sequence[int]
    answer: Sequence[int]
    ends: Sequence[int] = ()


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
    """Look at one answer; see verify_together."""
    asked = Asked(prompt_tokens, answer_tokens, ends)
    return verify_together(network, [asked], top=top, watch=watch, cache=cache)[0]


@torch.inference_mode()
def verify_together(
    network: Network,
    asked: Sequence[Asked],
    *,
    top: int = 0,
    watch: Sequence[int] = (),
    cache: Cache | None = None,
) -> list[Verification]:
    """Look at answers with one prefill of each prompt and its answer, several side by side.

    top: log-probabilities told a position. watch: tokens whose log-probability at the first position is told. cache:
    one without rows and with room for as many, which it is again afterwards; None makes one. Where the arithmetic is
    invariant, what is told of an answer does not depend on its neighbours. Raises ValueError for empty tokens.
    """
    shortest_first = sorted(range(len(asked)), key=lambda i: len(asked[i].prompt) + len(asked[i].answer))
    looked = [_Looked(asked[i]) for i in shortest_first]
    texts = [x.text for x in looked]
    cache = network.new_cache(len(texts), max(map(len, texts))) if cache is None else cache

    def look(first: int, start: int, hidden: Tensor) -> None:
        """The rows of a pass that say tokens of answers; see prefill.Look."""
        rows, owners = [], []
        for place, states in enumerate(hidden, first):
            said = states[max(looked[place].first - start, 0) : max(len(texts[place]) - start, 0)]
            rows.append(said)
            owners += [looked[place]] * len(said)
        for part, states in enumerate(torch.split(torch.cat(rows), _ROWS)):
            if len(states):
                chunk = owners[part * _ROWS : (part + 1) * _ROWS]
                _look(chunk, network.logits(states), watch, top)

    read(network, texts, cache, look, [x.first for x in looked])
    for row in reversed(range(len(texts))):
        cache.drop_row(row)
    found = {i: x.verification() for i, x in zip(shortest_first, looked, strict=True)}
    return [found[i] for i in range(len(asked))]


class _Looked:
    """What was seen so far of an answer, one entry a token."""

    def __init__(self, asked: Asked) -> None:
        self.given = [*asked.answer, asked.ends[0]] if asked.ends else list(asked.answer)
        if not asked.prompt or not self.given:
            raise ValueError("a prompt and an answer need a token each")
        self.ends = sorted(asked.ends)
        self.text = [*asked.prompt, *self.given[:-1]]
        self.first = len(asked.prompt) - 1  # the row that says the answer's first token
        self.finite: list[bool] = []
        self.forks: list[Fork | None] = []
        self.logprobs: list[float] = []
        self.top: list[list[tuple[int, float]]] = []
        self.watched: list[float] = []

    def verification(self) -> Verification:
        """All that was seen."""
        return Verification(
            tuple(self.given),
            [f is None for f in self.forks],
            next((f for f in self.forks if f), None),
            self.logprobs,
            self.top,
            self.watched,
            next((n for n, fine in enumerate(self.finite) if not fine), None),
        )


def _look(owners: Sequence[_Looked], logits: Tensor, watch: Sequence[int], top: int) -> None:
    """Rows of logits [N, V], float32, each of the next token of its owner; an end that is looked for is chosen."""
    places = _places(owners)
    for row, (owner, place) in enumerate(zip(owners, places, strict=True)):
        if owner.ends and place == len(owner.given) - 1:
            options = torch.tensor(owner.ends, device=logits.device)
            owner.given[-1] = int(options[logits[row, options].argmax()])
    said_ids = [owner.given[place] for owner, place in zip(owners, places, strict=True)]
    tokens = torch.tensor(said_ids, device=logits.device)[:, None]
    normalizer = log_normalizer(logits)
    own = logits.argmax(-1, keepdim=True)  # of equal logits the lowest index, as records.Target has it
    said, best = logits.gather(1, tokens), logits.gather(1, own)
    gaps = (best - said)[:, 0].clamp(max=_LARGEST).tolist()
    ranks = _ranks(logits, said, tokens, own != tokens)
    finite = logits.amax(-1).isfinite().tolist()
    logprobs = (said[:, 0] - normalizer).clamp(min=-_LARGEST).tolist()
    tops = _tops(logits, normalizer, top)
    for row, (owner, place) in enumerate(zip(owners, places, strict=True)):
        owner.forks.append(Fork(place, gaps[row], ranks[row]) if row in ranks else None)
        owner.finite.append(finite[row])
        owner.logprobs.append(logprobs[row])
        owner.top += tops[row : row + 1]
        if not place:
            watched = logits[row, torch.tensor(list(watch), dtype=torch.int64)] - normalizer[row]
            owner.watched = watched.tolist()


def _places(owners: Sequence[_Looked]) -> list[int]:
    """Which token of its owner each row says."""
    done: dict[int, int] = {}
    places = []
    for owner in owners:
        places.append(done.setdefault(id(owner), len(owner.forks)))
        done[id(owner)] += 1
    return places


def _ranks(logits: Tensor, said: Tensor, tokens: Tensor, wrong: Tensor) -> dict[int, int]:
    """Row -> how many tokens stand before its own, of the rows that are not the target's choice: few, if any."""
    rows = wrong[:, 0].nonzero()[:, 0]
    index = torch.arange(logits.shape[1], device=logits.device)
    some, value = logits[rows], said[rows]
    before = ((some > value) | ((some == value) & (index < tokens[rows]))).sum(-1)
    return dict(zip(rows.tolist(), before.tolist(), strict=True))


def _tops(logits: Tensor, normalizer: Tensor, top: int) -> list[list[tuple[int, float]]]:
    if not top:
        return []
    values, ids = logits.topk(top, -1)
    rows = zip(ids.tolist(), (values - normalizer[:, None]).tolist(), strict=True)
    return [list(zip(i, v, strict=True)) for i, v in rows]


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


class Question(NamedTuple):
    """An answer {"text", "token_ids", "finish"} to the tokens of a prompt."""

    item: str
    prompt: Sequence[int]
    answer: Mapping[str, Any]


class Auditor:
    """Audits requests of the worker against the target of a stack, up to TOGETHER at once."""

    TOGETHER = 32

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._cache: Cache | None = None

    def audit(self, item: str, prompt: Sequence[int], answer: Mapping[str, Any]) -> dict[str, Any]:
        """One answer; see `together`. Raises UnfitError for an answer that cannot be audited."""
        (found,) = self.together([Question(item, prompt, answer)])
        if isinstance(found, UnfitError):
            raise found
        return found

    def together(self, questions: Sequence[Question]) -> list[dict[str, Any] | UnfitError]:
        """Answers to prompts -> the fields of engines.base.Audited as JSON, or why one cannot be audited."""
        found: list[dict[str, Any] | UnfitError | None] = [None] * len(questions)
        fit: list[tuple[int, Claimed]] = []
        for place, question in enumerate(questions):
            try:
                fit.append((place, self._claimed(question)))
            except UnfitError as error:
                found[place] = error
        stack = self._stack
        if fit and self._cache is None:
            # of the length that decoding has and the proof of its arithmetic was made for
            room = max(stack.config["num_speculative_tokens"] + 1, stack.config["width"])
            self._cache = stack.target.new_cache(self.TOGETHER, stack.config["context"] + room)
        ends = sorted(stack.tokenizer.end_ids)
        asked = [Asked(questions[n].prompt, c.tokens, ends if c.unended else ()) for n, c in fit]
        watch = [t for tokens in stack.letters.values() for t in tokens]
        seen = (
            verify_together(stack.target, asked, top=stack.config["top"], watch=watch, cache=self._cache)
            if fit
            else []
        )
        for (place, claimed), verification in zip(fit, seen, strict=True):
            found[place] = self._told(questions[place], claimed, verification)
        return [f for f in found if f is not None]

    def _claimed(self, question: Question) -> Claimed:
        """The tokens to look at. Raises UnfitError."""
        stack, config, answer = self._stack, self._stack.config, question.answer
        if not question.prompt:
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
        if len(question.prompt) + count > config["context"]:
            raise UnfitError(
                f"{len(question.prompt)} prompt tokens and {count} of answer pass the context of {config['context']}"
            )
        return claimed

    def _told(self, question: Question, claimed: Claimed, seen: Verification) -> dict[str, Any] | UnfitError:
        if seen.broken is not None:
            return UnfitError(f"the logits after {seen.broken} tokens are not numbers (NaN or infinite)")
        fork = seen.fork
        return {
            "item": question.item,
            "tokens": len(seen.tokens),
            "retokenized": claimed.retokenized,
            "fork": fork.position if fork else None,
            "gap": fork.gap if fork else None,
            "rank": fork.rank if fork else None,
            "complete": fork is None and self._ends_there(seen.tokens, question.answer["finish"]),
            "logprobs": seen.logprobs,
            "top": seen.top,
            "letters": self._stack.letter_logprobs(tuple(seen.watched)),
            "prompt_tokens": len(question.prompt),
        }

    def _ends_there(self, tokens: Sequence[int], finish: str) -> bool:
        """Whether decoding with the arm's own limits would have ended with the last token, and in that way."""
        emitted = Emitted(self._stack.stop_rule())
        done = [emitted.push(t) for t in tokens]
        return done.index(True) == len(tokens) - 1 and emitted.finish == finish if any(done) else False
