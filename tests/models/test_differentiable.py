"""Room: models/differentiable, and the push of models/network. Laws: both are transformers' numbers, pushed or not."""

from __future__ import annotations

import pytest
import torch
from test_network import VARIANTS, close, ours, theirs, words
from tiny import plain_names, tiny_model

from specsafe.models.adapter import TransformersNetwork
from specsafe.models.architecture import from_hf_config
from specsafe.models.checkpoint import Checkpoint
from specsafe.models.differentiable import Differentiable
from specsafe.models.network import Push

LAYERS = {"num_hidden_layers": 3}


def plain(hf, keep=()):
    tensors = {n: t.detach() for n, t in plain_names(hf).items()}
    return Differentiable(Checkpoint(from_hf_config(hf.config.to_dict()), tensors), keep)


def pushed(hf, rows, first):
    """A transformers model whose MLPs from a layer on add rows [L, H] to what they give."""
    for layer in hf.model.layers[first:]:
        layer.mlp.register_forward_hook(lambda module, given, out: out + rows)
    return hf


def rows(count, hidden=32):
    return 0.5 * torch.randn(count, hidden, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_are_those_of_transformers_and_of_the_packed_network(variant):
    family, changes = VARIANTS[variant]
    hf = tiny_model(family, **changes)
    tokens = words()
    got = plain(hf).logits(plain(hf).read(tokens[0]).hidden)
    close(got, theirs(hf, tokens)[0])
    network = ours(hf)
    cache = network.new_cache(1, tokens.shape[1])
    cache.add_row()
    close(got, network.logits(network.forward(tokens, cache)[0]))


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
@pytest.mark.parametrize("first", [0, 1, 2])
def test_a_push_in_pieces_is_that_of_hooks_on_the_mlps(family, first):
    """Three pieces, of which the last two are pushed, each otherwise; the first stays as it is."""
    hf, tokens = tiny_model(family, **LAYERS), words()[0]
    push = torch.cat([torch.zeros(40, 32), rows(2).repeat_interleave(10, 0)])
    model = plain(hf)
    seen, hidden = (), []
    for part, at in zip(tokens.split([40, 10, 10]), (None, 40, 50), strict=True):
        read = model.read(part, seen, None if at is None else push[at : at + 10], first)
        seen = read.seen
        hidden.append(read.hidden)
    network = ours(hf)
    cache = network.new_cache(1, 60)
    cache.add_row()
    packed = torch.cat(
        [
            network.forward(part[None], cache, 0, None if at is None else Push(push[at : at + 1], first))[0]
            for part, at in zip(tokens.split([40, 10, 10]), (None, 40, 50), strict=True)
        ]
    )
    plainly = theirs(hf, tokens[None])[0]
    wanted = theirs(pushed(hf, push, first), tokens[None])[0]
    assert (wanted - plainly)[40:].abs().amax() > 0.1
    close(model.logits(torch.cat(hidden)), wanted)
    close(network.logits(packed), wanted)


@pytest.mark.parametrize("invariant", [False, True], ids=["fast", "invariant"])
def test_rows_are_pushed_each_by_its_own_and_nothing_is_no_push(invariant):
    hf = tiny_model("llama", **LAYERS)
    network, tokens, push = ours(hf, invariant=invariant), words(3, 20), rows(3)

    def read(rows_, push=None):
        cache = network.new_cache(len(rows_), 20)
        for _ in rows_:
            cache.add_row()
        return network.forward(tokens[rows_], cache, 0, push)

    together = read([0, 1, 2], Push(push, 1))
    assert torch.equal(read([0, 1, 2], Push(torch.zeros(3, 32), 0)), read([0, 1, 2]))
    for row in range(3):
        alone = read([row], Push(push[row : row + 1], 1))[0]
        close(alone, together[row])
        assert torch.equal(alone, together[row]) or not invariant


def test_some_layers_are_pushed_by_their_place_among_them():
    hf, tokens, push = tiny_model("llama", num_hidden_layers=4), words()[0], rows(1)
    keep = [0, 1, 3]
    some = ours(hf).with_layers(keep)
    cache = some.new_cache(1, len(tokens))
    cache.add_row()
    packed = some.logits(some.forward(tokens[None], cache, 0, Push(push, 2))[0])
    model = plain(hf, keep)
    close(model.logits(model.read(tokens, push=push.expand(len(tokens), -1), first=2).hidden), packed)
    hf.model.layers = torch.nn.ModuleList(hf.model.layers[i] for i in keep)
    close(packed, theirs(pushed(hf, push, 2), tokens[None])[0])


def test_gradients_reach_the_push_through_what_was_seen():
    """Of a later piece too: by the keys and values that an earlier push has changed."""
    model, tokens = plain(tiny_model("llama")), words()[0]
    push = torch.zeros(1, 32, requires_grad=True)
    first = model.read(tokens[:30], push=push.expand(30, -1))
    later = model.read(tokens[30:], first.seen)
    (gradient,) = torch.autograd.grad(model.logits(later.hidden).logsumexp(-1).sum(), push)
    step = 1e-2 * gradient / gradient.norm()

    def value(at):
        seen = model.read(tokens[:30], push=at.expand(30, -1)).seen
        return float(model.logits(model.read(tokens[30:], seen).hidden).logsumexp(-1).sum())

    slope = (value(step) - value(-step)) / 2e-2
    assert slope == pytest.approx(float(gradient.norm()), rel=0.02)


def test_a_model_read_through_transformers_is_not_pushed(tmp_path):
    from specsafe.errors import UserError

    tiny_model("llama").save_pretrained(tmp_path)
    network = TransformersNetwork(tmp_path, torch.float32)
    cache = network.new_cache(1, 20)
    cache.add_row()
    with pytest.raises(UserError, match="cannot be steered"):
        network.forward(words(1, 10), cache, 0, Push(rows(1), 0))
