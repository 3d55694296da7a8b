"""Screens of the native engine through the command line: exact rules are EXACT, and a killed one goes on."""

import os
import signal
import subprocess
import time

import pytest
from live import count, native_flags, native_screen, rows, write_battery

pytestmark = pytest.mark.model


@pytest.fixture(scope="module")
def battery(tmp_path_factory):
    return write_battery(tmp_path_factory.mktemp("native") / "battery.jsonl", per_axis=3)


@pytest.fixture(scope="module")
def exact(battery, tmp_path_factory):
    out = tmp_path_factory.mktemp("exact") / "out"
    return out, native_screen(battery, out, "draft=first:24")


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
        native_flags(battery, again, "draft=first:24"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 240
    while count(again) < 12 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert count(again) >= 12
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    native_screen(battery, again, "draft=first:24")
    assert rows(again) == rows(out)
