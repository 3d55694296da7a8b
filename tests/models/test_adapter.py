"""Room: models/adapter. Laws: any causal model of transformers decodes as its own generate does; others are named."""

from __future__ import annotations

import json

import pytest
import torch
from tiny import tiny_model
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    FalconConfig,
    FalconForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    OPTConfig,
    OPTForCausalLM,
)

from specsafe.decoding.drafters import LookupDrafter, NetworkDrafter, ScriptedDrafter
from specsafe.decoding.loop import Answer, Decoder, Plan, Prompt
from specsafe.decoding.rules import Greedy
from specsafe.decoding.stopping import StopRule
from specsafe.errors import UserError
from specsafe.models.adapter import TransformersNetwork

torch.set_num_threads(1)
CPU, F32 = torch.device("cpu"), torch.float32
V, LIMIT, CAPACITY = 80, 14, 64
IDS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}


def gpt2(**changes):
    return GPT2LMHeadModel(
        GPT2Config(
            **{"vocab_size": V, "n_positions": 64, "n_embd": 32, "n_layer": 2, "n_head": 4} | IDS | changes
        )
    )


def neox():
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    return GPTNeoXForCausalLM(
        GPTNeoXConfig(vocab_size=V, max_position_embeddings=64, rotary_pct=0.5, **sizes, **IDS)
    )


def opt():
    sizes = {"hidden_size": 32, "ffn_dim": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    return OPTForCausalLM(
        OPTConfig(vocab_size=V, max_position_embeddings=64, word_embed_proj_dim=32, **sizes, **IDS)
    )


MODELS = {"gpt2": gpt2, "neox": neox, "opt": opt, "qwen3": lambda: tiny_model("qwen3", vocab_size=V)}


def random_model(make, seed=0):
    torch.manual_seed(seed)
    model = make().eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.normal_(1.0 if "norm" in name or ("ln_" in name and "weight" in name) else 0.0, 0.2)
    return model


@pytest.fixture(scope="module", params=MODELS)
def pair(request, tmp_path_factory):
    """A model of transformers and the same through the adapter."""
    hf = random_model(MODELS[request.param])
    folder = tmp_path_factory.mktemp(request.param)
    hf.save_pretrained(folder)
    return hf, TransformersNetwork(folder, F32)


def prompts():
    generator = torch.Generator().manual_seed(1)
    lengths = [1, 9, 2, 30, 17, 5, 40, 12, 3]
    drawn = [torch.randint(3, V, (n,), generator=generator).tolist() for n in lengths]
    drawn[4] = (drawn[4][:3] * 6)[:17]
    return [Prompt(f"item{i}", tuple(t)) for i, t in enumerate(drawn)]


def decode(network, asked, drafted=0, slots=1, drafter=None):
    plan = Plan(
        rule=Greedy(),
        stop=StopRule(frozenset(), (), LIMIT, lambda _: b""),
        drafted=drafted,
        slots=slots,
        capacity=CAPACITY,
    )
    answers = {a.item: a for a in Decoder(network, drafter, plan).generate(asked)}
    assert all(isinstance(a, Answer) for a in answers.values())
    return answers


def drafter_of(network, rows):
    return NetworkDrafter(network, rows, CAPACITY + 10, CPU, temperature=0.0, sampled=False)


def agrees(hf, prompt, tokens) -> bool:
    """Whether generate says the same; if not, its two best logits at the first difference must all but tie."""
    given = torch.tensor([prompt])
    said = hf.generate(
        given, attention_mask=torch.ones_like(given), max_new_tokens=LIMIT, do_sample=False, eos_token_id=None
    )
    theirs = said[0, len(prompt) :].tolist()
    fork = next((i for i in range(LIMIT) if theirs[i] != tokens[i]), None)
    if fork is None:
        return True
    with torch.no_grad():
        logits = hf(torch.tensor([[*prompt, *tokens[:fork]]])).logits[0, -1]
    assert abs(logits[tokens[fork]] - logits[theirs[fork]]) < 1e-4
    return False


@pytest.mark.parametrize("slots", [1, 4, 9])
def test_speculative_greedy_is_what_generate_says(pair, slots):
    """Ragged batches that join and leave, with everything, something and nothing accepted."""
    hf, network = pair
    asked = prompts()
    right = decode(network, asked[:1])["item0"].tokens
    half = [t if i % 3 else (t + 1) % V for i, t in enumerate(right)]
    runs = [
        decode(network, asked, slots=slots),
        decode(network, asked, 3, slots, drafter_of(network, slots)),
        decode(network, asked, 5, slots, LookupDrafter(CPU)),
        decode(network, asked, 4, slots, ScriptedDrafter(CPU, half)),
    ]
    same = sum(agrees(hf, p.tokens, answers[p.item].tokens) for answers in runs for p in asked)
    assert same >= 0.9 * len(asked) * len(runs)
    assert all(a.accepted >= a.drafted - 1 > 0 for a in runs[1].values())
    assert 0 < runs[3]["item0"].accepted < runs[3]["item0"].drafted


def test_a_different_draft_is_mostly_refused(pair, tmp_path):
    _, network = pair
    random_model(gpt2, seed=7).save_pretrained(tmp_path)
    other = TransformersNetwork(tmp_path, F32)
    asked = prompts()
    answers = decode(network, asked, 4, 4, drafter_of(other, 4))
    alone = decode(network, asked)
    assert sum(a.tokens == alone[i].tokens for i, a in answers.items()) >= 8
    assert sum(a.accepted for a in answers.values()) < 0.5 * sum(a.drafted for a in answers.values())


@torch.inference_mode()
def test_cache_rows_move_and_waste_is_gathered(pair):
    """Logits of every row equal those of a plain pass, whatever was taken back, dropped and added before."""
    hf, network = pair
    cache, texts = network.new_cache(3, 60), []
    generator = torch.Generator().manual_seed(2)

    def join(length):
        texts.append(torch.randint(3, V, (length,), generator=generator).tolist())
        row = cache.add_row()
        network.forward(torch.tensor([texts[-1][:4]]), cache, row)
        if length > 4:
            network.forward(torch.tensor([texts[-1][4:]]), cache, row)

    def step(width, *keep):
        new = torch.randint(3, V, (len(texts), width), generator=generator)
        logits = network.logits(network.forward(new, cache).flatten(0, 1)).view(len(texts), width, -1)
        for row, text in enumerate(texts):
            plain = hf(torch.tensor([[*text, *new[row].tolist()]])).logits[0, len(text) :]
            torch.testing.assert_close(logits[row], plain, atol=1e-4, rtol=1e-5)
            text.extend(new[row, : keep[row]].tolist())
        cache.truncate([len(t) for t in texts])
        assert cache.lengths == [len(t) for t in texts]

    for length in (11, 3, 20):
        join(length)
    step(4, 1, 4, 0)
    slots = cache.parts[0].shape[2]
    for _ in range(6):
        step(5, 1, 0, 2)
    assert cache.parts[0].shape[2] < slots + 6 * 5
    cache.drop_row(0)
    texts[0] = texts.pop()
    step(3, 1, 2)
    join(7)
    step(2, 2, 1, 0)
    cache.drop_row(2)
    texts.pop()
    cache.drop_row(0)
    texts[0] = texts.pop()
    step(1, 1)
    cache.drop_row(0)
    texts.clear()
    join(2)
    step(2, 2)
    assert network.new_cache(3, 60).bytes == 3 * 60 * network.new_cache(1, 1).bytes > 0


def test_a_full_cache_refuses(pair):
    cache = pair[1].new_cache(1, 8)
    cache.add_row()
    with pytest.raises(ValueError, match="all 1 rows"):
        cache.add_row()
    with pytest.raises(ValueError, match=r"0 \+ 9 tokens do not fit a cache of 8"):
        pair[1].forward(torch.zeros((1, 9), dtype=torch.int64), cache)
    assert cache.lengths == [0]


def test_an_answer_may_end_at_the_last_position(tmp_path):
    """Drafts beyond it have no learned position, and nobody looks at them."""
    hf = random_model(gpt2)
    hf.save_pretrained(tmp_path)
    network = TransformersNetwork(tmp_path, F32)
    assert (network.context, network.vocabulary, network.layers) == (64, V, 2)
    asked = [Prompt("a", tuple(range(3, 3 + 64 - LIMIT)))]
    answers = decode(network, asked, 9, 1, ScriptedDrafter(CPU, [5] * LIMIT))
    assert agrees(hf, asked[0].tokens, answers["a"].tokens)


def test_bfloat16_and_sizes(tmp_path):
    random_model(gpt2).save_pretrained(tmp_path)
    network, whole = TransformersNetwork(tmp_path, torch.bfloat16), TransformersNetwork(tmp_path, F32)
    assert network.bytes * 2 == whole.bytes == 4 * sum(p.numel() for p in gpt2().parameters())
    assert network.new_cache(2, 10).bytes * 2 < whole.new_cache(2, 10).bytes + 100
    answer = decode(network, prompts()[:1])["item0"]
    assert len(answer.tokens) == LIMIT


# --- refused -----------------------------------------------------------------------------------------------


def refused(folder, *words, **options):
    with pytest.raises(UserError) as caught:
        TransformersNetwork(folder, F32, **options)
    for word in words:
        assert word in str(caught.value)


SMALL = {"vocab_size": V, "hidden_size": 32, "num_hidden_layers": 2}
OTHERS = {
    "Mamba": lambda: MambaForCausalLM(MambaConfig(**SMALL, state_size=4)),
    "Bloom": lambda: BloomForCausalLM(BloomConfig(vocab_size=V, hidden_size=32, n_layer=2, n_head=4)),
    "Gemma2": lambda: Gemma2ForCausalLM(
        Gemma2Config(
            **SMALL,
            intermediate_size=32,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=8,
            sliding_window=16,
            max_position_embeddings=64,
        )
    ),
}


@pytest.mark.parametrize("name", OTHERS)
def test_a_cache_that_is_not_plain_keys_and_values_is_refused_by_class(name, tmp_path):
    OTHERS[name]().save_pretrained(tmp_path)
    refused(tmp_path, f"{name}ForCausalLM")


def test_what_masked_slots_would_change_is_refused(tmp_path, monkeypatch):
    """A class that reads its positions off the slots: its logits after a rejection are others."""
    random_model(gpt2).save_pretrained(tmp_path)
    plain = GPT2LMHeadModel.forward

    def forward(self, input_ids, past_key_values=None, attention_mask=None, position_ids=None, **more):
        return plain(self, input_ids, past_key_values=past_key_values, attention_mask=attention_mask, **more)

    monkeypatch.setattr(GPT2LMHeadModel, "forward", forward)
    refused(tmp_path, "GPT2LMHeadModel gives other logits when slots of its cache are masked")


def test_alibi_counts_valid_slots_only(tmp_path):
    """Falcon takes explicit positions and does not use them here; distances must still skip what was refused."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "alibi": True}
    hf = random_model(lambda: FalconForCausalLM(FalconConfig(vocab_size=V, **sizes, **IDS)))
    hf.save_pretrained(tmp_path)
    asked = prompts()
    answers = decode(TransformersNetwork(tmp_path, F32), asked, 4, 4, ScriptedDrafter(CPU, [5] * LIMIT))
    assert sum(agrees(hf, p.tokens, answers[p.item].tokens) for p in asked) >= 8


def test_pickles_lacks_and_invariance_are_refused(tmp_path):
    model = random_model(gpt2)
    model.save_pretrained(tmp_path / "good")
    refused(tmp_path / "good", "no invariant mode", invariant=True)
    refused(tmp_path / "nowhere", "config.json")
    pickled = tmp_path / "pickled"
    model.save_pretrained(pickled)
    (pickled / "model.safetensors").unlink()
    torch.save(model.state_dict(), pickled / "pytorch_model.bin")
    refused(pickled, "no *.safetensors", "pickle")
    deeper = tmp_path / "deeper"
    model.save_pretrained(deeper)
    config = json.loads((deeper / "config.json").read_text())
    (deeper / "config.json").write_text(json.dumps(config | {"n_layer": 3}))
    refused(deeper, "lacks weights of the model", "h.2.")
    (deeper / "config.json").write_text(json.dumps(config | {"n_embd": 40}))
    refused(deeper, "transformers cannot read")
    (deeper / "config.json").write_text(
        json.dumps({"model_type": "no_such", "auto_map": {"AutoModelForCausalLM": "x.Y"}})
    )
    refused(deeper, "transformers cannot read")
