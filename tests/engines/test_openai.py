"""Servers over HTTP: arms, replies of each dialect, faults that pass and faults that do not, counters, keys."""

import json
import math
import random
import resource
import sys
import threading
import time
from pathlib import Path

import pytest

from specsafe.engines import Failure, Request, Sample, openai, parse_arm
from specsafe.engines.openai_client import next_wait, retry_after
from specsafe.engines.openai_counters import Counters, read_counters
from specsafe.engines.openai_dialects import DIALECTS, ImpossibleCounts, ReplyError
from specsafe.engines.openai_reply import Unanswerable, read_reply, request_body
from specsafe.engines.openai_rules import ERAS, LOSSLESS, require_producible
from specsafe.errors import UserError

sys.path.insert(0, str(Path(__file__).parents[1] / "servers"))
from planted import EVER, Plan, planted, token

LOCAL = "http://127.0.0.1:8000/v1"


def arm(text="", url=LOCAL):
    return parse_arm(f"kind=openai,url={url}" + (f",{text}" if text else ""))


def ask(server, prompts, text=""):
    """Item (its prompt) -> sample or failure."""
    session = openai.open_session(arm(text, server.url))
    try:
        return {a.item: a for a in session.generate([Request(p, p) for p in prompts])}
    finally:
        session.close()


# --- arms -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("kind=openai,url=ftp://host/v1", "begins with http"),
        ("kind=openai,url=http://key@127.0.0.1/v1", "key_env"),
        ("kind=openai,url=http://127.0.0.1/v1?api_key=x", "key_env"),
        ("kind=openai,url=http://127.0.0.1:99999/v1", "no address"),
        ("kind=openai,url=http://example.org/v1", "in the clear"),
        ("kind=openai,url=http://127.0.0.1.example.org/v1", "in the clear"),
        ("kind=openai", "url"),
        (f"kind=openai,url={LOCAL},rule=magic", "unknown rule"),
        (f"kind=openai,url={LOCAL},dialect=mine", "dialect"),
        (f'kind=openai,url={LOCAL},stop="[1]"', "JSON list"),
        (f"kind=openai,url={LOCAL},key_env=sk-123", "key_env"),
        (f"kind=openai,url={LOCAL},api_key=x", "unknown key"),
    ],
)
def test_an_arm_that_could_not_be_trusted_is_refused(text, told):
    with pytest.raises(UserError, match=told):
        parse_arm(text)


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:1/v1", "http://localhost/v1", "http://[::1]:8000/v1", "https://example.org/v1"]
)
def test_loopback_and_https_are_fine(url):
    assert arm(url=url).url == url
    assert parse_arm("kind=openai,url=http://example.org/v1,insecure=true").insecure


def test_a_speculative_server_takes_over_from_the_target_and_needs_no_draft_named():
    fast = parse_arm("url=http://127.0.0.1:9/v1", arm("max_tokens=9,concurrency=3"))
    assert (fast.max_tokens, fast.concurrency, fast.speculative) == (9, 3, False)
    assert fast.as_speculative().draft == "served"
    assert parse_arm("url=http://127.0.0.1:9/v1,rule=typical", arm()).as_speculative().lossless is False
    assert parse_arm("num_speculative_tokens=4", arm()).speculative


def test_rules_are_refused_by_the_version_that_cannot_produce_them():
    assert {r for eras in ERAS.values() for e in eras for r in e.rules} <= set(LOSSLESS)
    for dialect, version, fine, refused in (
        ("vllm", "0.9.1", "typical", "strict"),
        ("vllm", "0.12.0", "rejection", "typical"),
        ("vllm", "0.19.1", "probabilistic", "typical"),
        ("vllm", "0.32.0", "block", "strict"),
        ("llamacpp", "b1-abc", "agreement", "typical"),
    ):
        require_producible(fine, dialect, version, 0.5)
        with pytest.raises(UserError, match="cannot produce"):
            require_producible(refused, dialect, version, 0.5)
    require_producible("greedy", "vllm", "0.32.0", 0.0)
    require_producible("typical", "vllm", "", 0.0)  # a version that nobody knows refuses nothing
    require_producible("typical", "plain", "1", 0.0)


# --- replies ----------------------------------------------------------------------------------------------


def read(reply, dialect="vllm", text="draft=served", letters=None):
    made = arm(f"{text},dialect={dialect}" if text else f"dialect={dialect}")
    return read_reply(made, Request("i", "p"), reply, letters or {}, 1.5)


def chat(content="yes", finish="stop", **choice):
    return {"choices": [{"message": {"content": content}, "finish_reason": finish, **choice}]}


def test_what_vllm_tells_becomes_a_sample():
    rows = [
        {"token": "token_id:7", "logprob": -0.5, "top_logprobs": [{"token": "token_id:7", "logprob": -0.5}]},
        {"token": "token_id:2", "logprob": 0.0, "top_logprobs": [{"token": "token_id:2", "logprob": 0.0}]},
    ]
    told = {
        "num_draft_tokens": 12,
        "num_accepted_draft_tokens": 5,
        "num_spec_steps": 4,
        "num_spec_tokens": 3,
        "acceptance_histogram": [1, 2, 0, 1],
    }
    reply = chat(token_ids=[7, 2], logprobs={"content": rows}) | {
        "metrics": {"speculative_decoding": told},
        "usage": {"prompt_tokens": 11},
    }
    sample = read(reply, letters={7: "B"}).sample
    assert (sample.drafted, sample.accepted, sample.rounds, sample.accepted_at) == (12, 5, 4, (3, 1, 1))
    assert sample.logprobs == (-0.5, None)  # exactly 0.0 from a speculative arm is a token that nobody scored
    assert sample.top == (((7, -0.5),), ())
    assert (sample.letters, sample.prompt_tokens, sample.seconds) == ((("B", -0.5),), 11, 1.5)
    assert read(reply, text="").sample.logprobs == (-0.5, 0.0)


def test_raw_completions_in_the_older_form_are_read_too():
    logprobs = {
        "tokens": ["token_id:7"],
        "token_logprobs": [-0.5],
        "top_logprobs": [{"token_id:7": -0.5, "token_id:9": -1.5}],
    }
    reply = {"choices": [{"text": " yes", "finish_reason": "length", "logprobs": logprobs, "token_ids": [7]}]}
    sample = read(reply).sample
    assert (sample.text, sample.finish, sample.top) == (" yes", "length", (((7, -0.5), (9, -1.5)),))


def test_what_sglang_tells_becomes_a_sample():
    meta = {
        "spec_verify_ct": 3,
        "spec_draft_token_num": 9,
        "spec_accept_token_num": 4,
        "output_token_logprobs": [[-0.1, 5, None], [-0.2, 6, None]],
    }
    sample = read(chat(meta_info=meta), "sglang").sample
    assert (sample.token_ids, sample.drafted, sample.accepted, sample.rounds) == ((5, 6), 9, 4, 3)


def test_a_plain_server_tells_only_text():
    row = {"token": " A", "logprob": -0.3, "top_logprobs": [{"token": " A", "logprob": -0.3}]}
    sample = read(chat(logprobs={"content": [row]}), "plain", "").sample
    assert (sample.token_ids, sample.logprobs, sample.drafted) == (None, None, None)
    assert sample.letters == (("A", -0.3),)


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        ({}, ReplyError),
        ({"choices": []}, ReplyError),
        ({"choices": [1]}, ReplyError),
        (chat(content=7), ReplyError),
        (chat(finish=None), ReplyError),
        (chat(finish="content_filter"), Unanswerable),
        (chat(token_ids=["a"]), ReplyError),
        (chat(token_ids=[-1]), ReplyError),
        (chat(token_ids=[True]), ReplyError),
        (chat(logprobs={"content": [{"token": "a", "logprob": 3.0}]}), ReplyError),
        (chat(logprobs={"content": [{"logprob": -3.0}]}), ReplyError),
        (chat(logprobs={"tokens": ["a"], "token_logprobs": []}), ReplyError),
        (chat() | {"metrics": {"speculative_decoding": {"num_draft_tokens": -1}}}, ImpossibleCounts),
        (chat() | {"metrics": {"speculative_decoding": {"num_draft_tokens": 1.5}}}, ImpossibleCounts),
        (
            chat()
            | {"metrics": {"speculative_decoding": {"num_draft_tokens": 2, "num_accepted_draft_tokens": 3}}},
            ImpossibleCounts,
        ),
        (
            chat()
            | {
                "metrics": {
                    "speculative_decoding": {
                        "num_draft_tokens": 9,
                        "num_spec_steps": 2,
                        "num_spec_tokens": 4,
                        "num_accepted_draft_tokens": 3,
                    }
                }
            },
            ImpossibleCounts,
        ),
    ],
)
def test_a_reply_that_cannot_be_is_no_answer(reply, error):
    with pytest.raises(error):
        read(reply)


def test_half_characters_and_empty_answers_are_kept_as_far_as_a_file_can_hold_them():
    assert read(chat(json.loads('"a\\ud800b"'))).sample.text.encode() == "a\ufffdb".encode()
    assert read(chat(json.loads('"\\ud83d\\ude00"'))).sample.text == "\U0001f600"
    assert read(chat(None)).sample.text == ""


def test_every_default_of_the_server_is_overruled_and_the_template_is_the_servers():
    body = request_body(arm("dialect=vllm,prefill=Sure,stop=END"), "m", "hello")
    assert [m["role"] for m in body["messages"]] == ["system", "user", "assistant"]
    assert body["continue_final_message"] is True
    assert {"repetition_penalty": 1.0, "top_p": 1.0, "seed": 0, "stop": ["END"]}.items() <= body.items()
    raw = request_body(arm("dialect=llamacpp,chat_template=off,system=,prefill=Sure"), "m", "hello")
    assert (raw["prompt"], raw["logprobs"], raw["cache_prompt"]) == ("hello Sure", 10, False)
    assert set(DIALECTS) == {"vllm", "llamacpp", "sglang", "plain"}


# --- counters ---------------------------------------------------------------------------------------------


def metrics(drafts=1, drafted=4, accepted=2, prefix="vllm", more=""):
    names = {"num_drafts": drafts, "num_draft_tokens": drafted, "num_accepted_tokens": accepted}
    lines = [
        f'# TYPE {prefix}:spec_decode_{n} counter\n{prefix}:spec_decode_{n}_total{{engine="{e}",model_name="m"}} {v}.0\n'
        f'# TYPE {prefix}:spec_decode_{n}_created gauge\n{prefix}:spec_decode_{n}_created{{engine="{e}",model_name="m"}} 1.7e+09\n'
        for n, v in names.items()
        for e in (0, 1)
    ]
    return "".join(lines) + more


def test_counters_are_summed_over_engines_and_kept_to_the_model():
    assert read_counters(metrics(), "vllm", "m") == Counters(2, 8, 4)
    assert read_counters(metrics(), "vllm", "other") is None
    assert read_counters("# nothing\n", "vllm", "m") is None
    assert read_counters(metrics(), "plain", "m") is None
    per_position = (
        'vllm:spec_decode_num_accepted_tokens_per_pos_total{engine="0",model_name="m",position="0"} 3.0\n'
    )
    assert read_counters(metrics(more=per_position), "vllm", "m") == Counters(2, 8, 4)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (metrics(more="vllm:spec_decode_efficiency 0.5\n"), "does not know"),
        (metrics(more="vllm:spec_decode_draft_acceptance_rate 0.5\n"), "does not know"),
        ("vllm:spec_decode_num_drafts_total 3.0\n", "lack"),
        ("vllm:spec_decode_num_drafts{ nonsense\n", "cannot be read"),
    ],
)
def test_counters_by_other_names_are_an_error_and_never_a_zero(text, told):
    with pytest.raises(UserError, match=told):
        read_counters(text, "vllm", "m")


def test_counters_that_go_backwards_or_cannot_be_are_noticed():
    with pytest.raises(UserError, match="restarted"):
        Counters(1, 2, 1).since(Counters(2, 8, 4))
    with pytest.raises(ImpossibleCounts, match="9 accepted of 6"):
        Counters(3, 8, 10).since(Counters(2, 2, 1))
    with pytest.raises(ImpossibleCounts):
        read_counters(metrics(drafted="NaN").replace("NaN.0", "NaN"), "vllm", "m")


# --- waiting ----------------------------------------------------------------------------------------------


def test_retry_after_is_read_as_seconds_or_date():
    now = 1_700_000_000.0
    assert retry_after("3", now) == 3
    assert retry_after("0.5", now) == 0.5
    assert retry_after("Tue, 14 Nov 2023 22:13:30 GMT", now) == pytest.approx(10)
    for nothing in (None, "", "soon", "-5", "nan", "inf", "Tue, 14 Nov 2000 22:13:30 GMT"):
        assert retry_after(nothing, now) == 0


def test_waits_double_are_spread_and_never_shorter_than_asked():
    random_ = random.Random(1)
    waits = [next_wait(n, 0, random_) for n in range(12)]
    assert all(0.25 * 2**n <= w <= 0.5 * 2**n for n, w in enumerate(waits[:6]))
    assert max(next_wait(10**6, 0, random_) for _ in range(50)) <= 30
    assert next_wait(0, 77, random_) == 77
    assert math.isfinite(next_wait(10**9, 0, random_))


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
        started = time.monotonic()
        assert isinstance(ask(server, ["a"], "retries=0")["a"], Sample)
        assert started
