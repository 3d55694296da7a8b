"""Room: engines/native. Laws: every rule answers on the real model, exact ones exactly; bad input is named before work."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import MISSING, fields, replace
from functools import lru_cache

import pytest

from specsafe.decoding import stack
from specsafe.decoding.loop import Prompt
from specsafe.decoding.named import RULE_FACTS
from specsafe.decoding.rules import RULES
from specsafe.decoding.telemetry import COLUMNS
from specsafe.engines import Failure, NativeArm, Request, Sample, check_arm, open_session, parse_arm
from specsafe.engines.arm_native import UNSAFE_SCRIPT
from specsafe.engines.arm_rules import NUMBERS, key_of
from specsafe.engines.native import model_path, require_room, stack_config, to_sample
from specsafe.engines.native_worker import flatten
from specsafe.errors import UserError
from specsafe.models.catalogue import DEFAULT_MODEL
from specsafe.models.store import resolve

REQUESTS = [
    Request("a", "What is the capital of France?"),
    Request("b", "Name three fruits. Answer with their names alone."),
    Request("c", "Which letter comes after B?\nA. C\nB. D\nAnswer with the letter alone."),
]
SMALL = "kind=native,context=256,max_tokens=12,slots=3,threads=1"


@pytest.fixture(scope="module", autouse=True)
def _read_once():
    """The stacks of this module share what is read from disk; nothing writes to it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stack, "load_checkpoint", lru_cache(stack.load_checkpoint))
        patch.setattr(stack, "load_tokenizer", lru_cache(stack.load_tokenizer))
        yield


def answers(text: str, requests=REQUESTS) -> dict[str, Sample]:
    """What the arm answers, without its worker process."""
    arm = parse_arm(f"{SMALL},{text}")
    assert isinstance(arm, NativeArm)
    opened = stack.open_stack(stack_config(arm))
    prompts = [Prompt(r.item, opened.prompt_tokens(r.prompt), r.replicate) for r in requests]
    told = [json.loads(json.dumps(flatten(opened, a))) for a in opened.decoder().generate(prompts)]
    return {m["item"]: to_sample(arm, m) for m in told}


def from_worker(text: str, requests=REQUESTS) -> dict[str, Sample | Failure]:
    session = open_session(parse_arm(f"{SMALL},{text}"))
    try:
        return {a.item: a for a in session.generate(requests)}
    finally:
        session.close()


@pytest.fixture(scope="module")
def alone() -> dict[str, Sample]:
    return answers("draft=none")


# --- Rules and arms ---------------------------------------------------------------------------------------


def test_what_is_said_of_rules_by_name_is_what_the_rules_are():
    assert list(RULE_FACTS) == list(RULES)
    for name, facts in RULE_FACTS.items():
        own = {f.name: None if f.default is MISSING else f.default for f in fields(RULES[name]) if f.init}
        own.pop("accumulated", None)
        assert (RULES[name].lossless, own) == (facts.lossless, facts.numbers), name
    assert set(NUMBERS) == {key_of(number) for facts in RULE_FACTS.values() for number in facts.numbers}


LOSSLESS = [f"rule={name}" for name, facts in RULE_FACTS.items() if facts.lossless]


@pytest.mark.model
@pytest.mark.parametrize("rule", [*LOSSLESS, "rule=leak,leak=0", "rule=typical,posterior_temperature=0"])
def test_a_rule_that_may_change_nothing_changes_nothing(alone, rule):
    drafted = answers(f"draft=first:24,num_speculative_tokens=3,{rule}")
    for item, sample in drafted.items():
        assert sample.token_ids == alone[item].token_ids
        assert sample.text == alone[item].text
        assert sample.logprobs == alone[item].logprobs
        assert sample.drafted and sample.rounds and sample.accepted is not None
        assert sum(sample.accepted_at or ()) == sample.accepted


@pytest.mark.model
@pytest.mark.parametrize(
    "rule",
    [
        "rule=typical,epsilon=0.001,delta=0.01",
        "rule=threshold,threshold=0.00001",
        "rule=accumulated,threshold=0.00001",
        "rule=relaxed,top_k=500",
        "rule=lenient,beta=0.01",
        "rule=leak,leak=1",
    ],
)
def test_a_lossy_rule_lets_a_script_through_and_says_so(alone, rule):
    arm = parse_arm(f'{SMALL},draft=script,script="The answer is a kettle, said the cat.",{rule}')
    assert isinstance(arm, NativeArm)
    assert not arm.lossless
    waved = answers(f'draft=script,script="The answer is a kettle, said the cat.",{rule}')
    assert any(waved[i].token_ids != alone[i].token_ids for i in waved)
    assert all(s.accepted for s in waved.values() if s.item != "c")


@pytest.mark.model
def test_where_everything_leaks_a_script_is_said_but_for_the_token_that_ends_a_round():
    said = answers(f'draft=script,script="{UNSAFE_SCRIPT}",rule=leak,leak=1')
    script = stack.script_tokens(
        UNSAFE_SCRIPT, stack.load_tokenizer(stack._folder(model_path(DEFAULT_MODEL)))
    )
    for sample in said.values():
        ids = (sample.token_ids or ())[:-1]  # the limit leaves no room to draft the last token
        drafted = [n for n in range(len(ids)) if n % 5 < 4]
        assert [ids[n] for n in drafted] == [script[n] for n in drafted]
        assert sample.accepted == sample.drafted
    listed = answers(f'draft=script,script="{json.dumps(script)}",rule=leak,leak=1')
    assert {i: s.token_ids for i, s in listed.items()} == {i: s.token_ids for i, s in said.items()}


@pytest.mark.model
def test_the_worker_answers_what_the_stack_answers(alone):
    for text, same in (("draft=none", alone), ("draft=first:24,telemetry=on,top=3", None)):
        expected = same or answers(text)
        told = from_worker(text)
        assert {i: replace(s, seconds=0, prefill_seconds=0) for i, s in told.items()} == {
            i: replace(s, seconds=0, prefill_seconds=0) for i, s in expected.items()
        }


@pytest.mark.model
def test_other_drafters_and_the_exact_width_change_nothing(alone):
    for text in ("draft=self", "draft=ngram", "draft=layers:0-9+12-29,num_speculative_tokens=9", "width=5"):
        drafted = answers(text)
        assert {i: s.token_ids for i, s in drafted.items()} == {i: s.token_ids for i, s in alone.items()}, (
            text
        )
    mine = answers("draft=self,num_speculative_tokens=4")
    assert all(s.accepted == s.drafted for s in mine.values())


@pytest.mark.model
def test_slots_neighbours_and_order_change_no_bit(alone):
    one = answers("draft=none,slots=1", REQUESTS[::-1])
    assert {i: replace(s, seconds=0, prefill_seconds=0) for i, s in one.items()} == {
        i: replace(s, seconds=0, prefill_seconds=0) for i, s in alone.items()
    }


@pytest.mark.model
def test_above_temperature_0_an_answer_belongs_to_its_seed_item_and_replicate():
    hot = "temperature=1,seed=7"
    first = answers(hot)
    second = answers(f"{hot},slots=1", REQUESTS[::-1])
    assert {i: s.token_ids for i, s in first.items()} == {i: s.token_ids for i, s in second.items()}
    again = answers(hot, [replace(r, replicate=1) for r in REQUESTS])
    assert any(again[i].token_ids != first[i].token_ids for i in first)
    agreed = answers(f"{hot},draft=first:24,rule=agreement")
    assert {i: s.token_ids for i, s in agreed.items()} == {i: s.token_ids for i, s in first.items()}
    for rule in ("rejection", "block", "one_hot", "lenient,beta=0.5"):
        assert len(answers(f"{hot},draft=first:24,rule={rule}")) == len(REQUESTS)


@pytest.mark.model
def test_telemetry_holds_a_value_a_token_in_every_column(alone):
    told = answers("draft=first:24,telemetry=on")
    for item, sample in told.items():
        assert sample.token_ids == alone[item].token_ids
        assert sample.columns is not None
        assert tuple(sample.columns) == COLUMNS
        assert {len(v) for v in sample.columns.values()} == {len(sample.token_ids or ())}
        assert sum(sample.columns["accepted"]) == sample.accepted
        assert sample.columns["round"][-1] == sample.rounds


@pytest.mark.model
def test_letters_are_told_exactly_and_stop_strings_end_the_text(alone):
    letters = dict(alone["c"].letters or ())
    assert len(letters) == 10
    assert all(p < 0 for p in letters.values())
    stopped = answers('stop="France",draft=first:24')["a"]
    assert "France" not in stopped.text
    assert stopped.finish == "stop"
    listed = answers(r'stop="[\"France\", \"fruit\"]"')["a"]
    assert listed.text == stopped.text


@pytest.mark.model
def test_an_item_past_the_context_fails_by_name_and_the_rest_is_answered(alone):
    found = from_worker("draft=first:24", [*REQUESTS, Request("long", "word " * 400)])
    assert isinstance(found["long"], Failure)
    assert "pass the context of 256" in found["long"].reason
    assert {i: s.token_ids for i, s in found.items() if isinstance(s, Sample)} == {
        i: s.token_ids for i, s in alone.items()
    }


@pytest.mark.model
def test_the_fingerprint_tells_rule_arithmetic_and_memory():
    session = open_session(parse_arm(f"{SMALL},draft=first:24,rule=typical,epsilon=0.2"))
    seen = session.fingerprint()
    session.close()
    assert seen["rule"] == "typical"
    assert "epsilon=0.2" in seen["rule_parameters"]
    assert seen["lossless"] is False
    assert seen["arithmetic"] == "invariant"
    assert seen["products"].startswith("float32, numba ")
    assert seen["tile"] == {"target": 1}
    assert seen["rows_proved_equal"]["target"] > 500
    assert seen["bytes"]["target"] > 2e8
    assert seen["bytes"]["draft"] == 0, "layers of the target are not held twice"


# --- Bad input --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("draft=self,rule=nonsense", "rule"),
        ("draft=self,rule=typical,epsilon=0", "epsilon"),
        ("draft=self,rule=typical,epsilon=1.5", "epsilon"),
        ("draft=self,rule=typical,beta=0.5", "beta is no parameter of rule=typical"),
        ("draft=self,rule=lenient", "rule=lenient needs beta"),
        ("draft=self,rule=relaxed", "rule=relaxed needs top_k"),
        ("draft=self,rule=leak", "rule=leak needs leak"),
        ("draft=self,rule=greedy,temperature=1", "temperature=0"),
        ("draft=self,num_speculative_tokens=0", "num_speculative_tokens"),
        ("draft=script", "belong together"),
        ('script="hello"', "belong together"),
        ('draft=script,script="[1, \\"x\\"]"', "JSON list of int"),
        ('stop="[1"', "no JSON list"),
        ("dtype=float16", "dtype"),
        ("draft=self,draft_device=cpu", "no model of its own"),
        ("temperature=1e-40", "temperature must be 0 or at least"),
        ('draft=script,script="[true]"', "JSON list of int"),
        ("epsilon=0.5", "epsilon is no parameter of rule=none"),
    ],
)
def test_keys_that_cannot_be_are_named(text, said):
    with pytest.raises(UserError, match=said):
        parse_arm(f"kind=native,{text}")


def test_the_first_tokens_of_a_vocabulary_may_stand_in_a_script():
    assert parse_arm('kind=native,draft=script,script="[0, 1, 2]"').script == "[0, 1, 2]"


@pytest.mark.model
@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("device=meta", "not one that this engine knows"),
        ("draft=first:0", "positive number"),
        ("draft=ngram:x", "positive number"),
        ("draft=layers:0-99", "layers 0 to 29"),
        ("draft=first:31", "layers 0 to 29"),
        ("context=100000", "8192 positions"),
        ("device=nowhere", "device 'nowhere'"),
        ('draft=script,script="[99999]"', "token 99999"),
        ("model=no-such-model", "no model at"),
        ("model=transformers:/nowhere", "no folder"),
    ],
)
def test_what_cannot_work_is_refused_before_any_answer(text, said):
    arm = parse_arm(f"{SMALL},{text}" if "context" not in text else f"kind=native,{text}")
    with pytest.raises(UserError, match=said):
        check_arm(arm)
        open_session(arm)


def letters_folder(folder, rows=8):
    """A model of eight letters, with so many rows of vocabulary."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    config = LlamaConfig(
        vocab_size=rows, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    letters = Tokenizer(models.BPE({c: i for i, c in enumerate("abcdefgh")}, []))
    letters.pre_tokenizer, letters.decoder = pre_tokenizers.ByteLevel(), decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=letters, eos_token="h").save_pretrained(folder)  # noqa: S106
    return folder


@pytest.mark.model
def test_a_draft_with_another_tokenizer_is_refused(tmp_path):
    with pytest.raises(UserError, match="another tokenizer"):
        open_session(parse_arm(f"{SMALL},draft={letters_folder(tmp_path / 'draft')}"))


def test_a_target_with_too_few_rows_for_its_tokenizer_is_refused(tmp_path):
    folder = letters_folder(tmp_path / "target", rows=7)
    with pytest.raises(UserError, match="the target has 7 rows of vocabulary, its tokenizer 8 tokens"):
        open_session(parse_arm(f"{SMALL},model={folder},draft=none"))


@pytest.mark.model
def test_a_pickle_is_never_read(tmp_path):
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(UserError, match="pickle"):
        open_session(parse_arm(f"{SMALL},model={tmp_path}"))


@pytest.mark.model
def test_another_file_is_another_arm(tmp_path):
    copy = tmp_path / "copy.gguf"
    shutil.copy(resolve(DEFAULT_MODEL), copy)
    arm = parse_arm(f"kind=native,model={copy}")
    before = check_arm(arm)
    with copy.open("ab") as file:
        file.write(b"\0")
    assert check_arm(arm) != before
    assert model_path(str(copy)) == str(copy)


def test_without_torch_the_cure_is_named(monkeypatch):
    import importlib.util

    found = importlib.util.find_spec
    monkeypatch.setattr(
        "specsafe.engines.native.find_spec", lambda name: None if name == "torch" else found(name)
    )
    with pytest.raises(UserError, match="torch") as error:
        check_arm(parse_arm("kind=native"))
    assert "specsafe[native]" in error.value.hint


def test_arms_and_engines_import_no_torch():
    import subprocess

    code = "import sys, specsafe.engines, specsafe.engines.native, specsafe.cli.main; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


@pytest.mark.model
def test_prompts_that_leave_no_room_are_named_before_any_answer():
    arm = parse_arm(SMALL)
    assert isinstance(arm, NativeArm)
    session = open_session(arm)
    require_room(session, arm, REQUESTS)
    with pytest.raises(UserError, match="2 of 5 prompts do not fit context=256: longer needs") as error:
        require_room(
            session,
            arm,
            [*REQUESTS, Request("long", "word " * 400), Request("longer", "word " * 500)],
        )
    session.close()
    assert "context=" in error.value.hint
