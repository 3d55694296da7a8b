"""What befalls a real study on tiny networks: kills, a full disk, a clock that jumps, changed files, two drivers, a deadly item.

In each case the rows and the report in the end are those of a study that nothing disturbed.
"""

import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import textwrap
import time
from contextlib import closing
from pathlib import Path

import pytest
import yaml
from made_study import command, document, networks, study, write_battery

sys.path.insert(0, str(Path(__file__).parents[1] / "e2e"))
sys.path.insert(0, str(Path(__file__).parents[1] / "models"))
from live import count, mounted, outlived, rows, workers

EACH = 6


def cut(models):
    """Three arms of one target, one restart, one block above temperature 0."""
    whole = document(models, EACH, max_tokens=24, slots=2)
    whole["phases"]["1"]["runs"] = [{"arms": "target"}]
    whole["phases"]["2"]["runs"] = [{"arms": "speculative"}]
    whole["phases"]["4"]["runs"][0]["drafted"] = [1]
    whole["blocks"] = {
        "restart": {"title": "again", "runs": [{"arms": "replicate"}]},
        "warm": {
            "title": "sampled",
            "levels": {"temperature": [0.7], "samples": 2, "items": "safety"},
            "runs": [{"arms": "target"}],
        },
    }
    whole["totals"] = {}
    return whole


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with networks, battery, protocol, lock, and a study that nothing disturbed."""
    folder = tmp_path_factory.mktemp("study")
    models = networks(folder)
    write_battery(folder / "battery.jsonl", EACH)
    (folder / "p.yaml").write_text(yaml.safe_dump(cut(models), sort_keys=False), encoding="utf-8")
    assert study("lock", folder / "p.yaml").returncode == 0
    done = finish(folder, folder / "undisturbed")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith("complete"), done.stdout
    return folder


def finish(place, out, **options):
    return study("run", place / "p.yaml", "--out", out, **options)


def start(place, out):
    return subprocess.Popen(
        command("study", "run", place / "p.yaml", "--out", out),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def started(place, out, answers):
    """A run in the background, once it has so many answers."""
    process = start(place, out)
    deadline = time.monotonic() + 240
    while count(out) < answers and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return process


def report(out):
    folder = out / "timeless"
    done = study("report", out, "--no-timings", "--out", folder)
    assert done.returncode == 0, done.stderr
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def same_as(place, out):
    """Rows, no more and no fewer, every byte of the report, and every hash."""
    expected = rows(place / "undisturbed")
    assert rows(out) == expected
    assert len({r[:3] for r in expected}) == len(expected) > 0
    assert study("verify", out).returncode == 0
    assert report(out) == report(place / "undisturbed")


def disturb(place, out, kills, seed, longest=6.0):
    """SIGKILL the driver or a worker at random moments, until the run is over or was killed so often -> kills."""
    chance, killed = random.Random(seed), 0
    process = start(place, out)
    while killed < kills:
        try:
            process.wait(chance.uniform(0, longest))
            break
        except subprocess.TimeoutExpired:
            left = workers(process.pid)
        killed += 1
        if left and chance.random() < 0.4:
            os.kill(chance.choice(left), signal.SIGKILL)
            continue
        process.kill()
        process.communicate()
        outlived(left)
        process = start(place, out)
    process.communicate(timeout=300)
    return killed


def test_the_undisturbed_study_has_every_answer_and_says_how_far_it_is(place):
    told = study("status", place / "undisturbed").stdout
    assert (
        f"complete; {len(rows(place / 'undisturbed'))} of {len(rows(place / 'undisturbed'))} answers" in told
    )
    assert "locked" in told
    assert "deviation" not in told


def test_killed_at_five_random_moments_it_ends_with_the_same_rows_and_report(place, tmp_path):
    out = tmp_path / "out"
    killed = disturb(place, out, 5, seed=1)
    assert finish(place, out).returncode == 0
    assert killed >= 3
    same_as(place, out)


@pytest.mark.slow
def test_killed_fifty_times_it_still_does(place, tmp_path):
    total, seed = 0, 100
    while total < 50:
        out = tmp_path / str(seed)
        total, seed = total + disturb(place, out, 50 - total, seed), seed + 1
        assert finish(place, out).returncode == 0
        same_as(place, out)


def test_killed_between_two_arms_the_resume_leaves_no_trace(place, tmp_path):
    process = started(place, tmp_path / "out", 2 * EACH)
    process.kill()
    process.communicate()
    told = study("status", tmp_path / "out")
    assert told.returncode == 0
    assert "not running" in told.stdout
    assert finish(place, tmp_path / "out").returncode == 0
    same_as(place, tmp_path / "out")


def test_a_worker_killed_in_the_middle_is_replaced(place, tmp_path):
    process = started(place, tmp_path / "out", 3)
    for pid in workers(process.pid):
        os.kill(pid, signal.SIGKILL)
    process.communicate(timeout=300)
    assert process.returncode == 0
    same_as(place, tmp_path / "out")


def test_a_full_disk_is_one_line_and_with_room_again_the_same_rows(place, tmp_path):
    with mounted(tmp_path / "small", "size=160k") as disk:
        stopped = finish(place, disk / "out")
        assert stopped.returncode == 2, stopped.stderr
        last = stopped.stderr.strip().splitlines()[-1]
        assert last.startswith("specsafe: cannot use")
        assert "make room" in last
        subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)
        assert finish(place, disk / "out").returncode == 0
        same_as(place, disk / "out")


# Every reading of the wall clock jumps by years, forwards and backwards, in every process and in SQLite.
JUMPS = """
    #define _GNU_SOURCE
    #include <dlfcn.h>
    #include <sys/time.h>
    #include <time.h>
    static long jump(void) { static long n; return (++n % 3 - 1) * 100000000L; }
    int clock_gettime(clockid_t id, struct timespec *t) {
        static int (*real)(clockid_t, struct timespec *);
        if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
        int code = real(id, t);
        if (id == CLOCK_REALTIME) t->tv_sec += jump();
        return code;
    }
    int gettimeofday(struct timeval *t, void *zone) {
        struct timespec now;
        clock_gettime(CLOCK_REALTIME, &now);
        t->tv_sec = now.tv_sec;
        t->tv_usec = now.tv_nsec / 1000;
        return 0;
    }
    time_t time(time_t *t) {
        struct timespec now;
        clock_gettime(CLOCK_REALTIME, &now);
        if (t) *t = now.tv_sec;
        return now.tv_sec;
    }
"""


def test_a_clock_that_jumps_changes_nothing(place, tmp_path):
    if shutil.which("cc") is None:
        pytest.skip("no C compiler for a clock that jumps")
    source, library = tmp_path / "jumps.c", tmp_path / "jumps.so"
    source.write_text(textwrap.dedent(JUMPS))
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    done = finish(place, tmp_path / "out", env={**os.environ, "LD_PRELOAD": str(library)})
    assert done.returncode == 0, done.stderr
    same_as(place, tmp_path / "out")


def test_two_drivers_on_one_ledger_are_refused_and_the_first_goes_on(place, tmp_path):
    process = started(place, tmp_path / "out", 1)
    second, beside = finish(place, tmp_path / "out"), study("status", tmp_path / "out")
    running = process.poll() is None
    process.communicate(timeout=300)
    assert process.returncode == 0
    if not running:
        pytest.skip("the first was done before the second began")
    assert second.returncode == 2
    assert "another run is writing" in second.stderr
    assert beside.returncode == 0
    same_as(place, tmp_path / "out")


@pytest.fixture
def half(place, tmp_path):
    """A place of its own in which a run was stopped after its first phase -> (folder, out)."""
    folder = tmp_path / "half"
    shutil.copytree(place, folder, ignore=shutil.ignore_patterns("undisturbed"))
    text = (folder / "p.yaml").read_text().replace(str(place), str(folder))
    (folder / "p.yaml").write_text(text)
    (folder / "p.lock.json").unlink()
    assert study("run", folder / "p.yaml", "--out", folder / "out", "--phases", "1").returncode == 0
    return folder


def refused(folder):
    """The one line with which a resume is refused; what was answered stays."""
    before = rows(folder / "out")
    done = finish(folder, folder / "out")
    assert done.returncode == 2
    assert rows(folder / "out") == before
    return done.stderr.strip().splitlines()[-1]


def test_what_changed_between_two_runs_is_refused_by_name_and_restored_it_goes_on(half):
    kept = {p: p.read_bytes() for p in (half / "p.yaml", half / "battery.jsonl")}
    (half / "p.yaml").write_bytes(kept[half / "p.yaml"].replace(b"max_tokens: 24", b"max_tokens: 25"))
    assert "study.engines.ours.max_tokens was 24, is 25" in refused(half)
    (half / "p.yaml").write_bytes(kept[half / "p.yaml"])
    (half / "battery.jsonl").write_bytes(kept[half / "battery.jsonl"].replace(b"number 1", b"number one"))
    assert "the battery changed since this ledger began" in refused(half)
    (half / "battery.jsonl").write_bytes(kept[half / "battery.jsonl"])
    model = half / "big" / "model.safetensors"
    weights = model.read_bytes()
    model.write_bytes(weights[:-1] + bytes([weights[-1] ^ 1]))
    assert "arm big is not what this ledger began with: the files behind it changed" in refused(half)
    model.write_bytes(weights)
    assert finish(half, half / "out").returncode == 0
    assert study("verify", half / "out").returncode == 0


# Loaded by every Python of the run: real workers on real networks, one prompt of which aborts the process.
SABOTAGE = """
    import os, sys
    if "specsafe.engines.native_worker" in sys.orig_argv:
        from specsafe.decoding import stack

        whole = stack.Stack.prompt

        def prompt(self, item, text, *more):
            if "number 1?" in text:
                os.abort()
            return whole(self, item, text, *more)

        stack.Stack.prompt = prompt
"""


def test_an_item_that_kills_its_worker_is_isolated_named_and_counted(place, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(textwrap.dedent(SABOTAGE))
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    options = {"env": {**os.environ, "PYTHONPATH": path}}
    out = tmp_path / "out"
    done = study("run", place / "p.yaml", "--out", out, "--phases", "1", **options)
    assert done.returncode == 0, done.stderr
    with closing(sqlite3.connect(out / "ledger.sqlite")) as db:
        (failed,) = db.execute("SELECT item, tries, reason FROM failure").fetchall()
        (prompt,) = db.execute("SELECT prompt FROM item WHERE id = ?", failed[:1]).fetchone()
    assert "number 1?" in prompt
    assert failed[1] == 3
    assert "worker died" in failed[2]
    others = {r for r in rows(place / "undisturbed") if r[1] != failed[0]}
    assert set(rows(out)) <= others
    assert len(rows(out)) == 2 * EACH - 1
    assert "1 given up" in study("status", out).stdout
    again = study("run", place / "p.yaml", "--out", out, "--phases", "1")
    assert again.returncode == 0  # what was given up stays given up
    assert len(rows(out)) == 2 * EACH - 1


def test_the_result_holds_no_text_of_an_answer(place):
    with closing(sqlite3.connect(place / "undisturbed" / "ledger.sqlite")) as db:
        texts = [t for (t,) in db.execute("SELECT text FROM sample WHERE length(text) > 12")]
    assert texts
    for name, content in report(place / "undisturbed").items():
        found = content.decode("utf-8")
        assert not any(t in found or json.dumps(t)[1:-1] in found for t in texts), name
