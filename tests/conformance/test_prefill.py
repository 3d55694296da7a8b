"""What prompts share is read once: fewer rows, and where the arithmetic is invariant the very same bits."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
import torch
from toys import model, network

from specsafe.decoding.prefill import read
from specsafe.models.network import LlamaNetwork

SYSTEM = tuple(range(20, 60))
TEXTS = [(*SYSTEM, *range(3, 3 + n)) for n in (9, 1, 0, 30, 12)]


@pytest.fixture(scope="module", params=[torch.float32, torch.bfloat16])
def exact(request):
    return network(model(), request.param)


@contextmanager
def counted(net):
    """Rows that pass through a network meanwhile, padding included."""
    forward, rows = net.forward, []

    def counting(tokens, *rest, **more):
        rows.append(tokens.numel())
        return forward(tokens, *rest, **more)

    net.forward = counting
    yield rows
    del net.forward


def state(cache):
    """All that later passes see of a cache."""
    keys = cache.keys.transpose(-1, -2).flatten(3, 4) if cache.keys.dim() == 6 else cache.keys  # of panels
    parts = [(keys[:, r, :, :n], cache.values[:, r, :, :n]) for r, n in enumerate(cache.lengths)]
    return cache.lengths, [p.clone() for pair in parts for p in pair]


def alone(net, texts):
    """Every text in a cache of its own, where nothing can be shared."""
    found = []
    for text in texts:
        cache = net.new_cache(1, 110)
        read(net, [text], cache)
        found += state(cache)[1]
    return found


def test_what_texts_share_is_read_once_and_not_a_bit_is_different(exact):
    cache = exact.new_cache(8, 110)
    with counted(exact) as rows:
        read(exact, TEXTS, cache)
    assert sum(rows) < sum(map(len, TEXTS)) - 3 * len(SYSTEM)
    lengths, parts = state(cache)
    assert lengths == list(map(len, TEXTS))
    assert all(torch.equal(a, b) for a, b in zip(parts, alone(exact, TEXTS), strict=True))


def test_a_later_text_begins_with_what_an_earlier_one_left_though_its_row_is_gone(exact):
    cache, before = exact.new_cache(1, 110), ()
    for text in TEXTS:
        with counted(exact) as rows:
            read(exact, [text], cache)
        assert sum(rows) == len(text) - min(len(text), len(before))  # of these one always begins the other
        before = text
        assert all(torch.equal(a, b) for a, b in zip(state(cache)[1], alone(exact, [text]), strict=True))
        cache.drop_row(0)


def test_where_somebody_looks_every_state_that_is_asked_for_is_shown(exact):
    """The states of the last tokens of each text, though all begin alike."""
    shown = {}

    def look(first, start, hidden):
        for place, states in enumerate(hidden, first):
            for position, row in enumerate(states, start):
                shown[place, position] = row.clone()

    read(exact, TEXTS, exact.new_cache(8, 110), look, [len(t) - 1 for t in TEXTS])
    for place, text in enumerate(TEXTS):
        lone = {}
        read(
            exact,
            [text],
            exact.new_cache(1, 110),
            lambda _, start, h, to=lone: to.update(enumerate(h[0], start)),
        )
        assert torch.equal(shown[place, len(text) - 1], lone[len(text) - 1])
        assert set(lone) == set(range(len(text)))


def test_fast_arithmetic_that_answers_one_by_one_does_not_depend_on_the_order():
    fast = network(model(), invariant=False, make=LlamaNetwork)

    def read_in(order):
        cache, found = fast.new_cache(1, 110), {}
        for index in order:
            read(fast, [TEXTS[index]], cache)
            found[index] = state(cache)[1]
            cache.drop_row(0)
        return found

    there, back = read_in(range(5)), read_in(reversed(range(5)))
    assert all(torch.equal(a, b) for i in there for a, b in zip(there[i], back[i], strict=True))


def test_texts_that_share_nothing_share_nothing(exact):
    other = [(7, 8, 9), (9, 8, 7, 6), (), (5,)]
    cache = exact.new_cache(8, 110)
    read(exact, TEXTS, cache)
    read(exact, other[:2], cache)
    lengths, parts = state(cache)
    assert lengths == [*map(len, TEXTS), 3, 4]
    assert all(torch.equal(a, b) for a, b in zip(parts, alone(exact, [*TEXTS, *other[:2]]), strict=True))
    read(exact, other[2:3], cache)
    assert cache.lengths[-1] == 0
