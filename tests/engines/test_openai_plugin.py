"""specsafe's plugin in a planted server: a rule is in force once it was seen to decide, and is a claim until then."""

import sys
from pathlib import Path

import pytest

from specsafe.engines import Request, openai, parse_arm
from specsafe.errors import UserError
from specsafe.report.doctor import checkup_lines
from specsafe.screen.doctor import examine
from specsafe.screen.servers import settle_servers

sys.path.insert(0, str(Path(__file__).parents[1] / "servers"))
from planted import Plan, planted

TYPICAL = "typical:epsilon=0.09,delta=0.3,posterior_temperature=1"
RELAXED = "relaxed:top_k=3,delta=0.3,posterior_temperature=1"
CRS = "method ssd-crs:control.tau=0.3"


def fingerprint(plan, text="draft=served"):
    with planted(plan) as server:
        session = openai.open_session(parse_arm(f"kind=openai,url={server.url},{text}"))
        try:
            return session.fingerprint()
        finally:
            session.close()


def test_a_rule_of_the_plugin_is_proved_by_what_its_sampler_decided():
    told = fingerprint(Plan(drafts=3, plugin=TYPICAL), "rule=typical")
    assert (told["rule"], told["rule_proved"], told["lossless"]) == (TYPICAL, True, False)
    assert "decided a first request's draft tokens by it" in told["rule_proof"]
    assert told["plugin"] == "specsafe 0.1.0"


def test_a_plugin_that_decides_nothing_names_a_rule_and_proves_none():
    told = fingerprint(Plan(drafts=3, plugin=TYPICAL, plugin_idle=True))
    assert (told["rule"], told["rule_proved"]) == (TYPICAL, False)
    assert "rule_proof" not in told


def test_what_is_not_asked_for_is_held_against_the_plugin_and_lossy_though_unnamed():
    for claim in ("rule=method", "rule=strict"):
        with pytest.raises(UserError, match="which runs typical"):
            fingerprint(Plan(drafts=3, plugin=TYPICAL), claim)
    assert fingerprint(Plan(drafts=3, plugin=TYPICAL))["lossless"] is False
    told = fingerprint(Plan(drafts=3, plugin="method ssd-crs:control.tau=0.3"), "rule=method")
    assert (told["rule"], told["rule_proved"]) == ("method ssd-crs:control.tau=0.3", True)
    assert "rule_asked" not in told
    standard = fingerprint(Plan(drafts=3, plugin="standard"))
    assert (standard["rule"], standard["rule_proved"], standard["lossless"]) == ("standard", True, True)


# --- a rule a request -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "field", "sent", "setting", "lossless"),
    [
        ("rule=typical,epsilon=0.2", "rule", "typical:epsilon=0.2", TYPICAL.replace("0.09", "0.2"), False),
        ('rule="relaxed:top_k=3,delta=0.3"', "rule", "relaxed:top_k=3,delta=0.3", RELAXED, False),
        ("rule=leak,leak=0.5", "rule", "leak:rate=0.5", "leak:rate=0.5", False),
        ("rule=block", "rule", "block", "block", True),
        ("rule=greedy", "rule", "greedy", "greedy", True),
        ("rule=standard", "rule", "standard", "standard", True),
        ("method=ssd-crs:control.tau=0.3", "method", "ssd-crs:control.tau=0.3", CRS, False),
        ("method=vanilla", "method", "vanilla", "method vanilla", True),
    ],
)
def test_what_an_arm_names_is_asked_for_in_each_request_and_proved(text, field, sent, setting, lossless):
    with planted(Plan(drafts=3, plugin="typical:epsilon=0.5,delta=1,posterior_temperature=1")) as server:
        session = openai.open_session(parse_arm(f"kind=openai,url={server.url},{text}"))
        try:
            list(session.generate([Request(str(n), f"Question {n}?") for n in range(5)]))
            told = session.fingerprint()
        finally:
            session.close()
        asked = [body["vllm_xargs"] for body in server.seen]
    assert asked == [{f"specsafe_{field}": sent}] * 6
    assert server.decided == {setting: 36}
    assert (told["rule"], told["rule_proved"], told["lossless"]) == (setting, True, lossless)
    assert told["rule_proof"].endswith(": 6 counted at /specsafe; each request asks for it")
    assert told["rule_asked"] == f"specsafe_{field}={sent}"
    assert told["rule_of_the_server"].startswith("typical:epsilon=0.5")


def test_nothing_is_asked_for_where_an_arm_names_nothing_or_the_server_has_no_plugin():
    for plan, text in ((Plan(drafts=3, plugin=TYPICAL), "draft=served"), (Plan(drafts=3), "rule=block")):
        with planted(plan) as server:
            openai.open_session(parse_arm(f"kind=openai,url={server.url},{text}")).close()
            assert not [b for b in server.seen if "vllm_xargs" in b]


@pytest.mark.parametrize(
    ("plan", "text", "said"),
    [
        (Plan(drafts=3), "rule=typical,epsilon=0.2", "nothing at /specsafe shows specsafe's plugin"),
        (Plan(drafts=3), "method=ssd-crs", "nothing at /specsafe shows specsafe's plugin"),
        (Plan(drafts=3), "rule=typical", "with specsafe's plugin in it, it would know this one too"),
        (Plan(drafts=3, dialect="llamacpp"), "rule=leak,leak=0.5", "it is no vLLM (llamacpp)"),
        (Plan(drafts=3, dialect="llamacpp"), "method=ssd-crs,dialect=llamacpp", "it is no vLLM (llamacpp)"),
        (Plan(drafts=3, dialect="plain"), "method=ssd-crs,model=planted", "it is no vLLM (plain)"),
        (
            Plan(drafts=3, plugin=TYPICAL, rule="standard"),
            "rule=block,num_speculative_tokens=3",
            "which runs 4",
        ),
        (Plan(drafts=3, plugin=TYPICAL), "rule=relaxed", "rule 'relaxed' needs 'top_k'"),
        (Plan(drafts=3, plugin=RELAXED), "rule=relaxed", "numbers of its own (relaxed:top_k=3"),
        (Plan(drafts=3, plugin=TYPICAL.replace("0.09", "0.2")), "rule=typical", "name the numbers"),
        (Plan(drafts=3, plugin="standard", plugin_idle=True), "rule=block", "decided no draft token of two"),
        (Plan(drafts=3, plugin="standard", plugin_deaf=True), "rule=block", "decided no draft token of two"),
        (Plan(drafts=0, plugin="standard"), "method=ssd-crs", "decided no draft token of two first requests"),
    ],
)
def test_what_cannot_be_proved_or_could_mean_two_things_is_refused_in_one_line(plan, text, said):
    with pytest.raises(UserError) as error:
        fingerprint(plan, text)
    assert said in f"{error.value} ({error.value.hint})"
    assert "\n" not in f"{error.value}{error.value.hint}"


def test_a_rule_that_the_server_refuses_is_told_in_its_own_words():
    """As where a method needs a tokenizer that the server cannot read, or logits that its drafter has not."""
    with (
        planted(Plan(drafts=3, plugin="standard", refuses="methods cannot be had with this model")) as server,
        pytest.raises(UserError, match="specsafe: methods cannot be had with this model") as error,
    ):
        openai.open_session(parse_arm(f"kind=openai,url={server.url},method=ssd-crs"))
    assert "rule= or method=" in error.value.hint


@pytest.mark.parametrize(
    ("plan", "why"),
    [
        (Plan(drafts=3), "has not specsafe's plugin (nothing at /specsafe)"),
        (Plan(drafts=3, dialect="llamacpp"), "is no vLLM (llamacpp)"),
        (Plan(drafts=3, plugin="standard", plugin_idle=True), "decided no draft token of a first request"),
        (Plan(drafts=3, plugin="standard", drafter="ngram"), "a prompt lookup drafts too little"),
        (Plan(drafts=3, plugin="standard"), ""),
        (Plan(drafts=3, plugin=TYPICAL), ""),
    ],
)
def test_which_server_can_be_made_to_leak_and_why_another_cannot(plan, why):
    with planted(plan) as server:
        fast = parse_arm(f"kind=openai,url={server.url},draft=served")
        settled = settle_servers({"speculative": fast, "leak": fast.leak_arm(0.5)})
    assert why in settled["absent"].get("leak", "")
    assert bool(why) == ("leak" in settled["absent"])
    assert not [body for body in server.seen if "vllm_xargs" in body]


def test_without_a_plugin_nothing_is_claimed_of_one():
    told = fingerprint(Plan(drafts=3))
    assert "plugin" not in told and not told["rule_proved"]
    with pytest.raises(UserError, match="cannot produce"):
        fingerprint(Plan(drafts=3), "rule=relaxed")


def test_the_check_up_says_which_rule_is_in_force_and_how_it_is_known():
    for plan, said in (
        (
            Plan(drafts=3, plugin=TYPICAL),
            f"{TYPICAL} (in force, proved by specsafe 0.1.0 in the server's worker",
        ),
        (Plan(drafts=3, plugin=TYPICAL, plugin_idle=True), "nothing was decided by it yet"),
        (Plan(drafts=3), "as claimed; the server does not say"),
    ):
        with planted(plan) as server:
            lines = checkup_lines(examine(parse_arm(f"kind=openai,url={server.url}")))
        assert said in " ".join(lines.split())
        assert ("lacks specsafe's plugin: no rule a request" in " ".join(lines.split())) == (not plan.plugin)


@pytest.mark.parametrize("setting", ["typical\x1b[31m", "typical" + "x" * 5000])
def test_what_a_server_calls_its_rule_is_printable_and_short(setting):
    told = fingerprint(Plan(drafts=3, plugin=setting, plugin_idle=True))
    assert told["rule"].isprintable() and len(told["rule"]) <= 200
