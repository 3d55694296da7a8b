"""Room: decoding/loop. Law: with a lossless rule what whole answers begin with is distributed as the target says."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from toys import drafts_of, model, network, one_row, plan

from specsafe.decoding.loop import Answer, Decoder, Prompt
from specsafe.decoding.rules import Block, Lenient, OneHotRejection, Rejection


def small_pair():
    """A target and a draft that knows something of it, over six words."""
    small = {"vocab_size": 6, "hidden_size": 32, "num_hidden_layers": 1, "eos_token_id": None}
    hf = model(2, **small)
    return network(hf, invariant=False), network(hf, invariant=False, noise=0.1)


def first_two(target, draft, rule, replicates):
    """How often each pair of first tokens was said: [6, 6]."""
    how = plan(limit=4, rule=rule, ends=(), temperature=1.5, drafted=3, slots=200, capacity=8)
    asked = (Prompt(str(i), (4,), i) for i in range(replicates))
    counts = np.zeros((6, 6))
    for answer in Decoder(target, drafts_of(draft, how, sampled=True), how).generate(asked):
        assert isinstance(answer, Answer)
        counts[answer.tokens[:2]] += 1
    return counts


def exact_first_two(target, temperature=1.5):
    """The same from the network's own softmax."""

    def after(*context):
        hidden = target.forward(torch.tensor([context]), one_row(target))[0, -1:]
        return torch.softmax(target.logits(hidden)[0].double() / temperature, -1).numpy()

    return after(4)[:, None] * np.stack([after(4, word) for word in range(6)])


@pytest.mark.parametrize("rule", [Rejection(), Block(), OneHotRejection()])
def test_sampling_follows_the_target(rule):
    target, draft = small_pair()
    counts, expected = first_two(target, draft, rule, 16_000), 16_000 * exact_first_two(target)
    assert counts.sum() == 16_000
    few = expected < 5
    seen = [*counts[~few], counts[few].sum()]
    wanted = [*expected[~few], max(expected[few].sum(), 1e-9)]
    assert sum(expected[~few]) > 14_400
    assert chisquare(seen, np.array(wanted) * 16_000 / sum(wanted)).pvalue > 1e-3


def test_the_same_test_catches_a_rule_that_leaks():
    target, draft = small_pair()
    counts, expected = first_two(target, draft, Lenient(beta=0.2), 4000), 4000 * exact_first_two(target)
    kept = expected >= 5
    assert chisquare(counts[kept], expected[kept] * counts[kept].sum() / expected[kept].sum()).pvalue < 1e-6
