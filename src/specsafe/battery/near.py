"""Which items ask the same thing: equal, nearly equal, or one wrapped in the words of another.

All of it is exact set arithmetic on words, so the answer depends neither on the order of the items nor on the
machine. Two items are joined if they
- share a declared cluster or an id,
- are equal after normalisation, our own wrappers removed,
- share 4 of 5 of their word 5-grams (Jaccard >= 0.8), or one holds the other's words in one piece (5 or more).

A character of a script that is written without spaces (and of Hangul) counts as a word.

Words that a template adds are no request: a 5-gram found in more than half of the clusters of a stratum (10 or
more clusters) is the template's if most of the items that it covers have 4 words or more besides; what it covers
is not compared where it is more than half of an item. Without this, all items under one jailbreak template would
be near-duplicates of each other. An item with fewer words of its own is compared whole: near-duplicates that
differ in a word look like a template too.
"""

from __future__ import annotations

import math
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from specsafe.battery.items import Item
from specsafe.battery.wrap import SLOT, WRAPPERS

Words = tuple[str, ...]
GRAM = 5
_SHARED_OF, _SHARED = 5, 4  # Jaccard >= 4/5, in whole numbers
_FEWEST_CLUSTERS = 10  # a smaller stratum cannot tell a template from near-duplicates
_SHORTEST_CORE = 4  # words; less is a filled slot ("France") or the difference between near-duplicates
_UNSPACED = (
    "CJK",
    "IDEOGRAPHIC",
    "HIRAGANA",
    "KATAKANA",
    "HANGUL",
    "BOPOMOFO",
    "THAI",
    "LAO",
    "KHMER",
    "MYANMAR",
)
# Default-ignorable characters that are not of category Cf: joiner, Hangul fillers, variation selectors and the like.
_INVISIBLE = {0x34F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x180B, 0x180C, 0x180D, 0x180F, 0x3164, 0xFFA0}
_INVISIBLE.update(range(0xFE00, 0xFE10), range(0xE0000, 0xE1000))


class Compared(NamedTuple):
    """For each item, the index of the first item of its component (joined directly or through others).

    `templated`: how many items were compared without the words of a template.
    """

    roots: list[int]
    templated: int


def components(items: Sequence[Item]) -> Compared:
    """Join the items that ask the same thing."""
    sets = _Sets(len(items))
    wholes = [_unwrapped(words(item.prompt)) for item in items]
    left = _left(items, wholes)
    cores = [own if _is_request(own) else whole for own, whole in zip(left, wholes, strict=True)]
    # Two items of which a template is less than half cannot be similar by its words alone.
    wides = [
        whole if 2 * len(core) >= len(whole) else core for core, whole in zip(cores, wholes, strict=True)
    ]
    for keys in _equal_keys(items, wholes, left, cores):
        first: dict[object, int] = {}
        for index, key in enumerate(keys):
            sets.join(first.setdefault(key, index), index)
    for texts in (cores, wides):
        _join_similar(texts, sets)
        _join_contained(texts, wholes, sets)
    templated = sum(wide != whole for wide, whole in zip(wides, wholes, strict=True))
    return Compared([sets.root(index) for index in range(len(items))], templated)


def _unspaced(char: str) -> bool:
    return char > "\u0dff" and unicodedata.name(char, "").startswith(_UNSPACED)


class _Seen(dict[int, str]):
    """A table for str.translate: what is not seen is dropped."""

    def __missing__(self, code: int) -> str:
        char = chr(code)
        category = unicodedata.category(char)
        hidden = category == "Cf" or code in _INVISIBLE or (category == "Cc" and not char.isspace())
        self[code] = "" if hidden else char
        return self[code]


class _Spaced(dict[int, str]):
    """A table for str.translate: punctuation becomes a space, a character of an unspaced script a word."""

    def __missing__(self, code: int) -> str:
        char = chr(code)
        self[code] = " " if unicodedata.category(char)[0] == "P" else f" {char} " if _unspaced(char) else char
        return self[code]


_SEEN, _SPACED = _Seen(), _Spaced()


def words(text: str) -> Words:
    """Compatibility forms and case folded; the unseen, punctuation and white space removed; never empty."""
    return _words(text) or (text,)


def _words(text: str) -> Words:
    folded = unicodedata.normalize("NFKC", text.translate(_SEEN)).casefold()
    return tuple(unicodedata.normalize("NFKC", folded).translate(_SPACED).split())


def _frame(template: str) -> tuple[Words, Words]:
    before, after = template.split(SLOT)
    return _words(before), _words(after)


_FRAMES = [_frame(template) for template in WRAPPERS.values() if template != SLOT]


def _unwrapped(text: Words) -> Words:
    """The words of the request inside our wrappers, however deep; any other words as they are."""
    while inner := next(filter(None, (_inside(text, *frame) for frame in _FRAMES)), ()):
        text = inner
    return text


def _inside(text: Words, before: Words, after: Words) -> Words:
    """What stands between the two; nothing if they are not its ends."""
    end = len(text) - len(after)
    return text[len(before) : end] if text[: len(before)] == before and text[max(end, 0) :] == after else ()


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


def _is_request(text: Words) -> bool:
    """Long enough to be more than a filled slot; two characters of an unspaced script weigh as one word."""
    return sum(1 if _unspaced(word[:1]) else 2 for word in text) >= 2 * _SHORTEST_CORE


def _left(items: Sequence[Item], wholes: list[Words]) -> list[Words]:
    """The words of each item that no template of its stratum covers."""
    strata: dict[tuple[str, str], dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for index, item in enumerate(items):
        strata[item.axis, item.stratum][item.cluster].append(index)
    left = list(wholes)
    for clusters in strata.values():
        if len(clusters) < _FEWEST_CLUSTERS:
            continue
        seen = Counter(
            gram for group in clusters.values() for gram in {g for i in group for g in _grams(wholes[i])}
        )
        template = {gram for gram, count in seen.items() if 2 * count > len(clusters)}
        rest = {i: _uncovered(wholes[i], template) for group in clusters.values() for i in group}
        requests = [_is_request(own) for i, own in rest.items() if own != wholes[i]]
        if 2 * sum(requests) > len(requests):
            for index, own in rest.items():
                left[index] = own
    return left


def _uncovered(text: Words, template: set[Words]) -> Words:
    covered = {k + d for k, gram in enumerate(_grams(text)) if gram in template for d in range(GRAM)}
    return tuple(word for k, word in enumerate(text) if k not in covered)


def _equal_keys(
    items: Sequence[Item], wholes: list[Words], left: list[Words], cores: list[Words]
) -> Iterator[list[object]]:
    """Columns of keys: items with equal keys in one column ask the same thing."""
    yield [item.id for item in items]
    yield [item.cluster for item in items]
    yield list(wholes)
    yield list(cores)
    yield [(item.axis, item.stratum, own) for item, own in zip(items, left, strict=True)]


def _join_similar(texts: list[Words], sets: _Sets) -> None:
    """Join items whose 5-gram sets are similar.

    Two sets of sizes m <= n that share so much have m >= 0.8 n, and share one of the rarest n - ceil(0.8 n) + 1
    grams of each: only such pairs are looked at (prefix filtering), and none that is similar is missed.
    """
    grams = [frozenset(_grams(text)) for text in texts]
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


def _join_contained(texts: list[Words], wholes: list[Words], sets: _Sets) -> None:
    """Join an item with every item whose words hold its text in one piece: only where its rarest 5-gram is."""
    often = Counter(gram for whole in wholes for gram in _grams(whole))
    holding: dict[Words, list[tuple[int, int]]] = defaultdict(list)
    for index, text in enumerate(texts):
        if len(text) >= GRAM:
            _, at, rarest = min((often[gram], k, gram) for k, gram in enumerate(_grams(text)))
            holding[rarest].append((index, at))
    for index, whole in enumerate(wholes):
        for k, gram in enumerate(_grams(whole)):
            for other, at in holding.get(gram, ()):
                text, start = texts[other], k - at
                if sets.root(other) != sets.root(index) and whole[max(start, 0) : start + len(text)] == text:
                    sets.join(other, index)
