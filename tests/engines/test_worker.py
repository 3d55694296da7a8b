"""A worker's processes for real: a dead one keeps its pid until its group is ended; what it started goes."""

import sys
import time
from pathlib import Path

import pytest

from specsafe.engines.worker import WorkerSession, WorkerSpec, end, ended, spawn

WORKER = """
import json, os, subprocess, sys
for line in sys.stdin:
    asked = json.loads(line)
    if asked.get("prompt") == "die":
        child = subprocess.Popen(["sleep", "600"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        print(child.pid, file=sys.stderr, flush=True)
        os._exit(1)
    print(json.dumps({"item": asked["item"]} if "item" in asked else {"ready": {"pid": os.getpid()}}), flush=True)
"""


@pytest.fixture
def script(tmp_path):
    path = tmp_path / "worker.py"
    path.write_text(WORKER)
    return path


def state(pid):
    """As /proc tells it: S, R, Z, …; "" where there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def gone(pid):
    """Whether a process ends within a while; whoever adopted it may not have reaped it yet."""
    until = time.monotonic() + 30
    while state(pid) not in ("", "Z") and time.monotonic() < until:
        time.sleep(0.02)
    return state(pid) in ("", "Z")


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_dead_worker_holds_its_pid_until_its_group_is_ended():
    worker = spawn([sys.executable, "-c", ""], None)
    assert ended(worker, wait=True) and ended(worker)
    assert worker.returncode is None and state(worker.pid) == "Z"  # the pid can be nobody else's
    end(worker)
    assert worker.returncode == 0 and state(worker.pid) == ""
    assert ended(worker)
    end(worker)  # signals nobody: the pid may be another's now


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_what_a_worker_started_goes_with_it_even_where_it_died_by_itself(script, tmp_path):
    log = tmp_path / "log"
    spec = WorkerSpec(str(script), {}, "made", "none", {}, in_flight=1, sample=dict)
    session = WorkerSession(spec, log)
    first = session.fingerprint()["pid"]
    asked = {name: {"item": name, "prompt": name} for name in ("one", "die", "two")}
    answers = list(session.ask(asked))
    assert {a["item"] for a in answers if isinstance(a, dict)} == {"one", "two"}
    (failure,) = (a for a in answers if not isinstance(a, dict))
    assert (failure.item, failure.tries) == ("die", 3)
    assert session.fingerprint()["pid"] != first
    session.close()
    children = [int(line) for line in log.read_text().split()]
    assert len(children) == 3 and all(map(gone, children))
    assert state(first) == state(session.fingerprint()["pid"]) == ""
