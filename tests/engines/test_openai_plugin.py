"""specsafe's plugin in a planted server: a rule is in force once it was seen to decide, and is a claim until then."""

import sys
from pathlib import Path

import pytest

from specsafe.engines import openai, parse_arm
from specsafe.errors import UserError
from specsafe.report.doctor import checkup_lines
from specsafe.screen.doctor import examine

sys.path.insert(0, str(Path(__file__).parents[1] / "servers"))
from planted import Plan, planted

TYPICAL = "typical:epsilon=0.09,delta=0.3,posterior_temperature=1"


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


def test_a_claim_is_held_against_the_plugin_and_a_lossy_rule_is_not_lossless_for_being_unnamed():
    with pytest.raises(UserError, match="which runs typical"):
        fingerprint(Plan(drafts=3, plugin=TYPICAL), "rule=relaxed")
    assert fingerprint(Plan(drafts=3, plugin=TYPICAL))["lossless"] is False
    told = fingerprint(Plan(drafts=3, plugin="method ssd-crs:control.tau=0.3"), "rule=method")
    assert (told["rule"], told["rule_proved"]) == ("method ssd-crs:control.tau=0.3", True)
    standard = fingerprint(Plan(drafts=3, plugin="standard"))
    assert (standard["rule"], standard["rule_proved"], standard["lossless"]) == ("standard", True, True)


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


@pytest.mark.parametrize("setting", ["typical\x1b[31m", "typical" + "x" * 5000])
def test_what_a_server_calls_its_rule_is_printable_and_short(setting):
    told = fingerprint(Plan(drafts=3, plugin=setting, plugin_idle=True))
    assert told["rule"].isprintable() and len(told["rule"]) <= 200
