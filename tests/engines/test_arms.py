"""Room: engines/arms. Laws: the grammar of --arm, errors that name the key, an id that hashes everything."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from specsafe.engines import LlamaCppArm, RecordedArm, arm_id, parse_arm
from specsafe.errors import UserError
from specsafe.models.catalogue import DEFAULT_MODEL

OTHER_VALUES = {
    "model": "other.gguf",
    "draft": "self",
    "rule": "synthetic",
    "leak": 0.5,
    "n_max": 4,
    "chat_template": "off",
    "p_min": 0.5,
    "temperature": 0.7,
    "seed": 1,
    "max_tokens": 41,
    "context": 2048,
    "system": "",
    "prefill": "Sure",
    "threads": 1,
    "slots": 2,
    "prompt_cache": True,
    "top": 5,
}


# --- Grammar --------------------------------------------------------------------------------------------


def test_nothing_said_is_the_default_arm():
    assert parse_arm("") == LlamaCppArm()
    assert LlamaCppArm().model == DEFAULT_MODEL


def test_values_take_the_types_of_their_fields():
    arm = parse_arm("kind=llamacpp, draft = self ,n_max=4,p_min=.25,prompt_cache=true,threads=2,slots=auto")
    assert isinstance(arm, LlamaCppArm)
    assert (arm.draft, arm.n_max, arm.p_min, arm.prompt_cache) == ("self", 4, 0.25, True)
    assert (arm.threads, arm.slots) == (2, "auto")


def test_a_value_with_commas_or_quotes_stands_in_double_quotes():
    arm = parse_arm(r'system="Be brief, say \"hi\"\n, go.",n_max=2')
    assert (arm.system, arm.n_max) == ('Be brief, say "hi"\n, go.', 2)


def test_an_equals_sign_may_stand_in_a_value():
    assert parse_arm("model=a=b.gguf,n_max=2").model == "a=b.gguf"


def test_an_empty_value_is_the_empty_text():
    assert parse_arm("system=,n_max=2").system == ""
    assert parse_arm('system=""').system == ""


def test_ranges_of_layers_need_no_quotes():
    assert parse_arm("draft=layers:0-9+12-29").draft == "layers:0-9+12-29"


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=60), st.integers(1, 64))
def test_any_text_survives_in_quotes(text, n_max):
    arm = parse_arm(f"system={json.dumps(text)},n_max={n_max}")
    assert (arm.system, arm.n_max) == (text, n_max)


def test_recorded_answers_are_an_arm_of_their_own():
    arm = parse_arm("kind=recorded,path=answers.jsonl,temperature=0.7")
    assert arm == RecordedArm(path="answers.jsonl", temperature=0.7)


# --- Inheritance ----------------------------------------------------------------------------------------


def test_an_arm_inherits_what_it_does_not_say():
    target = parse_arm("model=m.gguf,seed=5,max_tokens=17")
    speculative = parse_arm("draft=self,seed=6", inherit=target)
    assert speculative == target.model_copy(update={"draft": "self", "seed": 6})


def test_an_inherited_auto_stays_auto():
    assert parse_arm("draft=self", inherit=LlamaCppArm()).threads == "auto"


def test_the_kind_is_inherited_and_recorded_arms_share_no_path():
    target = RecordedArm(path="target.jsonl", temperature=0.7)
    assert parse_arm("path=other.jsonl", inherit=target) == RecordedArm(path="other.jsonl")
    with pytest.raises(UserError, match="path"):
        parse_arm("", inherit=target)


def test_an_arm_of_another_kind_inherits_nothing():
    target = parse_arm("model=m.gguf,temperature=1")
    assert parse_arm("kind=recorded,path=a.jsonl", inherit=target) == RecordedArm(path="a.jsonl")
    assert parse_arm("kind=llamacpp", inherit=RecordedArm(path="a.jsonl")) == LlamaCppArm()


# --- Rules and methods: one spelling --------------------------------------------------------------------

NATIVE, SERVER, INSIDE = (
    "kind=native,draft=self",
    "kind=openai,url=http://127.0.0.1:1/v1",
    "kind=vllm,model=/m,draft=self",
)
CHANGED = '"{\\"control.tau\\": 0.3, \\"union.alpha\\": 0.8}"'
SPELLED = [
    ("rule=typical,epsilon=0.2,delta=0.5", 'rule="typical:epsilon=0.2,delta=0.5"'),
    ("rule=typical,epsilon=0.2,delta=0.5", "rule=typical:delta=5e-1,epsilon=0.20"),
    ("rule=leak,leak=0.5", "rule=leak:rate=0.5"),
    ("rule=relaxed,top_k=3,delta=0.3", 'rule="relaxed: top_k=3, delta=0.3"'),
    ("rule=relaxed,top_k=3", "rule=relaxed:top_k=3"),
    (f"method=ssd-crs,changes={CHANGED}", 'method="ssd-crs:control.tau=0.3,union.alpha=0.8"'),
]


@pytest.mark.parametrize(("keys", "text"), SPELLED)
@pytest.mark.parametrize("kind", [NATIVE, SERVER, INSIDE])
def test_a_rule_and_a_method_are_spelled_alike_for_every_engine(kind, keys, text):
    one, other = parse_arm(f"{kind},{keys}"), parse_arm(f"{kind},{text}")
    assert (one, one.lossless, one.rule_is_known) == (other, False, True)
    assert type(one).model_validate(one.model_dump()) == one


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("epsilon=0.2", "epsilon is a number of a rule; add rule=…"),
        ("rule=auto,leak=0.2", "rate is a number of a rule"),
        ("method=ssd-crs,changes=tau", "changes must be a JSON object"),
        ("rule=typical:epsilon=0.2,epsilon=0.3", "epsilon is said twice"),
        ('rule="typical:epsilon=0.2,epsilon=0.3"', "says a key twice"),
        ("rule=typical,epsilon=2", "epsilon of rule 'typical' must be above 0 and at most 1, got 2"),
        ("rule=typical,epsilon=much", "got 'much'"),
        ("rule=typical,beta=0.5", "rule 'typical' has no parameter 'beta'"),
        ("rule=typical:epsilon", "'epsilon' of 'typical:epsilon' is no KEY=VALUE"),
        ("rule=typicl:epsilon=0.2", "unknown rule 'typicl:epsilon=0.2'"),
        ("rule=strict:a=1", "unknown acceptance rule 'strict'"),
        ("rule=relaxed:delta=0.3", "rule 'relaxed' needs 'top_k'"),
        ("rule=standard:a=1", "takes no parameter"),
        ("method=sdd", "unknown method 'sdd'"),
        ("method=ssd-crs:control.tau=11", "tau of its score must be between 0 and 10"),
        ("method=safedecoding", "cannot be had inside vLLM"),
        ("method=typical", "it is an acceptance rule"),
        ("method=ssd-crs,rule=typical", "rule and method exclude each other"),
        ("method=ssd-crs,temperature=0.7", "method=ssd-crs needs temperature=0"),
        (f"changes={CHANGED}", "changes belong to a method"),
        ("method=ssd-crs:control.tau=0.3,union.alpha=0.8", "a value with commas goes in double quotes"),
        ("specsafe_rule=typical", "unknown key 'specsafe_rule' for kind=openai"),
    ],
)
def test_a_bad_spelling_of_what_a_server_is_asked_for_is_named_before_it_is_asked(text, said):
    with pytest.raises(UserError) as error:
        parse_arm(f"{SERVER},{text}")
    assert said in f"{error.value} {error.value.hint}"


@pytest.mark.parametrize(
    "text", ["rule=typical:epsilon=0.2,epsilon=0.3", "rule=typical:rate=0.3", "rule=magic:a=1"]
)
def test_a_bad_spelling_of_a_native_rule_is_named_too(text):
    with pytest.raises(UserError):
        parse_arm(f"{NATIVE},{text}")


# --- Errors ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("kind=vllm9", "unknown engine kind 'vllm9'"),
        ("n_draft=3", "unknown key 'n_draft' for kind=llamacpp"),
        ("kind=recorded,path=a,draft=self", "unknown key 'draft' for kind=recorded"),
        ("kind=recorded", "path: Field required"),
        ("n_max=0", "n_max: Input should be greater than or equal to 1"),
        ("n_max=many", "n_max: Input should be a valid integer"),
        ("temperature=-1", "temperature: "),
        ("temperature=nan", "temperature: "),
        ("seed=4294967296", "seed: "),
        ("rule=magic", "rule: Input should be 'auto', 'greedy'"),
        ("prompt_cache=maybe", "prompt_cache: "),
        ("leak=1.5", "leak: "),
    ],
)
def test_a_bad_key_or_value_is_named(text, said):
    with pytest.raises(UserError) as error:
        parse_arm(text)
    assert said in str(error.value)
    assert error.value.hint


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("draft", "'draft'"),
        (",", "','"),
        ("=3", "'=3'"),
        ('"draft"=self', "'\"draft\"=self'"),
        ("n_max=2,draft", "'draft'"),
        ('model=x"y"', 'x"y"\''),
        ('system="never closed', "never closed"),
        ('system="a"b', '"a"b'),
    ],
)
def test_bad_syntax_is_shown_where_it_begins(text, place):
    with pytest.raises(UserError, match="cannot read arm") as error:
        parse_arm(text)
    assert place in str(error.value)


@pytest.mark.parametrize("text", [r'model="C:\models\q.gguf"', 'system="two\nlines"'])
def test_a_quoted_value_that_json_cannot_read_is_an_error_and_no_crash(text):
    with pytest.raises(UserError):
        parse_arm(text)


def test_a_bad_value_of_a_field_with_two_types_is_named_by_its_key():
    with pytest.raises(UserError, match="threads: "):
        parse_arm("threads=many")


@pytest.mark.parametrize("text", ["threads=-3", "slots=0"])
def test_less_than_one_thread_or_slot_is_refused(text):
    with pytest.raises(UserError):
        parse_arm(text)


# --- Identity and meaning -------------------------------------------------------------------------------


def test_the_table_of_other_values_covers_every_field():
    assert set(OTHER_VALUES) == set(LlamaCppArm.model_fields) - {"kind"}


@pytest.mark.parametrize("field", OTHER_VALUES)
def test_the_id_changes_with_any_field(field):
    other = LlamaCppArm(**{field: OTHER_VALUES[field]})
    assert arm_id(other, {}) != arm_id(LlamaCppArm(), {})


def test_the_id_changes_with_the_files_behind_the_arm():
    arm = LlamaCppArm()
    ids = [arm_id(arm, files) for files in ({}, {"target": "a"}, {"target": "b"}, {"draft": "a"})]
    assert len(set(ids)) == 4
    assert arm_id(arm, {"a": "1", "b": "2"}) == arm_id(arm, {"b": "2", "a": "1"})


def test_the_id_of_a_recorded_arm_changes_with_path_and_temperature():
    arms = [RecordedArm(path="a"), RecordedArm(path="b"), RecordedArm(path="a", temperature=0.5)]
    assert len({arm_id(arm, {}) for arm in arms}) == 3


def test_what_was_said_and_what_was_left_out_have_one_id():
    assert arm_id(parse_arm("n_max=3,temperature=0"), {}) == arm_id(LlamaCppArm(), {})


@pytest.mark.parametrize(
    ("text", "rule", "lossless"),
    [
        ("", "none", True),
        ("rule=synthetic,leak=1", "none", True),
        ("draft=self", "greedy", True),
        ("draft=self,temperature=0.7", "agreement", True),
        ("draft=self,rule=synthetic,leak=0.1", "synthetic", False),
    ],
)
def test_auto_is_greedy_at_temperature_zero_and_agreement_above(text, rule, lossless):
    arm = parse_arm(text)
    assert (arm.rule_in_force, arm.lossless) == (rule, lossless)
    assert arm.speculative == (arm.draft != "none")


def test_arms_cannot_be_changed():
    with pytest.raises(ValueError, match="frozen"):
        LlamaCppArm().seed = 3
