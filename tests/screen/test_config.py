"""Arms of a screen: what follows from the target, and pairs that have no match."""

import pytest

from specsafe.engines import parse_arm
from specsafe.errors import UserError
from specsafe.screen.config import build_config, make_config


def config(speculative, target="kind=llamacpp"):
    base = parse_arm(target)
    return build_config(base, parse_arm(speculative, base))


def test_width_and_speculative_arm_share_everything_but_the_draft():
    made = config("draft=layers:0-20,n_max=5,p_min=0.7")
    assert made.width.draft == "self"
    assert made.width.model_dump() | {"draft": "x"} == made.speculative.model_dump() | {"draft": "x"}


def test_replicate_is_the_target_and_controls_follow():
    made = config("draft=layers:0-20")
    assert made.replicate == made.target
    assert made.prefill.prefill
    assert (made.leak.rule, made.leak.lossless) == ("synthetic", False)


def test_no_leak_control_where_the_rule_is_lossy_already_or_no_model_drafts():
    assert config("draft=layers:0-20,rule=synthetic,leak=0.1").leak is None
    assert config("draft=ngram-cache").leak is None


SERVER = "kind=openai,url=http://127.0.0.1:1/v1"


def served(fast, target=SERVER, width=""):
    options = {"battery": "starter", "margin": 0.03, "alpha": 0.05, "share": 0.5, "quick": False}
    return make_config(target, f"url=http://127.0.0.1:2/v1{fast}", "", width, **options)


@pytest.mark.parametrize(
    ("fast", "target", "leaks"),
    [
        ("", SERVER, True),
        (",rule=block", SERVER, True),
        (",method=vanilla", SERVER, True),
        (",rule=typical,epsilon=0.2", SERVER, False),
        (",method=ssd-crs", SERVER, False),
        ("", f"{SERVER},temperature=0.7", False),
        ("", f"{SERVER},dialect=llamacpp", False),
    ],
)
def test_a_server_that_may_have_the_plugin_is_to_leak_where_its_rule_claims_to_change_nothing(
    fast, target, leaks
):
    made = served(fast, target)
    assert (made.leak is not None) == leaks
    if made.leak:
        changed = {"rule": "leak:rate=0.5", "method": ""}
        assert made.leak == made.speculative.model_copy(update=changed)


def test_what_a_speculative_server_is_asked_for_is_not_asked_of_the_width_server():
    made = served(",method=ssd-crs,draft=mine", width="url=http://127.0.0.1:3/v1")
    assert (made.width.rule, made.width.method, made.width.draft) == ("auto", "", "mine")
    assert served("", width="url=http://127.0.0.1:3/v1,rule=block").width.rule == "block"


@pytest.mark.parametrize(
    "difference", ["temperature=0.7", "max_tokens=8", 'system="Be kind."', "threads=3", "model=other.gguf"]
)
def test_an_arm_without_a_match_is_refused(difference):
    with pytest.raises(UserError, match="no matched target arm"):
        config(f"draft=self,{difference}")


def test_a_target_with_a_draft_and_a_speculative_arm_without_one_are_refused():
    with pytest.raises(UserError, match="has a draft"):
        config("draft=self", "draft=self")
    with pytest.raises(UserError, match="no draft"):
        config("draft=none")


def test_mixed_engines_are_refused():
    with pytest.raises(UserError, match="one stack"):
        config("kind=recorded,path=a.jsonl")


def test_the_rerun_is_nobody_elses_replicate():
    from specsafe.battery import load_battery
    from specsafe.screen.plan import rerun_job
    from specsafe.study.run import Job

    arm, items = parse_arm("draft=self"), load_battery("starter").items[:2]
    jobs = [Job("speculative", arm, "same", 0, items), Job("width", arm, "same", 1, items)]
    assert rerun_job(jobs, items).replicate == 2


def templated(target, flag):
    return make_config(
        target, "", battery="starter", margin=0.03, alpha=0.05, share=0.5, quick=False, chat_template=flag
    )


@pytest.mark.parametrize(
    ("target", "flag"), [("kind=llamacpp", "off"), ("", "off"), ("chat_template=off", "")]
)
def test_a_raw_completion_has_no_system_prompt_in_any_arm(target, flag):
    config = templated(target, flag)
    for arm in (config.target, config.speculative, config.width, config.prefill, config.leak):
        assert (arm.chat_template, arm.system) == ("off", "")


@pytest.mark.parametrize(
    ("target", "flag", "said"),
    [
        ("kind=llamacpp", "off,temperature=1", "must be on or off"),
        ("chat_template=on", "off", "the flag says off"),
        ('system="Be kind."', "off", "no place for a system prompt"),
        ("kind=recorded,path=a.jsonl", "off", "recorded"),
    ],
)
def test_a_template_flag_that_cannot_be_meant_is_refused(target, flag, said):
    with pytest.raises(UserError, match=said):
        templated(target, flag)
