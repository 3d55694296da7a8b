"""Room: plugin. What a vLLM does at its start with a setting of ours: right ones run, wrong ones do not start."""

from __future__ import annotations

import pytest
from running import MODELS, ask, started, stopped

from specsafe.models.tokenizer import load_tokenizer
from specsafe.plugin.setting import setting

pytestmark = pytest.mark.vllm
NGRAM = {"method": "ngram", "num_speculative_tokens": 4, "prompt_lookup_max": 4, "prompt_lookup_min": 2}

SILENT = {"per_request_spec_decode_metrics": "none"}  # of a server that drafts nothing there are none


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"additional_config": {"specsafe_rule": "typicl"}}, "unknown acceptance rule"),
        ({"additional_config": {"specsafe_rul": "typical"}}, "unknown field"),
        ({"additional_config": {"specsafe_rule": "leak:rate=2"}}, "between 0 and 1"),
        ({"additional_config": {"specsafe_rule": "typical"}, "worker_cls": "auto"}, "--worker-cls"),
        ({"additional_config": {"specsafe_method": "ssd"}, "speculative_config": NGRAM}, "no distributions"),
        (
            {"additional_config": {"specsafe_rule": "typical"}, "speculative_config": None, **SILENT},
            "drafts nothing",
        ),
    ],
)
def test_a_wrong_setting_does_not_start(changes, said):
    with pytest.raises(Exception, match=said):
        started(**changes)


def test_n_grams_have_rules_and_no_methods():
    """Prompt look-up has no distributions: rules judge its tokens, methods are refused a request."""
    llm = started(
        speculative_config=NGRAM, additional_config={"specsafe_rule": "typical:epsilon=0.03,delta=0.1"}
    )
    try:
        (report,) = llm.collective_rpc("specsafe_report")
        assert report["setting"] == setting("rule", "typical:epsilon=0.03,delta=0.1").text
        tokenizer = load_tokenizer(MODELS / "target")
        prompts = [tokenizer.chat(f"Say it again: {'red green blue ' * 6}{end}") for end in ("red", "blue")]
        answers = ask(llm, prompts)
        (report,) = llm.collective_rpc("specsafe_report")
        decided = report["decided"][report["setting"]]
        assert decided["drafted"] == sum(a.drafted for a in answers) > 0
        everything = ask(llm, prompts, {"specsafe_rule": "leak:rate=1"}, ignore_eos=True)
        assert sum(a.accepted for a in everything) == sum(a.drafted for a in everything) > 0
        from vllm.exceptions import VLLMValidationError

        with pytest.raises(VLLMValidationError, match="no distributions"):
            ask(llm, prompts, {"specsafe_method": "ssd-crs"})
    finally:
        stopped(llm)
