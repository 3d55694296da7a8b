"""Forks: where an arm's tokens leave the target's, and how close the target's choice was there."""

from __future__ import annotations

from collections.abc import Sequence

from specsafe.battery import Item
from specsafe.screen.result import Contrast, Fork
from specsafe.stats import proportion
from specsafe.study.answers import Answers, Tokens

THRESHOLD = 1.0  # nats; rounding moves a log-probability by a fraction of this (the width arm shows how much)
_AT_ONCE = 1000  # answers with all their log-probabilities in memory


def compare(
    role: str,
    items: Sequence[Item],
    target: Answers,
    arm: Answers,
    rerun: Answers | None = None,
) -> Contrast:
    """Byte identity and forks of an arm against the target, over the items that both answered."""
    both = [i for i in items if i.id in target and i.id in arm]
    identical = sum(target[i.id].text_sha256 == arm[i.id].text_sha256 for i in both)
    with_tokens = [i for i in both if target[i.id].tokens_sha256 and arm[i.id].tokens_sha256]
    differing = [i for i in with_tokens if target[i.id].tokens_sha256 != arm[i.id].tokens_sha256]
    forks = _forks(differing, target, arm, rerun)
    compared = len(with_tokens)
    known = [f.gap for f in forks if f.gap is not None]
    large = sum(is_large(f) for f in forks)
    return Contrast(
        role=role,
        identical=proportion(identical, len(both)),
        forks=forks,
        compared=compared,
        gap_known=len(known),
        large_gaps=large,
        largest_gap=max(known, default=None),
        unknown_gaps=sum(is_unknown(f) for f in forks),
    )


def _forks(items: Sequence[Item], target: Answers, arm: Answers, rerun: Answers | None) -> list[Fork]:
    """The forks of items whose tokens are known to differ; they are read a part at a time."""
    forks: list[Fork] = []
    for start in range(0, len(items), _AT_ONCE):
        part = items[start : start + _AT_ONCE]
        ids = {i.id for i in part}
        own, other = target.tokens(ids), arm.tokens(ids)
        again = rerun.tokens(ids) if rerun else {}
        found = (find_fork(i, own[i.id], other[i.id], again.get(i.id)) for i in part)
        forks.extend(f for f in found if f is not None)
    return forks


def find_fork(item: Item, target: Tokens, other: Tokens, rerun: Tokens | None = None) -> Fork | None:
    """The fork of a pair; None if the tokens are equal."""
    position = first_difference(target.ids, other.ids)
    if position is None:
        return None
    gap, bound = fork_gap(target, other, position)
    repeats = None
    if rerun is not None:
        again = first_difference(target.ids, rerun.ids)
        repeats = again == position and _token(rerun, position) == _token(other, position)
    return Fork(item=item.id, axis=item.axis, position=position, gap=gap, gap_is_bound=bound, repeats=repeats)


def first_difference(a: Sequence[int], b: Sequence[int]) -> int | None:
    """First index at which two sequences differ, the end of the shorter one included; None if equal."""
    for position, (x, y) in enumerate(zip(a, b, strict=False)):
        if x != y:
            return position
    return None if len(a) == len(b) else min(len(a), len(b))


def fork_gap(target: Tokens, other: Tokens, position: int) -> tuple[float | None, bool]:
    """(gap in nats, is it only a lower bound), from the target's own log-probabilities at the fork.

    The prefix is shared, so the target's report at this position is the target alone. A token outside its
    reported top-k is less likely than the last of them: then the gap is a lower bound.
    """
    own, theirs = _token(target, position), _token(other, position)
    if own is None or theirs is None:
        return None, False
    reported = target.top_at(position)
    chosen = reported[own] if own in reported else target.logprob_at(position)
    if chosen is None or not reported:
        return None, False
    if theirs in reported:
        return chosen - reported[theirs], False
    return chosen - min(reported.values()), True


def is_large(fork: Fork) -> bool:
    """Whether the gap certainly exceeds the threshold."""
    return fork.gap is not None and fork.gap > THRESHOLD


def is_unknown(fork: Fork) -> bool:
    """Whether the gap may lie on either side of the threshold."""
    return fork.gap is None or (fork.gap_is_bound and fork.gap <= THRESHOLD)


def _token(tokens: Tokens, position: int) -> int | None:
    return tokens.ids[position] if position < len(tokens.ids) else None
