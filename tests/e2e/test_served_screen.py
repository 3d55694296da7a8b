"""Screens whose servers specsafe starts: one at a time, the replicate's anew, nothing left however the screen ends."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from live import command, write_battery

from specsafe.study.run import Job, by_server

PROGRAM = Path(__file__).parents[1] / "servers" / "serve_planted.py"


@pytest.fixture
def arms(tmp_path):
    """Target and speculative arm; every start of a server adds a line to `starts`, with how much it drafts."""

    def start(*more):
        serve = " ".join(
            [sys.executable, str(PROGRAM), "--port {port} --starts", str(tmp_path / "starts"), *more]
        )
        target = f"kind=openai,dialect=vllm,concurrency=4,retries=1,serve={json.dumps(serve)}"
        return ("--target", target, "--speculative", f"serve={json.dumps(f'{serve} --drafts 3')}")

    return start


def starts(tmp_path):
    return (tmp_path / "starts").read_text().split()


def test_a_screen_starts_its_servers_and_restarts_the_target_for_the_replicate(arms, run, tmp_path):
    battery = write_battery(tmp_path / "small.jsonl", 4)
    done = run("screen", "--battery", battery, *arms(), "--out", "out", "--json", "--share", "1")
    document = json.loads(done.stdout)
    assert done.returncode == document["exit_code"] == 4, done.stderr
    result = document["result"]
    answered = {a["role"]: a["answered"] for a in result["arms"]}
    assert {answered[r] for r in ("target", "speculative", "replicate")} == {12}
    assert answered["prefill"] == 4
    said = " ".join(result["events"])
    assert "started again" in said
    assert "not restarted" not in said
    # the preflight ends with the target's server, which then answers as target and for the prefill; the replicate has its own
    assert starts(tmp_path) == ["3", "0", "0", "3"]
    assert (tmp_path / "out" / "logs" / "speculative.log").exists()
    assert not left(tmp_path)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_screen_leaves_no_server_and_goes_on(arms, tmp_path, number):
    battery = write_battery(tmp_path / "small.jsonl", 4)
    flags = ("screen", "--battery", str(battery), *arms("--late 1"), "--out", "out", "--json")
    process = subprocess.Popen(
        command(*flags), cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while not (tmp_path / "starts").exists():
        assert process.poll() is None
        time.sleep(0.05)
    os.kill(process.pid, number)
    process.wait()
    end = time.monotonic() + 30
    while left(tmp_path) and time.monotonic() < end:
        time.sleep(0.1)
    assert not left(tmp_path)


def left(tmp_path):
    """Processes whose command names the folder of this test."""
    found = []
    for place in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = place.read_bytes().decode(errors="replace")
        except OSError:
            continue
        if str(tmp_path / "starts") in words and "serve_planted.py\0--port" in words:
            found.append(place.parent.name)
    return found


def test_jobs_of_one_server_stand_side_by_side_and_others_keep_their_order():
    class Arm:
        def __init__(self, serve=""):
            self.serve = serve

    a, b = Arm("a"), Arm("b")
    roles = [
        ("target", a, 0),
        ("speculative", b, 0),
        ("replicate", a, 1),
        ("prefill", a, 0),
        ("width", Arm(), 0),
    ]
    jobs = [Job(role, arm, role, replicate, ()) for role, arm, replicate in roles]
    assert [j.role for j in by_server(jobs)] == ["target", "prefill", "replicate", "speculative", "width"]
    plain = [Job(role, Arm(), role, replicate, ()) for role, _, replicate in roles]
    assert by_server(plain) == plain
