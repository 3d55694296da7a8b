"""Servers that specsafe starts itself: started, waited for, shared, restarted, and gone with everything below them."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from specsafe.engines import Request, openai, openai_settled, parse_arm, served
from specsafe.engines.keeper import descendants
from specsafe.engines.served import command_line, free_port
from specsafe.errors import UserError

PROGRAM = Path(__file__).with_name("serve_planted.py")
VLLM = "python -m vllm.entrypoints.openai.api_server --model /m --port {port}"


@pytest.fixture(autouse=True)
def nothing_is_left():
    """What a test started is gone after it."""
    yield
    served.stop_all()
    assert not served._RUNNING


def serve(*more):
    return " ".join([sys.executable, str(PROGRAM), "--port", "{port}", *more])


def arm(*more, keys=""):
    return parse_arm(f"kind=openai,serve={json.dumps(serve(*more))},dialect=vllm,retries=0" + keys)


def ended(pid, seconds=20.0):
    """Whether a process is gone within that time; one that nobody collected yet is gone."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return True
        if state == "Z":
            return True
        time.sleep(0.05)
    return False


# --- arms -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("kind=openai", "name url= .* or serve="),
        ('kind=openai,url=http://127.0.0.1:1/v1,serve="x {port}"', "not both"),
        ('kind=openai,serve="vllm serve m"', "--port {port}"),
        ('kind=openai,serve="vllm \'serve {port}"', "this is no command"),
        ('kind=openai,serve="vllm serve m --port {port} --api-key k"', "by its environment"),
    ],
)
def test_a_command_that_could_not_be_trusted_is_refused(text, told):
    with pytest.raises(UserError, match=told):
        parse_arm(text)


def test_a_matched_arm_takes_over_neither_address_nor_command():
    one = parse_arm(f'kind=openai,serve="{VLLM}",max_tokens=7')
    other = parse_arm("url=http://127.0.0.1:8001/v1", one)
    assert (other.url, other.serve, other.max_tokens) == ("http://127.0.0.1:8001/v1", "", 7)
    back = parse_arm(f'serve="{VLLM} --seed 1"', other)
    assert (back.url, back.serve, back.address) == ("", f"{VLLM} --seed 1", f"{VLLM} --seed 1")
    assert parse_arm("draft=served", one).serve == VLLM


def test_vllm_is_kept_on_loopback_and_no_shell_reads_a_command():
    words = command_line(f"{VLLM} --x '$HOME {{port}}; rm'", 12)
    assert words[-4:] == ["--x", "$HOME 12; rm", "--host", "127.0.0.1"]
    assert command_line(f"{VLLM} --host ::1", 12)[-2:] == ["--host", "::1"]
    assert "--host" not in command_line("/opt/vllm-env/bin/llama-server -m m --port {port}", 12)


@pytest.mark.parametrize(
    ("command", "dialect", "concurrency"),
    [
        (f"{VLLM} --per-request-spec-decode-metrics detailed", "vllm", 8),
        (VLLM, "vllm", 1),
        ("/usr/bin/llama-server -m m --port {port}", "llamacpp", 8),
    ],
)
def test_what_a_command_says_needs_no_start(command, dialect, concurrency):
    fast = parse_arm(f'kind=openai,serve="{command}",draft=served')
    found = openai_settled.resolved([fast])
    assert (found["dialects"], found["concurrency"]) == ({command: dialect}, concurrency)


OURS = f"{VLLM} --worker-cls specsafe.plugin.worker.Worker"


@pytest.mark.parametrize(
    ("command", "set_", "why"),
    [
        (VLLM, "specsafe", "without specsafe's plugin"),
        (OURS, "", "without specsafe's plugin"),
        (f"env VLLM_PLUGINS= {OURS}", "specsafe", "without specsafe's plugin"),
        (OURS, "other,specsafe", ""),
        (f"env VLLM_PLUGINS=specsafe {OURS}", "", ""),
        (f"env VLLM_PLUGINS=specsafe {OURS} --speculative-config.method ngram", "", "prompt lookup"),
        ("/usr/bin/llama-server -m m --port {port}", "specsafe", "no vLLM (llamacpp)"),
    ],
)
def test_a_command_says_whether_its_server_can_be_made_to_leak(command, set_, why, monkeypatch):
    monkeypatch.setenv("VLLM_PLUGINS", set_)
    fast = parse_arm(f'kind=openai,serve="{command}",draft=served')
    reason = openai_settled.resolved([fast])["no_leak"].get(command, "")
    assert why in reason
    assert bool(why) == bool(reason)


# --- starting and ending ----------------------------------------------------------------------------------


def test_a_started_server_answers_is_shared_and_is_restarted_where_it_must_be(tmp_path):
    log = tmp_path / "target.log"
    with closing(openai.open_session(arm("--say", "hello-log"), log)) as session:
        first = session._running
        (answer,) = session.generate([Request("a", "What?")])
        assert answer.text == "I cannot say."
        assert session.fingerprint()["started_by_specsafe"]
    assert "hello-log" in log.read_text()
    with closing(openai.open_session(arm("--say", "hello-log"), log)) as session:
        assert session._running is first
    with closing(openai.open_session(arm("--say", "hello-log"), log, fresh=True)) as session:
        assert session._running is not first
        assert session._running.alive
        assert not first.alive
        assert first.pid not in (p.pid for p in served._RUNNING)


def test_only_one_server_is_up_where_the_first_is_not_used_any_more():
    with closing(openai.open_session(arm("--say", "one"))) as session:
        one = session._running
    with closing(openai.open_session(arm("--say", "two"))) as session:
        assert not one.alive
        assert not one.log.exists()  # nobody asked for it
        assert session._running.alive


@pytest.mark.parametrize("logged", [True, False])
def test_a_server_that_dies_as_it_starts_is_quoted(tmp_path, logged):
    log = tmp_path / "target.log" if logged else None
    with pytest.raises(UserError) as raised:
        openai.open_session(arm("--say", "'no \x1b[31msuch model'", "--die", "3"), log)
    assert "died as it started, exit code 3; last line of its log: no  [31msuch model" in str(raised.value)
    assert not served._RUNNING


def test_of_a_log_the_error_is_quoted_and_not_what_was_warned_of_after_it(tmp_path):
    text = "'ValueError: no room for it\nwarning: 2 leaked objects'"
    with pytest.raises(UserError, match="last line of its log: ValueError: no room for it"):
        openai.open_session(arm("--say", text, "--die", "1"), tmp_path / "log")


def test_a_program_that_is_not_there_is_named():
    with pytest.raises(UserError, match="cannot start no-such-program: No such file"):
        openai.open_session(parse_arm('kind=openai,serve="no-such-program {port}",dialect=vllm'))


def test_a_server_that_comes_too_late_is_ended():
    with pytest.raises(UserError, match=r"does not answer within 0\.5 s"):
        openai.open_session(arm("--late", "60", keys=",serve_timeout=0.5"))
    assert not served._RUNNING


def test_a_server_that_listens_to_the_network_is_refused():
    with pytest.raises(UserError, match="more than this machine"):
        openai.open_session(arm("--host", "0.0.0.0"))  # noqa: S104


def test_a_server_that_dies_meanwhile_is_told_from_one_that_is_silent(tmp_path):
    with closing(openai.open_session(arm("--say", "'last words'"), tmp_path / "log")) as session:
        for pid in descendants(session._running.pid):
            os.kill(pid, signal.SIGKILL)
        with pytest.raises(UserError, match="died meanwhile, exit code 137; last line"):
            list(session.generate([Request("a", "b")]))


@pytest.mark.parametrize("how", ["stopped", "keeper terminated", "server killed"])
def test_processes_that_left_their_server_go_with_it(tmp_path, how):
    """A process in a session of its own, as an engine's core may be."""
    child = tmp_path / "child"
    with closing(openai.open_session(arm("--child", str(child)))) as session:
        running = session._running
    pid = int(child.read_text())
    assert not ended(pid, 0.2)
    if how == "stopped":
        served.stop_all()
    elif how == "keeper terminated":
        os.kill(running.pid, signal.SIGTERM)
    else:
        (server,) = (p for p in descendants(running.pid) if parent(p) == running.pid)
        os.kill(server, signal.SIGKILL)
    assert ended(pid)
    assert ended(running.pid)


def parent(pid):
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_nothing_outlives_the_process_that_started_it(tmp_path, number):
    script = f"""
import sys, time
from specsafe.engines import openai, parse_arm
session = openai.open_session(parse_arm({f"kind=openai,dialect=vllm,serve={json.dumps(serve('--child', str(tmp_path / 'child')))}"!r}))
print(session._running.pid, *__import__("specsafe.engines.keeper", fromlist=["x"]).descendants(session._running.pid), flush=True)
time.sleep(600)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    pids = [int(p) for p in process.stdout.readline().split()]
    assert len(pids) == 3
    os.kill(process.pid, number)
    process.communicate()
    assert all(ended(p) for p in pids)


def test_ports_are_free_and_of_loopback():
    assert 1024 < free_port() < 65536
    assert served._is_loopback("0100007F")
    assert served._is_loopback("00000000000000000000000001000000")
    assert served._is_loopback("0000000000000000FFFF00000100007F")
    assert not served._is_loopback("00000000")
    assert not served._is_loopback("0" * 32)
