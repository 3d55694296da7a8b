"""A planted server and the session that asks it: faults that pass and that stay, counts of drafting, keys."""

import resource
import sys
import threading
from pathlib import Path

import pytest

from specsafe.engines import Failure, Request, Sample, openai, parse_arm
from specsafe.errors import UserError

sys.path.insert(0, str(Path(__file__).parents[1] / "servers"))
from planted import EVER, Plan, planted, token


def arm(text, url):
    return parse_arm(f"kind=openai,url={url}" + (f",{text}" if text else ""))


def ask(server, prompts, text=""):
    """Item (its prompt) -> sample or failure."""
    session = openai.open_session(arm(text, server.url))
    try:
        return {a.item: a for a in session.generate([Request(p, p) for p in prompts])}
    finally:
        session.close()


# --- faults -----------------------------------------------------------------------------------------------


def test_faults_that_pass_cost_attempts_and_no_answer():
    faults = {k: (k, 1) for k in ("busy", "broken", "half", "reset", "garbage", "deep", "other", "huge")}
    with planted(Plan(otherwise="fine then", faults=faults)) as server:
        got = ask(server, [*faults, "undisturbed"])
    assert {type(a) for a in got.values()} == {Sample}
    assert {a.text for a in got.values()} == {"fine then"}
    assert got["undisturbed"].failed_attempts == ()
    assert all(len(got[k].failed_attempts) == 1 for k in faults)
    assert got["busy"].failed_attempts[0] == "429 slow down"
    assert "longer than" in got["huge"].failed_attempts[0]


def test_faults_that_stay_are_failures_with_their_reason_and_the_others_are_answered():
    faults = {k: (k, EVER) for k in ("broken", "refused", "filtered", "busy long")}
    with planted(Plan(faults=faults)) as server:
        got = ask(server, [*faults, "undisturbed"], "retries=1")
    assert isinstance(got["undisturbed"], Sample)
    assert all(isinstance(got[k], Failure) for k in faults)
    assert (got["broken"].tries, got["refused"].tries, got["busy long"].tries) == (2, 1, 1)
    assert "too long" in got["refused"].reason
    assert "content_filter" in got["filtered"].reason
    assert "86400" in got["busy long"].reason


def test_a_server_that_drips_does_not_escape_the_deadline():
    with planted(Plan(faults={"drip": ("drip", EVER)})) as server:
        got = ask(server, ["drip"], "retries=0,timeout=0.4")
    assert "0.4 s" in got["drip"].reason


def test_a_server_that_is_gone_ends_the_run_and_costs_no_item():
    with planted(Plan(slow=0.05)) as server:
        session = openai.open_session(arm("retries=1,concurrency=2", server.url))
        answers, run = [], session.generate([Request(str(n), str(n)) for n in range(40)])
        try:
            answers.append(next(run))
            server.shutdown()
            server.server_close()
            server.plan.every = ("reset", EVER)  # what is connected still
            with pytest.raises(UserError, match="does not answer"):
                answers.extend(run)
        finally:
            session.close()
    assert all(isinstance(a, Sample) for a in answers)


def test_a_server_that_breaks_on_everything_costs_no_item_either():
    with planted(Plan()) as server:
        session = openai.open_session(arm("retries=0", server.url))
        server.plan.every = ("broken", EVER)
        with pytest.raises(UserError, match="does not answer"):
            list(session.generate([Request("a", "a")]))
        session.close()


@pytest.mark.parametrize("fault", ["redirect"])
def test_redirects_are_refused(fault):
    with planted(Plan(every=(fault, EVER))) as server, pytest.raises(UserError, match="redirects"):
        openai.open_session(arm("", server.url))


def test_nothing_listens_there():
    with planted(Plan()) as server:
        url = server.url
    with pytest.raises(UserError, match="does not answer"):
        openai.open_session(arm("retries=0", url))


def test_close_ends_a_run_that_waits():
    with planted(Plan(slow=30)) as server:
        server.plan.slow = 0
        session = openai.open_session(arm("", server.url))
        server.plan.slow = 5
        closing = threading.Timer(0.2, session.close)
        closing.start()
        assert list(session.generate([Request("a", "a")])) == []
        session.close()


def in_flight(count):
    """So many requests at once, as the server saw it; every one is answered."""
    with planted(Plan(otherwise="word " * 32)) as server:
        session = openai.open_session(arm(f"concurrency={count}", server.url))
        server.plan.slow = 1.0 + count / 100
        answers = list(session.generate([Request(str(n), str(n)) for n in range(count + count // 5)]))
        session.close()
    assert len(answers) == count + count // 5
    assert all(isinstance(a, Sample) for a in answers)
    return server.most


def test_as_many_requests_are_in_flight_as_were_asked_for():
    assert 40 < in_flight(50) <= 50


@pytest.mark.slow
def test_a_thousand_requests_in_flight_take_bounded_memory():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert 900 < in_flight(1000) <= 1000
    # kilobytes, the thousand threads of the planted server included
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 400_000


# --- what is told of drafting -----------------------------------------------------------------------------


@pytest.mark.parametrize("dialect", ["vllm", "llamacpp"])
def test_counts_come_from_requests_or_from_counters_one_request_at_a_time(dialect):
    with planted(Plan(drafts=3, dialect=dialect)) as server:
        by_request = ask(server, ["a", "b"], "draft=served")
    with planted(Plan(drafts=3, dialect="vllm", tells="counters")) as server:
        by_counters = ask(server, ["a", "b"], "draft=served,concurrency=1")
        together = ask(server, ["a", "b"], "draft=served,concurrency=2")
    for got in (by_request, by_counters):
        assert {(a.drafted, a.accepted) for a in got.values()} == {(6, 3)}
    assert {a.drafted for a in together.values()} == {None}


def test_what_a_lost_attempt_drafted_is_not_laid_to_the_answer():
    with planted(Plan(drafts=3, tells="counters", faults={"a": ("broken", 1)})) as server:
        got = ask(server, ["a", "b"], "draft=served,concurrency=1")
    assert (got["a"].drafted, got["b"].drafted) == (None, 6)


def test_counters_that_reset_during_a_run_end_it():
    plan = Plan(drafts=3, tells="counters", counters_reset_after=4)
    with planted(plan) as server, pytest.raises(UserError, match="restarted"):
        ask(server, ["a", "b", "c", "d"], "draft=served,concurrency=1")


def test_impossible_counts_are_an_error_and_not_a_number():
    with planted(Plan(drafts=3, accepted_too_many=True)) as server:
        with pytest.raises(UserError, match="7 accepted of 6 drafted"):
            ask(server, ["a"], "draft=served")
        assert ask(server, ["a"], "draft=served,telemetry=none")["a"].drafted is None


def test_a_target_that_drafts_and_claims_that_do_not_hold_are_refused():
    with planted(Plan(drafts=3)) as server:
        with pytest.raises(UserError, match="drafts"):
            ask(server, ["a"])
        with pytest.raises(UserError, match="4 a round"):
            ask(server, ["a"], "num_speculative_tokens=5")
        with pytest.raises(UserError, match="cannot produce"):
            ask(server, ["a"], "rule=typical")
    with planted(Plan(drafts=3, rule="block")) as server:
        with pytest.raises(UserError, match="runs block"):
            ask(server, ["a"], "rule=standard")
        session = openai.open_session(arm("draft=served", server.url))
        assert (session.fingerprint()["rule"], session.fingerprint()["rule_proved"]) == ("block", True)
        session.close()


def test_a_model_that_is_not_served_is_named_with_those_that_are():
    with planted(Plan()) as server, pytest.raises(UserError, match="planted"):
        openai.open_session(arm("model=mine", server.url))


def test_servers_are_told_apart_and_letters_come_from_tokens():
    for dialect in ("vllm", "llamacpp", "plain"):
        with planted(Plan(dialect=dialect, otherwise="B it is")) as server:
            session = openai.open_session(arm("", server.url))
            (sample,) = session.generate([Request("a", "a")])
            assert session.server.dialect == dialect
            assert session.tells.token_ids == (dialect != "plain")
            assert sample.letters == (("B", -0.1),)
            assert sample.token_ids in (None, (token("B"), token("it"), token("is"), 0))
            session.close()


# --- keys -------------------------------------------------------------------------------------------------

KEY = "sk-canary-0123456789"


def test_a_key_comes_from_the_environment_and_reaches_no_error(monkeypatch):
    with planted(Plan(key=KEY)) as server:
        monkeypatch.setenv("MY_KEY", KEY)
        assert isinstance(ask(server, ["a"], "key_env=MY_KEY")["a"], Sample)
        with pytest.raises(UserError, match="does not let us in"):
            ask(server, ["a"])
        server.plan.key = "another"
        with pytest.raises(UserError) as refused:
            ask(server, ["a"], "key_env=MY_KEY")
        assert KEY not in str(refused.value)
        monkeypatch.delenv("MY_KEY")
        with pytest.raises(UserError, match="not set"):
            ask(server, ["a"], "key_env=MY_KEY")


def test_a_server_that_says_our_key_does_not_bring_it_into_an_answer(monkeypatch):
    monkeypatch.setenv("MY_KEY", KEY)
    with planted(Plan(key=KEY, otherwise=f"your key is {KEY}")) as server:
        assert ask(server, ["a"], "key_env=MY_KEY")["a"].text == "your key is [key]"


def test_a_proxy_of_the_environment_is_not_used_on_this_machine(monkeypatch):
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with planted(Plan()) as server:
        assert isinstance(ask(server, ["a"], "retries=0")["a"], Sample)
