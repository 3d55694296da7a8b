"""Room: models/invariant. Laws: the proof holds where the bits agree, fails where they do not, and is kept for one machine."""

from __future__ import annotations

import pytest
import torch

from specsafe.errors import UserError
from specsafe.models import invariant
from specsafe.models.catalogue import DEFAULT_MODEL
from specsafe.models.checkpoint import load_checkpoint
from specsafe.models.network import LlamaNetwork
from specsafe.models.store import resolve

CAPACITY = 320  # more than one block of the cache


@pytest.fixture(scope="module")
def network():
    """The first layers of the real model: what is proved are products of its shapes."""
    torch.set_num_threads(1)
    return LlamaNetwork(load_checkpoint(resolve(DEFAULT_MODEL), torch.float32)).with_layers(range(4))


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(invariant, "cache_folder", lambda: tmp_path)
    return tmp_path / "proofs"


@pytest.mark.model
def test_the_proof_holds_on_the_real_model_and_is_kept(network, own_cache, monkeypatch):
    proved, proof = invariant.make_invariant(network, CAPACITY)
    assert proved.invariant
    assert not network.invariant
    assert proof.rows > 900
    assert proved.tile == proof.tile in network.tiles
    monkeypatch.setattr(invariant, "prove", lambda *_: pytest.fail("the same machine is not asked twice"))
    assert invariant.make_invariant(network, CAPACITY)[1] == proof
    kept = list(own_cache.iterdir())
    assert len(kept) == 1
    monkeypatch.undo()
    kept[0].write_text("{")
    assert invariant._read_proof(kept[0]) is None, "half a file proves nothing"


@pytest.mark.model
def test_the_proof_can_fail_and_then_nothing_is_claimed(network, own_cache, monkeypatch):
    """A pass of one row that rounds otherwise than wider ones, as libraries do."""
    honest = LlamaNetwork.forward

    def lonely(self, tokens, cache, first=0):
        hidden = honest(self, tokens, cache, first)
        return hidden * (1 + 1e-6) if tokens.shape[1] == 1 else hidden

    monkeypatch.setattr(LlamaNetwork, "forward", lonely)
    rows, failed = invariant.prove(network, 100)
    assert rows > 500
    assert "1 rows at a time" in failed
    monkeypatch.setattr(LlamaNetwork, "in_tiles", lambda self, tile: self)
    with pytest.raises(UserError, match=r"does not hold on this machine.*1 rows at a time") as error:
        invariant.make_invariant(network, 100)
    assert "arithmetic=fast" in error.value.hint
    assert not own_cache.exists(), "what was not proved is not kept"


@pytest.mark.model
def test_other_conditions_need_another_proof(network):
    def conditions(net=network, capacity=CAPACITY):
        return invariant._conditions(net, capacity)

    same = conditions()
    assert conditions() == same
    assert conditions(capacity=CAPACITY + 1) != same
    assert conditions(network.with_layers(range(2))) != same
    torch.set_num_threads(2)
    assert conditions() != same
    torch.set_num_threads(1)
    assert conditions() == same


@pytest.mark.model
def test_a_head_or_a_neighbour_that_depends_on_the_batch_is_named(network, monkeypatch):
    honest = LlamaNetwork.logits

    def crowded(self, hidden):
        return honest(self, hidden) + (1e-3 if len(hidden) == 7 else 0.0)

    monkeypatch.setattr(LlamaNetwork, "logits", crowded)
    _, failed = invariant.prove(network.in_tiles(8), 100)
    assert failed == ("the output head over 7 rows",)
