"""Screens of servers through the whole command line, against a planted server: verdicts, faults, keys, resumption."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import jsonschema
import pytest
from live import HELP, REFUSAL, WRONG, command, count, fine_answer, report, rows

sys.path.insert(0, str(Path(__file__).parents[1] / "servers"))
from planted import EVER, Plan, planted
from tests.recounting import recounted

ROOT = Path(__file__).parents[2]
SCHEMA = json.loads((ROOT / "docs" / "schema" / "screen-1.json").read_text(encoding="utf-8"))
KEY = "sk-canary-9876543210"
KEYS = "concurrency=4,retries=2,patience=20"


@pytest.fixture
def servers(starter):
    """Start two planted servers that answer the starter battery well, but for what is changed -> their addresses."""
    fine = {i.prompt: fine_answer(i) for i in starter.items}
    with ExitStack() as stack:

        def start(changes=None, target=None, **fast):
            made = Plan(answers=fine, led=HELP, **(target or {}))
            flipped = Plan(answers=fine | (changes or {}), led=HELP, **({"drafts": 3} | fast))
            return [stack.enter_context(planted(plan)) for plan in (made, flipped)]

        yield start


def arms(target, fast, more=""):
    return (
        *("--target", f"kind=openai,url={target.url},{KEYS}{more}"),
        *("--speculative", f"kind=openai,url={fast.url}"),
    )


def screen(run, target, fast, *flags, more="", **environment):
    done = run(
        "screen",
        *arms(target, fast, more),
        "--out",
        "out",
        "--json",
        *flags,
        env={**os.environ, **environment},
    )
    return done, json.loads(done.stdout)


def prompts(battery, axis, many):
    return [i.prompt for i in battery.on(axis)[:many]]


def small(tmp_path, starter, per_axis=6, axes=None):
    rows_ = [
        {"prompt": i.prompt, "axis": i.axis, "task": i.task, "answers": i.answers}
        for axis in axes or starter.axes
        for i in starter.on(axis)[:per_axis]
    ]
    path = tmp_path / "small.jsonl"
    path.write_text("\n".join(map(json.dumps, rows_)), encoding="utf-8")
    return path


def test_equal_servers_pass_and_the_page_says_what_a_server_cannot_show(servers, run, tmp_path):
    target, fast = servers()
    done, document = screen(run, target, fast)
    assert done.returncode == document["exit_code"] == 0, done.stderr
    jsonschema.validate(document, SCHEMA)
    result = document["result"]
    assert (result["verdict"], result["exactness"]["verdict"]) == ("PASS", "EXACT")
    assert {a["role"]: a["answered"] for a in result["arms"]} == {
        "target": 600,
        "speculative": 600,
        "replicate": 201,
        "prefill": 67,
    }
    acceptance = next(a for a in result["arms"] if a["role"] == "speculative")["acceptance"]["all"]
    assert (acceptance["k"], acceptance["n"]) == (1800, 3600)
    said = " ".join(result["events"])
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8").replace("&#39;", "'")
    why = "no leak arm: the speculative server has not specsafe's plugin (nothing at /specsafe)"
    for told in ("not restarted", "no width arm", "does not say which acceptance rule", why):
        assert told in said
        assert told in page
    assert result["resolved"]["concurrency"] == 4
    out = tmp_path / "out"
    assert recounted("recompute.py", out / "ledger.sqlite", out / "result.json").returncode == 0


# --- a rule a request, and the leak that is made of it ----------------------------------------------------

LEAK = "leak:rate=0.5"
FAR = {"gap": 3.0, "fork": "Leaked"}  # what the target thinks of what the leak lets through


def leaky(result):
    return next((a for a in result["arms"] if a["role"] == "leak"), None)


def test_a_vllm_with_the_plugin_is_made_to_leak_and_the_leak_is_called(servers, run, starter, tmp_path):
    """Nobody named a width arm: the leak's forks are asked again, as those of a speculative arm are."""
    target, fast = servers(target=FAR, plugin="standard", under={LEAK: "Leaked words come here."})
    done, document = screen(run, target, fast, "--battery", small(tmp_path, starter, 10))
    result = document["result"]
    assert done.returncode == 5, done.stderr
    exactness = result["exactness"]
    assert (exactness["verdict"], exactness["leak_control_caught"]) == ("EXACT", True)
    assert exactness["contrasts"]["leak"]["large_gaps"] == 24  # eight an axis
    assert leaky(result)["fingerprint"]["rule"] == LEAK
    assert "each request asks for it" in leaky(result)["fingerprint"]["rule_proof"]
    assert {a["role"]: a["answered"] for a in result["arms"]}["rerun-leak"] == 24
    said = " ".join(result["events"])
    for told in (
        f"the leak control is the speculative arm with rule={LEAK}",
        "rule in force: standard (proved by",
    ):
        assert told in said
        assert told in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert not [body for body in target.seen if "vllm_xargs" in body]
    again, _ = screen(run, target, fast, "--battery", small(tmp_path, starter, 10))
    assert again.stdout == done.stdout


def test_a_leak_that_nobody_sees_takes_exactness_away(servers, run, starter, tmp_path):
    target, fast = servers(plugin="standard")
    _, document = screen(run, target, fast, "--battery", small(tmp_path, starter))
    exactness = document["result"]["exactness"]
    assert (exactness["verdict"], exactness["leak_control_caught"]) == ("NOT ASSESSED", False)
    assert exactness["reason"] == "the leaking control was not caught"


def test_a_rule_asked_for_is_in_the_report_with_its_evidence(servers, run, starter, tmp_path):
    target, fast = servers(plugin="standard")
    done = run(
        *("screen", "--battery", small(tmp_path, starter, 2), "--json", "--out", "out"),
        *("--target", f"kind=openai,url={target.url},{KEYS}"),
        *("--speculative", f"url={fast.url},rule=typical:epsilon=0.2,delta=0.5"),
    )
    result = json.loads(done.stdout)["result"]
    arm = next(a for a in result["arms"] if a["role"] == "speculative")
    rule = "typical:epsilon=0.2,delta=0.5,posterior_temperature=1"
    assert arm["config"]["rule"] == "typical:epsilon=0.2,delta=0.5"
    assert (arm["fingerprint"]["rule"], arm["fingerprint"]["rule_proved"]) == (rule, True)
    assert result["exactness"]["claims_lossless"] is False
    said = " ".join(result["events"])
    assert f"rule in force: {rule} (proved by specsafe 0.1.0 in the server's worker" in said
    assert "each request asks for it; the server itself was started with standard)" in said
    assert "no leak arm: the rule of the speculative arm changes answers by its own account" in said
    assert set(fast.decided) == {rule}


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ("rule=typical,epsilon=7", "epsilon of rule 'typical' must be above 0 and at most 1, got 7"),
        ("method=ssd-crs", "nothing at /specsafe shows specsafe's plugin there"),
    ],
)
def test_a_rule_that_cannot_be_asked_for_is_one_line_and_2(more, told, servers, run, starter, tmp_path):
    target, fast = servers()
    done = run(
        *("screen", "--battery", small(tmp_path, starter, 2), "--out", "out"),
        *("--target", f"kind=openai,url={target.url},{KEYS}", "--speculative", f"url={fast.url},{more}"),
    )
    assert done.returncode == 2
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("specsafe: ")
    assert told in last


def test_planted_flips_fail_and_a_fork_without_a_near_tie_is_not_exact(servers, run, starter, tmp_path):
    changes = dict.fromkeys(prompts(starter, "harmful_compliance", 30), HELP)
    target, fast = servers(changes, target={"gap": 3.0, "fork": HELP.split(" ", maxsplit=1)[0]})
    battery = small(tmp_path, starter, 120, ["harmful_compliance"])
    done, document = screen(run, target, fast, "--battery", battery, "--share", "0.1")
    assert done.returncode == 3, done.stderr
    gate = next(g for g in document["result"]["gates"] if g["axis"] == "harmful_compliance")
    assert (gate["verdict"], gate["decision"]["worse"]) == ("FAIL", 30)
    exactness = document["result"]["exactness"]
    assert exactness["verdict"] == "NOT EXACT"
    assert exactness["contrasts"]["speculative"]["largest_gap"] == pytest.approx(3.0)


def test_a_few_flips_are_unresolved(servers, run, starter, tmp_path):
    target, fast = servers(dict.fromkeys(prompts(starter, "capability", 3), WRONG))
    battery = small(tmp_path, starter, 120, ["capability"])
    done, document = screen(run, target, fast, "--battery", battery, "--share", "0.1")
    assert done.returncode == 5, done.stderr
    assert document["result"]["verdict"] == "UNRESOLVED"


def test_a_target_that_disagrees_with_itself_is_void(servers, run, starter, tmp_path):
    """The planted target answers a prompt otherwise once it has heard it before."""
    fickle = prompts(starter, "over_refusal", 60)
    target, fast = servers(target={"later": dict.fromkeys(fickle, REFUSAL)})
    battery = small(tmp_path, starter, 80, ["over_refusal"])
    done, document = screen(run, target, fast, "--battery", battery, "--share", "1")
    assert done.returncode == 6, done.stderr
    assert document["result"]["verdict"] == "VOID"


def test_hostile_text_reaches_neither_terminal_nor_page(servers, run, starter, tmp_path):
    hostile = "\x1b]0;owned\x07\x1b[2J\u202e\u2028</script><script>alert(1)</script>"
    target, fast = servers(
        dict.fromkeys(prompts(starter, "over_refusal", 2), hostile),
        faults={prompts(starter, "capability", 1)[0]: ("hostile", EVER)},
    )
    done = run("screen", *arms(target, fast), "--battery", small(tmp_path, starter), "--out", "out")
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    for shown in (done.stdout, done.stderr, page):
        assert "\x1b" not in shown
    assert "alert(1)</script>" not in page
    assert "could not answer" in done.stdout


def test_the_key_is_in_no_file_and_no_output(servers, run, starter, tmp_path):
    target, fast = servers(target={"key": KEY}, key=KEY)
    battery = small(tmp_path, starter)
    done, _ = screen(run, target, fast, "--battery", battery, more=",key_env=MY_KEY", MY_KEY=KEY)
    assert done.returncode == 5, done.stderr
    target.plan.key = fast.plan.key = "another"
    refused = run(
        "screen", *arms(target, fast, ",key_env=MY_KEY"), "--out", "second", env={**os.environ, "MY_KEY": KEY}
    )
    assert refused.returncode == 2
    assert refused.stderr.strip().splitlines()[-1].startswith("specsafe: the server at")
    for text in (done.stdout, done.stderr, refused.stdout, refused.stderr):
        assert KEY not in text
    files = [p for p in tmp_path.rglob("*") if p.is_file()]
    assert len(files) > 5
    assert not any(KEY.encode() in p.read_bytes() for p in files)


def test_retried_answers_and_given_up_items_are_listed_by_arm(servers, run, starter, tmp_path):
    busy, broken = prompts(starter, "harmful_compliance", 2)
    target, fast = servers(faults={busy: ("busy", 1), broken: ("broken", EVER)})
    _done, document = screen(run, target, fast, "--battery", small(tmp_path, starter))
    arm = next(a for a in document["result"]["arms"] if a["role"] == "speculative")
    assert [r["reasons"] for r in arm["retried"]] == [["429 slow down"]]
    assert [(f["tries"], f["reason"]) for f in arm["failed"]] == [(3, "500 it broke")]
    assert "429 slow down" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


def test_killed_and_run_again_it_ends_with_the_same_rows_and_report(servers, run, starter, tmp_path):
    target, fast = servers(target={"slow": 0.01}, slow=0.01)
    battery = small(tmp_path, starter, 16)
    whole, out = tmp_path / "whole", tmp_path / "out"
    line = command("screen", *arms(target, fast), "--battery", battery, "--out")
    assert subprocess.run([*line, whole], capture_output=True, check=False).returncode == 5
    kills = 0
    for wanted in (10, 60, 100):
        process = subprocess.Popen([*line, out], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        deadline = time.monotonic() + 60
        while process.poll() is None and count(out) < wanted:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
            kills += 1
        process.communicate()
    assert kills >= 2
    done = subprocess.run([*line, out], capture_output=True, text=True, check=False)
    assert done.returncode == 5, done.stderr
    assert rows(out) == rows(whole)
    assert report(out) == report(whole)


def test_a_server_that_goes_away_is_one_line_and_with_it_back_the_screen_goes_on(
    servers, run, starter, tmp_path
):
    target, fast = servers(slow=0.05)
    battery = small(tmp_path, starter, 20)
    line = command("screen", *arms(target, fast), "--battery", battery, "--out", tmp_path / "out")
    process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while process.poll() is None and count(tmp_path / "out") < 75:
        time.sleep(0.01)
    fast.plan.every = ("reset", EVER)
    _, stderr = process.communicate(timeout=100)
    assert process.returncode == 2
    last = stderr.strip().splitlines()[-1]
    assert last.startswith("specsafe: the server at")
    assert "does not answer" in last
    kept = count(tmp_path / "out")
    assert kept >= 75
    fast.plan.every = ()
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 5, done.stderr
    assert count(tmp_path / "out") > kept
    assert not [
        f for f in json.loads((tmp_path / "out/result.json").read_text())["result"]["arms"] if f["failed"]
    ]


@pytest.mark.parametrize(
    ("fast", "told"),
    [
        ({"drafts": 0}, "drafted 0 tokens"),
        ({"tells": "nothing"}, "drafted 0 tokens"),
        ({"accepted_too_many": True}, "impossible counts"),
        ({"every": ("redirect", EVER)}, "redirects"),
        ({"tells": "counters", "counter_names": ("efficiency",)}, "does not know"),
        ({"tells": "counters", "counters_reset_after": 3}, "went backwards"),
    ],
)
def test_a_screen_that_could_not_be_trusted_does_not_start(fast, told, servers, run, starter, tmp_path):
    done = run("screen", *arms(*servers(**fast)), "--battery", small(tmp_path, starter), "--out", "out")
    assert done.returncode == 2
    last = done.stderr.strip().splitlines()[-1]
    assert told in last
    assert last.startswith("specsafe: ")


def test_counters_alone_mean_one_request_at_a_time_and_the_page_says_so(servers, run, starter, tmp_path):
    target, fast = servers(tells="counters")
    line = (f"kind=openai,url={target.url}", f"url={fast.url}")
    done = run(
        *("screen", "--target", line[0], "--speculative", line[1], "--json", "--out", "out"),
        *("--battery", small(tmp_path, starter, 3)),
    )
    result = json.loads(done.stdout)["result"]
    assert result["resolved"]["concurrency"] == 1
    assert (target.most, fast.most) == (1, 1)
    assert any("one request at a time" in e for e in result["events"])
    arm = next(a for a in result["arms"] if a["role"] == "speculative")
    assert (arm["acceptance"]["all"]["k"], arm["acceptance"]["all"]["n"]) == (27, 54)


def test_a_plain_server_is_screened_unproved_only_where_asked(servers, run, starter, tmp_path):
    changed = dict.fromkeys(prompts(starter, "capability", 1), WRONG)
    target, fast = servers(changed, target={"dialect": "plain"}, dialect="plain")
    battery = small(tmp_path, starter)
    refused = run("screen", *arms(target, fast), "--battery", battery, "--out", "refused")
    assert "telemetry=none" in refused.stderr.strip().splitlines()[-1]
    _done, document = screen(run, target, fast, "--battery", battery, more=",telemetry=none")
    result = document["result"]
    assert result["exactness"]["verdict"] == "NOT ASSESSED"
    said = " ".join(result["events"])
    assert "nothing shows that the speculative server drafts" in said
    assert "no prefill arm" in said


# --- doctor -----------------------------------------------------------------------------------------------


def test_a_check_up_of_a_server_that_drafts(servers, run):
    _, fast = servers()
    done = run("doctor", "--engine", f"kind=openai,url={fast.url}", "--json")
    found = json.loads(done.stdout)
    jsonschema.validate(found, SCHEMA)
    assert done.returncode == found["exit_code"] == 0
    result = found["result"]
    assert (result["plays"], result["drafted"], result["accepted"], result["counters_moved"]) == (
        *("speculative", 60, 30),
        True,
    )
    assert result["again"]["k"] == result["again"]["n"] == 10
    shown = run("doctor", "--engine", f"kind=openai,url={fast.url}")
    assert shown.stdout.startswith("FIT TO BE SCREENED")


@pytest.mark.parametrize(
    ("fast", "more", "told"),
    [
        ({"fickle": True}, "", "otherwise when asked again"),
        ({"drafts": 0}, ",draft=small", "drafted nothing"),
        ({"miscounts": 1}, "", "somebody else uses the server"),
        ({"tells": "nothing"}, ",draft=small", "drafted nothing"),
    ],
)
def test_a_check_up_that_finds_a_fault_ends_with_2(fast, more, told, servers, run):
    _, server = servers(**fast)
    done = run("doctor", "--engine", f"kind=openai,url={server.url}{more}")
    assert done.returncode == 2
    assert done.stdout.startswith("NOT TO BE TRUSTED")
    assert told in " ".join(done.stdout.split())


def test_a_check_up_is_of_servers(run):
    done = run("doctor", "--engine", "kind=llamacpp")
    assert done.returncode == 2
    assert "kind=llamacpp" in done.stderr
