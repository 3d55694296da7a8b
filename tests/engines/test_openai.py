"""Servers over HTTP: arms, rules by version, replies of each dialect, counters, waits."""

import asyncio
import json
import math
import random
from pathlib import Path

import pytest

from specsafe.engines import Request, parse_arm
from specsafe.engines.openai_client import Got, Refused, next_wait, retry_after
from specsafe.engines.openai_counters import Counters, read_counters
from specsafe.engines.openai_dialects import DIALECTS, ImpossibleCounts, ReplyError
from specsafe.engines.openai_reply import Unanswerable, read_reply, request_body
from specsafe.engines.openai_rules import ERAS, LOSSLESS, require_producible
from specsafe.engines.openai_server import look_at
from specsafe.errors import UserError

LOCAL = "http://127.0.0.1:8000/v1"


def arm(text="", url=LOCAL):
    return parse_arm(f"kind=openai,url={url}" + (f",{text}" if text else ""))


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


# --- a real server ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def vllm():
    """What vLLM 0.32.0 on a CPU answered, cut to the fields that are read: a draft model, detailed metrics."""
    path = Path(__file__).parents[1] / "servers" / "vllm_0_32.json"
    return json.loads(path.read_text(encoding="utf-8"))


def test_a_reply_of_a_real_vllm_is_read_whole(vllm):
    sample, told = read(vllm["reply"])
    assert sample.token_ids == (19556, 665, 28, 10668, 288, 957)
    assert (sample.text, sample.finish, sample.prompt_tokens) == ("Hello there, welcome to my", "length", 33)
    assert None not in sample.logprobs
    assert all(len(row) == 2 for row in sample.top)
    assert (told.drafted, told.accepted, told.rounds, told.limit) == (20, 0, 5, 4)
    assert sample.accepted_at == (0, 0, 0, 0)


def test_counters_of_a_real_vllm_agree_with_what_its_request_told(vllm):
    read_ = read_counters("\n".join(vllm["metrics"]) + "\n", "vllm", "smol")
    sample = read(vllm["reply"]).sample
    assert read_ == Counters(sample.rounds, sample.drafted, sample.accepted)


def test_a_real_vllm_in_development_mode_names_its_rule(vllm):
    class Told:
        """A client that answers with what was recorded."""

        async def look(self, path, *, api=False):
            pages = {
                "/models": "models",
                "/version": "version",
                "/server_info?config_format=json": "server_info",
            }
            return Got(200, json.dumps(vllm[pages[path]]).encode())

        async def post(self, path, body, *, api=True):
            raise Refused("no tokens")

    server = asyncio.run(look_at(Told(), arm()))
    assert (server.dialect, server.version, server.model, server.rule) == (
        "vllm",
        "0.32.0",
        "smol",
        "standard",
    )
    assert server.told["num_speculative_tokens"] == 4
    assert server.told["draft"] == "/models/draft"
    assert server.told["dtype"] == "torch.bfloat16"
