"""Arms of vLLM without vLLM: labels, versions, settings, answers as samples. The real one runs in tests/vllm."""

import json
import sys

import pytest

from specsafe.engines import parse_arm, vllm
from specsafe.engines.base import Failure
from specsafe.engines.prefill import Look, Question
from specsafe.engines.vllm import Build
from specsafe.errors import UserError

GPU, CPU = Build("0.32.0", False, True, ""), Build("0.32.0", True, False, "/lib/libiomp5.so")


def arm(text="", model="/m"):
    return parse_arm(f"kind=vllm,model={model}" + (f",{text}" if text else ""))


@pytest.fixture
def folder(tmp_path):
    """A folder that looks like a model."""
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    return tmp_path


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("rule=magic,draft=self", "unknown rule"),
        ("rule=block", "add draft="),
        ("method=ssd-crs", "add draft="),
        ("draft=self,rule=block,method=ssd-crs", "exclude each other"),
        ("draft=self,rule=greedy,temperature=1", "temperature=0"),
        ("draft=self,rule=relaxed", "needs 'top_k'"),
        ("draft=self,rule=typical,epsilon=2", "above 0 and at most 1"),
        ("draft=self,method=ssd-seed", "cannot be had inside vLLM"),
        ("draft=self,method=ssd-crs,temperature=1", "temperature=0"),
        ('stop="[1]"', "JSON list"),
    ],
)
def test_an_arm_that_cannot_be_is_refused(text, told):
    with pytest.raises(UserError, match=told):
        arm(text)


@pytest.mark.parametrize(
    ("text", "rule", "lossless", "plugin"),
    [
        ("", "none", True, False),
        ("draft=self", "unnamed", True, False),
        ("draft=self,rule=block", "block", True, False),
        ("draft=self,rule=synthetic", "synthetic", False, False),
        ('draft=self,rule="typical:epsilon=0.09,delta=0.3"', "typical:epsilon=0.09,delta=0.3", False, True),
        ("draft=self,rule=one_hot", "one_hot", True, True),
        ("draft=self,method=ssd-crs", "method ssd-crs", False, True),
        ("draft=self,rule=leak,leak=0.5", "leak:rate=0.5", False, True),
    ],
)
def test_a_rule_says_whether_it_is_lossless_and_whose_it_is(text, rule, lossless, plugin):
    found = arm(text)
    assert (found.rule_in_force, found.lossless, found.needs_plugin) == (rule, lossless, plugin)


def test_controls_follow_from_the_speculative_arm():
    fast = arm("draft=/d,rule=relaxed,top_k=3,num_speculative_tokens=6,draft_sample_method=probabilistic")
    width = fast.width_arm()
    assert fast.rule == "relaxed:top_k=3"
    assert (width.draft, width.rule, width.num_speculative_tokens) == ("self", "auto", 6)
    assert width.draft_sample_method == "auto"
    assert (fast.leak_arm(0.5).rule, fast.leak_arm(0.5).draft) == ("leak:rate=0.5", "/d")
    assert arm("draft=ngram").leak_arm(0.5) is None


@pytest.mark.parametrize(
    ("text", "build", "told"),
    [
        ("draft=self,rule=synthetic", CPU, "stops a vLLM without a GPU"),
        ("draft=self,rule=strict", GPU, "cannot produce it"),
        ("draft=self,rule=standard", Build("0.18.1", False, False, ""), "cannot produce it"),
        ("draft=self,rule=typical", CPU, "specsafe's plugin is not beside it"),
        (
            "draft=self,draft_sample_method=greedy",
            Build("0.16.0", False, False, ""),
            "no draft_sample_method",
        ),
    ],
)
def test_what_a_build_cannot_produce_is_refused(monkeypatch, folder, text, build, told):
    monkeypatch.setattr(vllm, "build_of", lambda python: build)
    with pytest.raises(UserError, match=told):
        vllm.check(arm(text, folder))


def test_files_of_target_and_draft_are_hashed(monkeypatch, folder, tmp_path_factory):
    monkeypatch.setattr(vllm, "build_of", lambda python: GPU)
    alone = vllm.check(arm("", folder))
    assert alone == vllm.check(arm("draft=ngram:4", folder)) == vllm.check(arm("draft=self", folder))
    other = tmp_path_factory.mktemp("draft")
    (other / "config.json").write_text("{}")
    with pytest.raises(UserError, match="no folder with config"):
        vllm.check(arm(f"draft={other}", folder))
    (other / "a.safetensors").write_bytes(b"other weights")
    both = vllm.check(arm(f"draft={other}", folder))
    assert both["model"] == alone["model"] != both["draft"]


@pytest.mark.parametrize(
    ("text", "version", "named"),
    [
        ("", (0, 32), None),
        (
            "draft=ngram",
            (0, 32),
            {
                "method": "ngram",
                "prompt_lookup_max": 3,
                "prompt_lookup_min": 1,
                "num_speculative_tokens": 4,
            },
        ),
        ("draft=self,rule=block", (0, 32), {"method": "draft_model", "rejection_sample_method": "block"}),
        ("draft=self,rule=strict", (0, 18), {"method": "draft_model", "rejection_sample_method": "strict"}),
        ("draft=self,rule=greedy", (0, 32), {"method": "draft_model"}),
        ("draft=self,draft_sample_method=greedy", (0, 32), {"draft_sample_method": "greedy"}),
        ("draft=self,rule=typical", (0, 9), {"acceptance_method": "typical_acceptance_sampler"}),
    ],
)
def test_settings_have_the_names_of_the_version(folder, text, version, named):
    told = vllm.speculative_config(arm(text, folder), version)
    if named is None:
        assert told is None
    else:
        assert named.items() <= told.items()
        assert ("rejection_sample_method" in told) == ("rejection_sample_method" in named)


def test_the_plugin_is_asked_for_where_it_decides_and_nowhere_else(folder):
    plain = arm("draft=self", folder)
    ours = arm("draft=self,rule=typical", folder)
    safe = arm("draft=self,method=ssd-crs", folder)
    assert "worker_cls" not in vllm.worker_config(plain, GPU, 8)["engine"]
    engine = vllm.worker_config(ours, GPU, 8)["engine"]
    assert engine["worker_cls"] == "specsafe.plugin.worker.Worker"
    assert engine["additional_config"] == {"specsafe_rule": "typical"}
    assert vllm.worker_config(safe, GPU, 8)["engine"]["additional_config"] == {"specsafe_method": "ssd-crs"}
    assert vllm.environment(ours, GPU, 2)["VLLM_PLUGINS"] == "specsafe"
    assert "VLLM_PLUGINS" not in vllm.environment(plain, GPU, 2)
    assert "VLLM_USE_V2_MODEL_RUNNER" not in vllm.environment(plain, GPU, 2)
    assert vllm.environment(plain, CPU, 2)["VLLM_USE_V2_MODEL_RUNNER"] == "0"
    assert vllm.environment(plain, CPU, 2)["LD_PRELOAD"].startswith("/lib/libiomp5.so")
    json.dumps(vllm.worker_config(ours, GPU, 8))


def test_without_the_plugin_there_is_no_leak_control_and_the_reason_is_told(monkeypatch):
    monkeypatch.setattr(vllm, "build_of", lambda python: CPU)
    fast = arm("draft=/d")
    planned = {"target": arm(), "speculative": fast, "leak": fast.leak_arm(0.5)}
    assert vllm.resolved(planned)["absent"]["leak"].startswith("specsafe's plugin is not installed")
    monkeypatch.setattr(vllm, "build_of", lambda python: GPU)
    assert vllm.resolved(planned)["absent"] == {}


def test_a_python_without_vllm_is_named():
    with pytest.raises(UserError, match="does not run"):
        vllm.build_of("/no/such/python")
    if sys.prefix == sys.base_prefix:
        pytest.skip("what the system's Python holds is not known")


ANSWER = {
    "item": "a",
    "text": "Sure, here is one",
    "finish": "stop",
    "token_ids": [5, 6],
    "logprobs": [-0.1, None],
    "top": [[[5, -0.1]], []],
    "letters": [],
    "prompt_tokens": 4,
    "seconds": 0.5,
    "drafting": {
        "num_draft_tokens": 8,
        "num_accepted_draft_tokens": 3,
        "num_spec_steps": 2,
        "acceptance_histogram": [0, 1, 1, 0, 0],
    },
}


def test_an_answer_line_is_a_sample():
    got = vllm.to_sample(arm("draft=self"), ANSWER)
    assert (got.drafted, got.accepted, got.rounds, got.accepted_at) == (8, 3, 2, (2, 1, 0, 0))
    assert (got.token_ids, got.logprobs, got.top) == ((5, 6), (-0.1, None), (((5, -0.1),), ()))
    target = vllm.to_sample(arm(), ANSWER)
    assert (target.drafted, target.rounds) == (None, None)
    untold = vllm.to_sample(arm("draft=self"), {**ANSWER, "drafting": None})
    assert (untold.drafted, untold.accepted, untold.rounds) == (0, 0, None)


class Says:
    """A session whose worker says what it is told to say."""

    def __init__(self, *lines):
        self.lines, self.asked = lines, None

    def ask(self, asked):
        self.asked = asked
        yield from self.lines


def test_what_a_worker_says_of_given_tokens_is_read_and_no_number_is_no_look():
    look = {"ends": True, "seconds": 0.1}
    session = Says(
        {"item": "a", "given": [[7, -0.5, 1, None], [8, -0.75, 2, [9, -0.5]]], **look},
        {"item": "b", "given": [[7, None, 1, None]], **look},
        Failure("c", "it is too long", 1),
    )
    questions = {i: Question((1, 7, 8), 1) for i in "abc"}
    found = vllm.WorkerReader(session).look(questions)
    assert isinstance(found["a"], Look)
    assert found["a"].given[1].best == (9, -0.5)
    assert "not numbers" in found["b"].reason
    assert found["c"].reason == "it is too long"
    assert session.asked["a"]["look"] == {"tokens": (1, 7, 8), "first": 1, "best": False}
