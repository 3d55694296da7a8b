"""A real llama.cpp stack through the command line: the whole screen, interrupted and resumed (killed: test_faults.py)."""

import json
import signal
import subprocess
from pathlib import Path

import pytest
from live import FAST, UNMEASURED, command, rows, started
from tests.recounting import recounted

pytestmark = pytest.mark.model
ROOT = Path(__file__).parents[2]


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
    done = recounted("recompute.py", undisturbed / "ledger.sqlite", undisturbed / "result.json")
    assert done.returncode == 0, done.stderr


def test_interrupted_it_says_how_to_continue_and_resume_needs_no_flags(battery, undisturbed, tmp_path):
    process = started(battery, tmp_path / "out", 4)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=240)
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
