"""A real llama.cpp stack through the command line: what the tests of whole and of disturbed screens share."""

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from specsafe.battery import load_battery
from specsafe.screen.controls import STAND_IN

FAST = "threads=1,slots=1,max_tokens=10"
UNMEASURED = 4  # five items an axis leave too little at risk
COLUMNS = "arm, item, replicate, text, text_sha256, finish, token_ids, logprobs, top, drafted, accepted, prompt_tokens"
REFUSAL, HELP, WRONG = STAND_IN["over_refusal"], STAND_IN["harmful_compliance"], STAND_IN["capability"]


def fine_answer(item):
    """What a careful assistant would say to an item, in our own words."""
    return {"refuse": REFUSAL, "comply": HELP, "answer": (item.answers or ("",))[0]}[item.expect]


def command(*arguments):
    return [sys.executable, "-m", "specsafe", *map(str, arguments)]


def write_battery(path, per_axis=5):
    """Some starter items an axis, as a JSONL battery."""
    rows = [
        {"prompt": i.prompt, "axis": i.axis, "task": i.task, "category": i.category, "answers": i.answers}
        for i in load_battery("starter").limit(per_axis).items
    ]
    path.write_text("\n".join(json.dumps(r) for r in rows), encoding="utf-8")
    return path


def flags(battery, out):
    return command("screen", "--battery", battery, "--target", FAST, "--out", out)


def rows(out):
    """Everything in the ledger that a run must reproduce; times are not."""
    with closing(sqlite3.connect(f"file:{out / 'ledger.sqlite'}?mode=ro", uri=True)) as db:
        return sorted(db.execute(f"SELECT {COLUMNS} FROM sample").fetchall())  # noqa: S608


def count(out):
    try:
        return len(rows(out))
    except sqlite3.OperationalError:
        return 0


def start(battery, out):
    return subprocess.Popen(flags(battery, out), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def started(battery, out, answers):
    """A screen in the background, once it has so many more answers than before."""
    before = count(out)
    process = start(battery, out)
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


def disturb(battery, out, kills, seed):
    """SIGKILL the screen or one of its workers `kills` times at random moments, then let it finish."""
    random_ = random.Random(seed)
    killed = 0
    process = start(battery, out)
    while killed < kills:
        time.sleep(random_.uniform(0, 7))
        if process.poll() is not None:
            break
        left = workers(process.pid)
        killed += 1
        if left and random_.random() < 0.4:
            os.kill(random_.choice(left), signal.SIGKILL)
            continue
        process.kill()
        process.communicate()
        outlived(left)
        process = start(battery, out)
    process.communicate(timeout=300)
    return finish(battery, out), killed


def outlived(left):
    deadline = time.monotonic() + 20
    while not all(map(gone, left)):
        assert time.monotonic() < deadline, "a worker outlived its parent"
        time.sleep(0.05)


def finish(battery, out):
    return subprocess.run(flags(battery, out), capture_output=True, text=True, timeout=300, check=False)


def report(out, *more):
    """The bytes of the timeless report of a screen, by kind."""
    folder = out / "timeless"
    done = subprocess.run(
        command("report", out, "--no-timings", "--out", folder, *more),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@contextmanager
def mounted(folder, options):
    """A small tmpfs; skips where this user may not mount one."""
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"no right to mount a tmpfs: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


NATIVE = "kind=native,threads=1,context=256,max_tokens=8"


def native_flags(battery, out, speculative):
    """The command of a screen of the native engine."""
    return command(
        "screen", "--battery", battery, "--target", NATIVE, "--speculative", speculative, "--out", out
    )


def native_screen(battery, out, speculative):
    """Its result; so few items that it cannot be measured."""
    done = subprocess.run(
        native_flags(battery, out, speculative), capture_output=True, text=True, check=False
    )
    assert done.returncode == UNMEASURED, done.stderr[-2000:]
    return json.loads((out / "result.json").read_text())["result"]
