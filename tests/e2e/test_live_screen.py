"""A real llama.cpp stack through the command line: the whole screen, killed, interrupted and resumed."""

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import command

from specsafe.battery import load_battery

pytestmark = pytest.mark.model
ROOT = Path(__file__).parents[2]
FAST = "threads=1,slots=1,max_tokens=10"
UNMEASURED = 4  # five items an axis leave too little at risk
COLUMNS = "arm, item, replicate, text, text_sha256, finish, token_ids, logprobs, top, drafted, accepted, prompt_tokens"


@pytest.fixture(scope="session")
def battery(tmp_path_factory):
    """Five starter items an axis, as a JSONL battery."""
    path = tmp_path_factory.mktemp("battery") / "small.jsonl"
    rows = [
        {"prompt": i.prompt, "axis": i.axis, "task": i.task, "category": i.category, "answers": i.answers}
        for i in load_battery("starter").limit(5).items
    ]
    path.write_text("\n".join(json.dumps(r) for r in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def undisturbed(battery, tmp_path_factory):
    """The folder of a screen that nothing disturbed."""
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    done = subprocess.run(flags(battery, out), capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == UNMEASURED, done.stderr
    return out


def flags(battery, out):
    return command("screen", "--battery", battery, "--target", FAST, "--out", out)


def rows(out):
    """Everything in the ledger that a run must reproduce; times are not."""
    db = sqlite3.connect(f"file:{out / 'ledger.sqlite'}?mode=ro", uri=True)
    return sorted(db.execute(f"SELECT {COLUMNS} FROM sample").fetchall())  # noqa: S608


def count(out):
    try:
        return len(rows(out))
    except sqlite3.OperationalError:
        return 0


def timeless(out):
    """The result without what a clock wrote or a resume logged."""
    result = json.loads((out / "result.json").read_text())["result"]
    return {k: v for k, v in result.items() if k not in ("speed_up", "events")}


def started(battery, out, answers):
    """A screen in the background, once it has so many more answers than before."""
    before = count(out)
    process = subprocess.Popen(flags(battery, out), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while count(out) < before + answers and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return process


def workers(parent):
    """Ids of the worker processes of a screen."""
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    return [int(c) for c in children]


def gone(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z"
    except FileNotFoundError:
        return True


def test_the_screen_measures_everything_and_is_recomputed(undisturbed):
    result = json.loads((undisturbed / "result.json").read_text())["result"]
    answered = {a["role"]: (a["answered"], a["planned"]) for a in result["arms"]}
    assert answered == {
        "target": (15, 15),
        "speculative": (15, 15),
        "replicate": (6, 6),
        "width": (6, 6),
        "prefill": (2, 2),
        "leak": (15, 15),
    }
    contrasts = result["exactness"]["contrasts"]
    assert {role: c["identical"]["k"] for role, c in contrasts.items() if role != "leak"} == {
        "speculative": 15,
        "width": 6,
        "replicate": 6,
    }
    assert contrasts["leak"]["large_gaps"] > 0
    assert result["speed_up"]["items"] == 15
    assert {a["role"] for a in result["arms"] if a["acceptance"]} == {"speculative", "width", "leak"}
    fingerprints = {a["role"]: a["fingerprint"] for a in result["arms"]}
    assert fingerprints["target"] == fingerprints["replicate"]
    script = [
        sys.executable,
        ROOT / "tests" / "recompute.py",
        undisturbed / "ledger.sqlite",
        undisturbed / "result.json",
    ]
    done = subprocess.run(script, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def disturb(battery, out, kills, seed):
    """Kill the parent with its workers left behind, `kills` times at random moments, then let it finish."""
    random_ = random.Random(seed)
    for _ in range(kills):
        process = started(battery, out, random_.randint(1, 8))
        if process.poll() is not None:
            break
        left = workers(process.pid)
        process.kill()
        process.wait()
        deadline = time.monotonic() + 20
        while not all(map(gone, left)):
            assert time.monotonic() < deadline, "a worker outlived its parent"
            time.sleep(0.05)
    return subprocess.run(flags(battery, out), capture_output=True, text=True, timeout=300, check=False)


def test_killed_and_resumed_it_ends_with_the_same_rows_and_result(battery, undisturbed, tmp_path):
    done = disturb(battery, tmp_path / "out", 3, seed=1)
    assert done.returncode == UNMEASURED, done.stderr
    assert rows(tmp_path / "out") == rows(undisturbed)
    assert timeless(tmp_path / "out") == timeless(undisturbed)


@pytest.mark.slow
def test_killed_twenty_times_it_still_ends_with_the_same_rows(battery, undisturbed, tmp_path):
    assert disturb(battery, tmp_path / "out", 20, seed=2).returncode == UNMEASURED
    assert rows(tmp_path / "out") == rows(undisturbed)


def test_a_worker_killed_in_the_middle_is_replaced(battery, undisturbed, tmp_path):
    process = started(battery, tmp_path / "out", 3)
    for pid in workers(process.pid):
        os.kill(pid, signal.SIGKILL)
    assert process.wait(timeout=300) == UNMEASURED
    assert rows(tmp_path / "out") == rows(undisturbed)


def test_interrupted_it_says_how_to_continue_and_resume_needs_no_flags(battery, undisturbed, tmp_path):
    process = started(battery, tmp_path / "out", 4)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "interrupted" in errors.splitlines()[-1]
    done = subprocess.run(
        command("screen", "--resume", "--out", tmp_path / "out"),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == UNMEASURED, done.stderr
    assert rows(tmp_path / "out") == rows(undisturbed)


def test_two_screens_on_one_ledger_are_refused(battery, tmp_path):
    process = started(battery, tmp_path / "out", 2)
    second = subprocess.run(
        flags(battery, tmp_path / "out"), capture_output=True, text=True, timeout=60, check=False
    )
    process.kill()
    process.wait()
    assert second.returncode == 2
    assert "another screen is writing" in second.stderr


def test_speculation_that_drafts_nothing_stops_the_run(run, battery):
    done = run(
        "screen",
        "--battery",
        battery,
        "--target",
        FAST,
        "--speculative",
        "draft=ngram-simple",
        "--out",
        "out",
    )
    assert done.returncode == 2
    assert "drafted 0 tokens" in done.stderr


def test_a_lossy_rule_is_not_held_to_exactness(run, battery, tmp_path):
    lossy = "draft=layers:0-19+29,rule=synthetic,leak=1,p_min=0"
    run("screen", "--battery", battery, "--target", FAST, "--speculative", lossy, "--out", "out")
    result = json.loads((tmp_path / "out" / "result.json").read_text())["result"]
    assert result["exactness"]["verdict"] == "NOT EXACT"
    assert not result["exactness"]["claims_lossless"]
    assert "claims to be lossless" not in result["headline"]
