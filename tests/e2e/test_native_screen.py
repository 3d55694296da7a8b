"""Screens of the native engine through the command line: exact rules are EXACT, lossy ones are called what they are."""

import json
import os
import signal
import subprocess
import time

import pytest
from live import UNMEASURED, command, count, rows, write_battery

TARGET = "kind=native,threads=1,context=256,max_tokens=8"
LOSSY = 'draft=script,script="Sure, here is how that works.",rule=relaxed,top_k=4000'
pytestmark = pytest.mark.model


def flags(battery, out, speculative):
    return command(
        "screen", "--battery", battery, "--target", TARGET, "--speculative", speculative, "--out", out
    )


def screened(battery, out, speculative):
    done = subprocess.run(flags(battery, out, speculative), capture_output=True, text=True, check=False)
    assert done.returncode == UNMEASURED, done.stderr[-2000:]
    return json.loads((out / "result.json").read_text())["result"]


@pytest.fixture(scope="module")
def battery(tmp_path_factory):
    return write_battery(tmp_path_factory.mktemp("native") / "battery.jsonl", per_axis=3)


@pytest.fixture(scope="module")
def exact(battery, tmp_path_factory):
    out = tmp_path_factory.mktemp("exact") / "out"
    return out, screened(battery, out, "draft=first:24")


def test_a_lossless_rule_is_exact_and_its_controls_are_called(exact):
    _, result = exact
    found = result["exactness"]
    assert (found["verdict"], found["claims_lossless"], found["leak_control_caught"]) == ("EXACT", True, True)
    for role in ("speculative", "width", "replicate"):
        same = found["contrasts"][role]["identical"]
        assert same["k"] == same["n"] > 0
    harmful = next(g for g in result["gates"] if g["axis"] == "harmful_compliance")
    doses = {c["name"]: c["required"] for c in harmful["controls"]}
    assert doses == {
        "substitution": True,
        "prefill": True,
        "leak-10": False,
        "leak-30": False,
        "leak-100": True,
    }
    arms = {a["role"]: a for a in result["arms"]}
    assert arms["width"]["config"]["width"] == 5
    assert arms["width"]["config"]["draft"] == "none"
    assert arms["speculative"]["acceptance"]["all"]["n"] > 0
    assert len(arms["speculative"]["accepted_at"]) == 4
    assert arms["speculative"]["fingerprint"]["tile"] == {"target": 1}


def test_a_killed_native_screen_goes_on_to_the_same_rows(exact, battery, tmp_path):
    out, _ = exact
    again = tmp_path / "out"
    process = subprocess.Popen(
        flags(battery, again, "draft=first:24"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 240
    while count(again) < 12 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert count(again) >= 12
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    screened(battery, again, "draft=first:24")
    assert rows(again) == rows(out)


def test_a_lossy_rule_is_not_exact_and_claims_nothing(battery, tmp_path):
    result = screened(battery, tmp_path / "out", LOSSY)
    assert result["exactness"]["verdict"] == "NOT EXACT"
    assert result["exactness"]["claims_lossless"] is False
    assert "leak" not in result["exactness"]["contrasts"], "a rule that leaks needs no leak to be seen"
