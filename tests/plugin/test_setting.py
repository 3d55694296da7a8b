"""Room: plugin. What a server or a request may name, and that everything else is refused by name."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from specsafe.decoding.rules import RULES, Typical
from specsafe.decoding.safety.methods import METHODS, find
from specsafe.errors import UserError
from specsafe.plugin.server import require_version, served
from specsafe.plugin.setting import Reach, Setting, read_fields, require_possible, setting

WHOLE = Reach(drafts=True, logits=True)
NEEDED = {"threshold": "threshold=0.3", "accumulated": "threshold=0.3", "relaxed": "top_k=3"}
NEEDED |= {"lenient": "beta=0.5", "leak": "rate=0.5"}


def params(**changes: object) -> SimpleNamespace:
    """What vLLM makes of a request at temperature 0 that asks for nothing else."""
    plain = {
        "temperature": 0.0,
        "top_p": 1.0,
        "top_k": 0,
        "min_p": 0.0,
        "min_tokens": 0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "repetition_penalty": 1.0,
        "bad_words": None,
        "logit_bias": None,
        "allowed_token_ids": None,
        "structured_outputs": None,
        "thinking_token_budget": None,
        "extra_args": None,
    }
    return SimpleNamespace(**plain | changes)


def config(**changes: object) -> SimpleNamespace:
    """A VllmConfig, as far as it is looked at."""
    spec = {
        "method": "draft_model",
        "use_heterogeneous_vocab": False,
        "rejection_sample_method": "standard",
        **changes.pop("spec", {}),
    }
    return SimpleNamespace(
        **{
            "use_v2_model_runner": False,
            "scheduler_config": SimpleNamespace(async_scheduling=changes.pop("in_advance", False)),
            "parallel_config": SimpleNamespace(pipeline_parallel_size=changes.pop("stages", 1)),
            "speculative_config": SimpleNamespace(**spec),
            "additional_config": {},
            "model_config": SimpleNamespace(tokenizer=".", tokenizer_revision=None),
            **changes,
        }
    )


def test_a_rule_is_the_one_of_our_engine_and_has_one_name_for_all_spellings():
    asked = read_fields({"specsafe_rule": "typical:delta=0.30,epsilon=0.09", "somebody_elses": {"a": 1}})
    assert asked.rule == Typical(epsilon=0.09, delta=0.3)
    assert asked.text == "typical:epsilon=0.09,delta=0.3,posterior_temperature=1"
    assert asked == setting("rule", "typical")
    assert not asked.lossless and setting("rule", "block").lossless


@pytest.mark.parametrize("name", RULES)
def test_every_rule_of_our_engine_can_be_named(name: str):
    asked = setting("rule", f"{name}:{NEEDED[name]}" if name in NEEDED else name)
    assert type(asked.rule) is RULES[name]
    assert setting("rule", asked.text) == asked


def test_vllms_own_rule_has_a_name_too():
    assert setting("rule", "standard") == Setting("standard")
    assert setting("rule", "standard").lossless
    assert read_fields({}) is None and read_fields(None) is None and read_fields({"other": 1}) is None


def test_a_method_is_the_one_of_our_table_with_its_parts_changed():
    asked = read_fields({"specsafe_method": "ssd-crs:control.tau=0.3,union.count=7"})
    assert asked.method == find("ssd-crs", {"control.tau": 0.3, "union.count": 7})
    assert asked.text == "method ssd-crs:control.tau=0.3,union.count=7"
    composite = setting("method", "composite:union.alpha=0.25")
    assert composite.method.union.alpha == 0.25 and composite.method.union.kind == "all"
    assert setting("method", "composite:union.kind=union").method.union.kind == "union"


def test_methods_that_vllm_cannot_give_are_refused_with_the_reason():
    had = set()
    for name in METHODS:
        try:
            had.add(setting("method", name).text.removeprefix("method "))
        except UserError as error:
            assert "cannot be had inside vLLM" in str(error)
    assert {
        "ssd",
        "ssd-crs",
        "ssd-crs-best",
        "ssd-crs-zero-lag",
        "ssd-crs-trie",
        "continuous",
        "composite",
    } <= had
    assert had.isdisjoint(
        {
            "ssd-seed",
            "ssd-crs-gated",
            "ssd-steering",
            "aasd-frozen",
            "safedecoding",
            "draft-alone",
            "self-draft",
        }
    )


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"specsafe_rule": "typicl"}, "unknown acceptance rule 'typicl'"),
        ({"specsafe_rule": "typical:epsilon=2"}, "epsilon of rule 'typical' must be above 0 and at most 1"),
        ({"specsafe_rule": "typical:epsilon"}, "is no KEY=VALUE"),
        ({"specsafe_rule": "typical:epsilon=much"}, "must be above 0 and at most 1, got 'much'"),
        ({"specsafe_rule": "typical:epsilon=NaN"}, "must be above 0"),
        ({"specsafe_rule": "typical:rate=1"}, "has no parameter 'rate'"),
        ({"specsafe_rule": "leak"}, "needs 'rate'"),
        ({"specsafe_rule": "standard:a=1"}, "takes no parameter"),
        ({"specsafe_rule": ""}, "unknown acceptance rule ''"),
        ({"specsafe_rule": 7}, "must be a text"),
        ({"specsafe_rul": "typical"}, "unknown field 'specsafe_rul'"),
        ({"specsafe_rule": "block", "specsafe_method": "ssd"}, "exclude each other"),
        ({"specsafe_method": "sdd"}, "unknown method 'sdd'"),
        ({"specsafe_method": "ssd-crs:control.tau=11"}, "tau of its score must be between 0 and 10"),
        ({"specsafe_method": "ssd-crs:control.tao=1"}, "no part or number 'tao'"),
        ({"specsafe_method": "composite:union.alpha=2"}, "alpha must be at most 1"),
    ],
)
def test_what_is_wrong_is_refused_by_name(fields: dict, said: str):
    with pytest.raises(UserError, match=r".") as caught:
        read_fields(fields)
    assert said in str(caught.value)


def test_a_request_that_changes_the_targets_logits_otherwise_is_refused():
    typical, method = setting("rule", "typical"), setting("method", "ssd-crs")
    require_possible(typical, WHOLE, params(temperature=0.7))
    require_possible(method, WHOLE, params())
    require_possible(setting("rule", "standard"), Reach(False, False), params(top_p=0.5, logit_bias={1: 2}))
    refused = [
        (typical, {"temperature": 0.7, "top_p": 0.9}, "top_p"),
        (typical, {"temperature": 0.7, "top_k": 5}, "top_k"),
        (typical, {"temperature": 0.7, "min_p": 0.1}, "min_p"),
        (typical, {"repetition_penalty": 1.1}, "repetition_penalty"),
        (typical, {"allowed_token_ids": [1]}, "allowed_token_ids"),
        (typical, {"structured_outputs": object()}, "structured_outputs"),
        (method, {"temperature": 0.7}, "temperature 0"),
        (setting("rule", "greedy"), {"temperature": 1.0}, "temperature 0"),
    ]
    for asked, changes, said in refused:
        with pytest.raises(UserError, match=said):
            require_possible(asked, WHOLE, params(**changes))


def test_what_a_server_has_decides_what_can_be_asked_of_it():
    with pytest.raises(UserError, match="drafts nothing"):
        require_possible(setting("rule", "typical"), Reach(False, False))
    with pytest.raises(UserError, match="no distributions"):
        require_possible(setting("method", "ssd"), Reach(True, False))
    require_possible(setting("rule", "typical"), Reach(True, False))


def test_a_servers_configuration_is_read_once_and_refused_at_the_start():
    assert served(config()).default == Setting("standard")
    assert served(config(additional_config={"specsafe_rule": "block", "x": 1})).default.text == "block"
    with pytest.raises(UserError, match="methods cannot be had with this model"):
        served(config(additional_config={"specsafe_method": "ssd"}))  # here is no tokenizer
    assert served(config(speculative_config=None)).reach == Reach(False, False)
    wrong = [
        ({"use_v2_model_runner": True}, "VLLM_USE_V2_MODEL_RUNNER=0"),
        ({"in_advance": True}, "--no-async-scheduling"),
        ({"stages": 2}, "pipeline"),
        ({"spec": {"method": "eagle3"}}, "'eagle3'"),
        ({"spec": {"use_heterogeneous_vocab": True}}, "vocabulary"),
        ({"spec": {"rejection_sample_method": "synthetic"}}, "synthetic"),
        ({"additional_config": {"specsafe_rule": "typicl"}}, "typicl"),
        ({"additional_config": {"specsafe_method": "ssd"}, "spec": {"method": "ngram"}}, "no distributions"),
        ({"additional_config": {"specsafe_rule": "typical"}, "speculative_config": None}, "drafts nothing"),
    ]
    for changes, said in wrong:
        with pytest.raises(UserError) as caught:
            served(config(**changes))
        assert said in str(caught.value)


def test_a_vllm_that_was_not_tested_is_refused():
    require_version("0.32.0")
    require_version("0.32.0+cpu")
    for other in ("0.32.1", "0.31.0", "0.32.0rc1", ""):
        with pytest.raises(UserError, match="not tested with vLLM"):
            require_version(other)
