"""Forks: where an arm's tokens leave the target's, and how close the target's choice was there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from specsafe.battery import Item
from specsafe.engines import Sample
from specsafe.screen.result import Contrast, Fork
from specsafe.stats import proportion

THRESHOLD = 1.0  # nats; rounding moves a log-probability by a fraction of this (the width arm shows how much)


def compare(
    role: str,
    items: Sequence[Item],
    target: Mapping[str, Sample],
    arm: Mapping[str, Sample],
    rerun: Mapping[str, Sample] | None = None,
) -> Contrast:
    """Byte identity and forks of an arm against the target, over the items that both answered."""
    both = [i for i in items if i.id in target and i.id in arm]
    identical = sum(target[i.id].text == arm[i.id].text for i in both)
    forks = [
        f for i in both if (f := find_fork(i, target[i.id], arm[i.id], (rerun or {}).get(i.id))) is not None
    ]
    compared = sum(target[i.id].token_ids is not None and arm[i.id].token_ids is not None for i in both)
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


def find_fork(item: Item, target: Sample, other: Sample, rerun: Sample | None = None) -> Fork | None:
    """The fork of a pair; None if the tokens are equal or either arm has none."""
    if target.token_ids is None or other.token_ids is None:
        return None
    position = first_difference(target.token_ids, other.token_ids)
    if position is None:
        return None
    gap, bound = fork_gap(target, other, position)
    repeats = None
    if rerun is not None and rerun.token_ids is not None:
        again = first_difference(target.token_ids, rerun.token_ids)
        repeats = again == position and _token(rerun, position) == _token(other, position)
    return Fork(item=item.id, axis=item.axis, position=position, gap=gap, gap_is_bound=bound, repeats=repeats)


def first_difference(a: Sequence[int], b: Sequence[int]) -> int | None:
    """First index at which two sequences differ, the end of the shorter one included; None if equal."""
    for position, (x, y) in enumerate(zip(a, b, strict=False)):
        if x != y:
            return position
    return None if len(a) == len(b) else min(len(a), len(b))


def fork_gap(target: Sample, other: Sample, position: int) -> tuple[float | None, bool]:
    """(gap in nats, is it only a lower bound), from the target's own log-probabilities at the fork.

    The prefix is shared, so the target's report at this position is the target alone. A token outside its
    reported top-k is less likely than the last of them: then the gap is a lower bound.
    """
    own, theirs = _token(target, position), _token(other, position)
    if (
        own is None
        or theirs is None
        or target.top is None
        or position >= len(target.top)
        or not target.top[position]
    ):
        return None, False
    reported = dict(target.top[position])
    chosen = reported.get(own)
    if chosen is None and target.logprobs is not None:
        chosen = target.logprobs[position]
    if chosen is None:
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


def _token(sample: Sample, position: int) -> int | None:
    tokens = sample.token_ids or ()
    return tokens[position] if position < len(tokens) else None
