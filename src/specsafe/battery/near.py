"""Which items ask the same thing: equal, nearly equal, or one wrapped in the words of another.

All of it is exact set arithmetic on words, so the answer depends neither on the order of the items nor on the
machine. Two items are joined if they
- share a declared cluster or an id,
- are equal after normalisation, our own wrappers removed,
- share 4 of 5 of their word 5-grams (Jaccard >= 0.8), or one holds the other's words in one piece (5 or more).

Words that a template adds are no request: a 5-gram found in more than half of the clusters of a stratum (10 or
more clusters) is the template's, and what it covers is not compared. Without this, all items under one
jailbreak template would be near-duplicates of each other.
"""

from __future__ import annotations

import math
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

from specsafe.battery.items import Item
from specsafe.battery.wrap import unwrapped

Words = tuple[str, ...]
GRAM = 5
_SHARED_OF, _SHARED = 5, 4  # Jaccard >= 4/5, in whole numbers
_FEWEST_CLUSTERS = 10  # a smaller stratum cannot tell a template from near-duplicates
_SHORTEST_CORE = 4  # words; less is a filled slot ("France"), equal only under the same template


def components(items: Sequence[Item]) -> list[int]:
    """For each item, the index of the first item of its component (joined directly or through others)."""
    sets = _Sets(len(items))
    wholes = [words(unwrapped(item.prompt)) for item in items]
    cores = _cores(items, wholes)
    for keys in _equal_keys(items, wholes, cores):
        first: dict[object, int] = {}
        for index, key in enumerate(keys):
            sets.join(first.setdefault(key, index), index)
    _join_similar(cores, sets)
    _join_contained(cores, wholes, sets)
    return [sets.root(index) for index in range(len(items))]


class _Blank(dict[int, str]):
    """A table for str.translate: punctuation becomes a space."""

    def __missing__(self, code: int) -> str:
        char = chr(code)
        self[code] = " " if unicodedata.category(char)[0] == "P" else char
        return self[code]


_BLANK = _Blank()


def words(text: str) -> Words:
    """Compatibility forms folded (NFKC), case folded, punctuation and white space removed; never empty."""
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return tuple(folded.translate(_BLANK).split()) or (text,)


class _Sets:
    """Union-find; the root of a set is its smallest index."""

    def __init__(self, size: int) -> None:
        self._parent = list(range(size))

    def root(self, index: int) -> int:
        while self._parent[index] != index:
            self._parent[index] = self._parent[self._parent[index]]
            index = self._parent[index]
        return index

    def join(self, a: int, b: int) -> None:
        low, high = sorted((self.root(a), self.root(b)))
        self._parent[high] = low


def _grams(text: Words) -> Iterator[Words]:
    return (text[k : k + GRAM] for k in range(len(text) - GRAM + 1))


def _cores(items: Sequence[Item], wholes: list[Words]) -> list[Words]:
    """The words of each item that no template of its stratum covers."""
    strata: dict[tuple[str, str], dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for index, item in enumerate(items):
        strata[item.axis, item.stratum][item.cluster].append(index)
    cores = list(wholes)
    for clusters in strata.values():
        if len(clusters) < _FEWEST_CLUSTERS:
            continue
        seen = Counter(
            gram for group in clusters.values() for gram in {g for i in group for g in _grams(wholes[i])}
        )
        template = {gram for gram, count in seen.items() if 2 * count > len(clusters)}
        for index in (i for group in clusters.values() for i in group) if template else ():
            cores[index] = _uncovered(wholes[index], template)
    return cores


def _uncovered(text: Words, template: set[Words]) -> Words:
    covered = {k + d for k, gram in enumerate(_grams(text)) if gram in template for d in range(GRAM)}
    return tuple(word for k, word in enumerate(text) if k not in covered)


def _equal_keys(items: Sequence[Item], wholes: list[Words], cores: list[Words]) -> Iterator[list[object]]:
    """Columns of keys: items with equal keys in one column ask the same thing."""
    yield [item.id for item in items]
    yield [item.cluster for item in items]
    yield list(wholes)
    yield [
        core if len(core) >= _SHORTEST_CORE else (item.axis, item.stratum, core)
        for item, core in zip(items, cores, strict=True)
    ]


def _join_similar(cores: list[Words], sets: _Sets) -> None:
    """Join items whose 5-gram sets are similar.

    Two sets of sizes m <= n that share so much have m >= 0.8 n, and share one of the rarest n - ceil(0.8 n) + 1
    grams of each: only such pairs are looked at (prefix filtering), and none that is similar is missed.
    """
    grams = [frozenset(_grams(core)) for core in cores]
    often = Counter(gram for own in grams for gram in own)
    holders: dict[Words, list[int]] = defaultdict(list)
    for index, own in enumerate(grams):
        rarest = sorted(own, key=lambda gram: (often[gram], gram))
        for gram in rarest[: len(own) - math.ceil(len(own) * _SHARED / _SHARED_OF) + 1]:
            for other in holders[gram]:
                if sets.root(other) != sets.root(index) and _similar(own, grams[other]):
                    sets.join(other, index)
            holders[gram].append(index)


def _similar(a: frozenset[Words], b: frozenset[Words]) -> bool:
    shared = len(a & b)
    return _SHARED_OF * shared >= _SHARED * (len(a) + len(b) - shared)


def _join_contained(cores: list[Words], wholes: list[Words], sets: _Sets) -> None:
    """Join an item with every item whose words hold its own in one piece."""
    starting: dict[Words, list[int]] = defaultdict(list)
    for index, core in enumerate(cores):
        if len(core) >= GRAM:
            starting[core[:GRAM]].append(index)
    for index, whole in enumerate(wholes):
        for k, gram in enumerate(_grams(whole)):
            for other in starting.get(gram, ()):
                core = cores[other]
                if sets.root(other) != sets.root(index) and whole[k : k + len(core)] == core:
                    sets.join(other, index)
