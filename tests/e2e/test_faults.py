"""What befalls a real screen: kills, full and read-only disks, torn files, a second writer, a deadly item."""

import json
import os
import signal
import sqlite3
import subprocess
import textwrap

import pytest
from live import UNMEASURED, command, disturb, finish, flags, mounted, report, rows, started, workers

pytestmark = pytest.mark.model


def same_as(undisturbed, out):
    """The rows and the bytes of every report agree."""
    assert rows(out) == rows(undisturbed)
    assert report(out) == report(undisturbed)


def test_killed_at_five_random_moments_it_ends_with_the_same_rows_and_reports(battery, undisturbed, tmp_path):
    done, killed = disturb(battery, tmp_path / "out", 5, seed=1)
    assert done.returncode == UNMEASURED, done.stderr
    assert killed >= 3
    same_as(undisturbed, tmp_path / "out")


def test_killed_once_an_arm_is_done_the_resume_leaves_no_trace(battery, undisturbed, tmp_path):
    process = started(battery, tmp_path / "out", 40)  # target and speculative arm have 15 answers each
    process.kill()
    process.communicate()
    assert finish(battery, tmp_path / "out").returncode == UNMEASURED
    same_as(undisturbed, tmp_path / "out")


@pytest.mark.slow
def test_killed_fifty_times_it_still_does(battery, undisturbed, tmp_path):
    total, seed = 0, 100
    while total < 50:  # a screen of this size may be over before its kills are
        out = tmp_path / str(seed)
        done, killed = disturb(battery, out, 50 - total, seed)
        assert done.returncode == UNMEASURED, done.stderr
        same_as(undisturbed, out)
        total, seed = total + killed, seed + 1


def test_a_worker_killed_in_the_middle_is_replaced(battery, undisturbed, tmp_path):
    process = started(battery, tmp_path / "out", 3)
    for pid in workers(process.pid):
        os.kill(pid, signal.SIGKILL)
    process.communicate(timeout=300)
    assert process.returncode == UNMEASURED
    same_as(undisturbed, tmp_path / "out")


def test_two_screens_on_one_ledger_are_refused(battery, tmp_path):
    process = started(battery, tmp_path / "out", 2)
    second = subprocess.run(
        flags(battery, tmp_path / "out"), capture_output=True, text=True, timeout=60, check=False
    )
    unfinished = subprocess.run(
        command("report", tmp_path / "out"), capture_output=True, text=True, check=False
    )
    process.kill()
    process.communicate()
    assert second.returncode == 2
    assert "another run is writing" in second.stderr
    assert unfinished.returncode == 2
    assert "not finished" in unfinished.stderr


def test_a_full_disk_is_one_line_and_with_room_again_the_same_rows(battery, undisturbed, tmp_path):
    with mounted(tmp_path / "small", "size=256k") as disk:
        stopped = finish(battery, disk / "out")
        assert stopped.returncode == 2, stopped.stderr
        last = stopped.stderr.strip().splitlines()[-1]
        assert last.startswith("specsafe: cannot use")
        assert "make room" in last
        subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)
        done = finish(battery, disk / "out")
        assert done.returncode == UNMEASURED, done.stderr
        same_as(undisturbed, disk / "out")


def test_a_read_only_folder_is_one_line_and_a_report_of_it_goes_elsewhere(battery, undisturbed, tmp_path):
    with mounted(tmp_path / "disk", "size=64m") as disk:
        subprocess.run(["cp", "-r", undisturbed, disk / "out"], check=True)
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        refused = finish(battery, disk / "new")
        assert refused.returncode == 2
        assert refused.stderr.strip().splitlines()[-1].startswith("specsafe: cannot use")
        nowhere = subprocess.run(command("report", disk / "out"), capture_output=True, text=True, check=False)
        assert nowhere.returncode == 2
        assert len(nowhere.stderr.strip().splitlines()) == 1
        done = subprocess.run(
            command("report", disk / "out", "--no-timings", "--out", tmp_path / "pages"),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert {p.name: p.read_bytes() for p in (tmp_path / "pages").iterdir()} == report(undisturbed)


@pytest.mark.parametrize("keep", [0.5, *(pytest.param(keep, marks=pytest.mark.slow) for keep in (0.9, 0.1))])
def test_a_torn_log_costs_only_what_was_not_whole(battery, undisturbed, tmp_path, keep):
    out = tmp_path / "out"
    process = started(battery, out, 12)
    process.kill()
    process.communicate()
    log = out / "ledger.sqlite-wal"
    size = log.stat().st_size
    assert size > 0
    os.truncate(log, int(size * keep))
    done = finish(battery, out)
    assert done.returncode == UNMEASURED, done.stderr
    same_as(undisturbed, out)


def test_a_damaged_ledger_is_refused_and_left_as_it_is(battery, undisturbed, tmp_path):
    out = tmp_path / "out"
    subprocess.run(["cp", "-r", undisturbed, out], check=True)
    path = out / "ledger.sqlite"
    torn = path.read_bytes()[:100] + bytes(len(path.read_bytes()) - 100)
    path.write_bytes(torn)
    done = finish(battery, out)
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1].startswith("specsafe: cannot use")
    assert path.read_bytes() == torn


DEADLY = "This one is deadly: what is two and two?"
# Loaded by every Python of the screen: real workers with the real model, one prompt of which aborts the process.
SABOTAGE = """
    import os, sys
    if "specsafe.engines.llamacpp_worker" in sys.orig_argv:
        import xllamacpp

        class Server(xllamacpp.Server):
            def handle_chat_completions(self, body):
                if "deadly" in body["messages"][-1]["content"]:
                    os.abort()
                return super().handle_chat_completions(body)

        xllamacpp.Server = Server
"""


@pytest.fixture
def sabotaged(battery, tmp_path):
    """Run a screen in which a prompt kills its worker -> (process, result)."""

    def run(out, slots=1):
        deadly = tmp_path / "deadly.jsonl"
        row = {"prompt": DEADLY, "axis": "capability", "answers": ["4"], "id": "deadly"}
        deadly.write_text(f"{battery.read_text()}\n{json.dumps(row)}")
        (tmp_path / "hook").mkdir(exist_ok=True)
        (tmp_path / "hook" / "sitecustomize.py").write_text(textwrap.dedent(SABOTAGE))
        done = subprocess.run(
            command(
                "screen",
                "--battery",
                deadly,
                "--target",
                f"threads=1,slots={slots},max_tokens=10",
                "--out",
                out,
            ),
            capture_output=True,
            text=True,
            timeout=400,
            check=False,
            env={**os.environ, "PYTHONPATH": str(tmp_path / "hook")},
        )
        return done, json.loads((out / "result.json").read_text())["result"]

    return run


@pytest.mark.parametrize("slots", [1, 3])
def test_an_item_that_kills_its_worker_is_isolated_named_and_counted(sabotaged, tmp_path, slots):
    done, result = sabotaged(tmp_path / "out", slots)
    assert done.returncode == UNMEASURED, done.stderr
    arms = {a["role"]: a for a in result["arms"]}
    for role in ("target", "speculative"):
        assert (arms[role]["planned"], arms[role]["answered"]) == (16, 15)
        assert [(f["item"], f["tries"]) for f in arms[role]["failed"]] == [("deadly", 3)]
        assert "worker died" in arms[role]["failed"][0]["reason"]
    gate = next(g for g in result["gates"] if g["axis"] == "capability")
    assert (gate["missing_baseline"], gate["missing_treatment"], gate["decision"]["pairs"]) == (1, 1, 5)
    assert "deadly" in done.stdout
    again, _ = sabotaged(tmp_path / "out", slots)  # what was given up stays given up
    assert again.returncode == UNMEASURED
    db = sqlite3.connect(tmp_path / "out" / "ledger.sqlite")
    assert db.execute("SELECT count(*) FROM failure WHERE item = 'deadly'").fetchone()[0] >= 2
