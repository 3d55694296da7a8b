"""A comparison in four processes, one a phase, and the same one killed again and again: the same answers, labels, numbers."""

from __future__ import annotations

import json
import random
import sqlite3
import subprocess
import time
from contextlib import closing

import pytest
import yaml
from live import command, gone, outlived, workers
from tests.recounting import recounted

pytestmark = pytest.mark.model
TIMED = ("tokens_a_second", "atgr")
COLUMNS = "arm, item, replicate, text, finish, token_ids, logprobs, drafted, accepted, rounds, columns"
ARM = {
    "draft": "self",
    "draft_system": "Be careful.",
    "num_speculative_tokens": 2,
    "max_tokens": 8,
    "context": 256,
    "threads": 1,
    "slots": 4,
}
CONFIG = {
    "name": "small",
    "arm": ARM,
    "items": [
        {"path": "ask.json", "axis": "harmful_compliance", "cluster": "kind"},
        {"path": "fine.json", "axis": "over_refusal"},
    ],
    "baselines": ["vanilla"],
    "methods": {
        "vanilla": {},
        "ssd-crs": {},
        "random-mode": {"matched": "ssd-crs"},
        "calibrated": {"method": "ssd-crs-zero-lag", "false_alarms": 0.25},
    },
    "tuning": {
        "items": [{"path": "starter", "limit": 2}],
        "ablations": {"alpha": {"method": "ssd-crs", "varied": "alpha", "settings": {"as it is": {}}}},
    },
}


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    """The folder of a comparison file and its prompts."""
    folder = tmp_path_factory.mktemp("asked")
    for name in ("ask", "fine"):
        rows = [{"prompt": f"Tell me {name} number {n}.", "kind": str(n % 2)} for n in range(4)]
        (folder / f"{name}.json").write_text(json.dumps(rows))
    (folder / "small.yaml").write_text(yaml.safe_dump(CONFIG, sort_keys=False))
    return folder


def compare(asked, out, *phase):
    return command("compare", asked / "small.yaml", "--out", out, *phase)


@pytest.fixture(scope="module")
def undisturbed(asked, tmp_path_factory):
    """Every phase a process of its own."""
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    for phase in ("tune", "generate", "score", "report"):
        assert not (out / "comparison.json").exists()
        done = subprocess.run(
            compare(asked, out, "--phase", phase), capture_output=True, text=True, timeout=600, check=False
        )
        assert done.returncode == 0, done.stderr
    return out


def rows(out):
    """What a run must reproduce, of both ledgers; times are not."""
    found = []
    for part in ("tuning", "."):
        with closing(sqlite3.connect(f"file:{out / part / 'ledger.sqlite'}?mode=ro", uri=True)) as db:
            found.append(sorted(db.execute(f"SELECT {COLUMNS} FROM sample").fetchall(), key=repr))  # noqa: S608
            found.append(sorted(db.execute("SELECT item, text_sha256, scorer, record FROM score").fetchall()))
    return found


def numbers(out):
    """The result without what a clock said."""
    told = json.loads((out / "comparison.json").read_text())
    tuned = [m for a in told["tuning"]["ablations"] for m in a["methods"]]
    for method in [*told["methods"], *tuned]:
        for name in TIMED:
            del method[name]
    return told


def test_a_comparison_that_is_killed_again_and_again_ends_with_the_same_bytes(asked, undisturbed, tmp_path):
    random_, out, kills = random.Random(5), tmp_path / "out", 0
    while True:
        process = subprocess.Popen(
            compare(asked, out), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        until = time.monotonic() + random_.uniform(4, 14)
        while kills < 4 and time.monotonic() < until and process.poll() is None:
            time.sleep(0.05)
        if kills == 4 or process.poll() is not None:
            break
        left, kills = workers(process.pid), kills + 1
        process.kill()
        process.communicate()
        outlived(left)
        assert all(map(gone, left))
    _, told = process.communicate(timeout=600)
    assert process.returncode == 0, told
    assert kills >= 2, "it ended before it could be killed twice"
    assert rows(out) == rows(undisturbed)
    assert numbers(out) == numbers(undisturbed)


def test_every_number_of_the_result_is_counted_again_from_the_ledger(undisturbed):
    done = recounted("recount_compare.py", undisturbed / "ledger.sqlite", undisturbed / "comparison.json")
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[1]) > 200


def test_the_recount_finds_a_number_that_is_not_that_of_the_rows(undisturbed, tmp_path):
    told = json.loads((undisturbed / "comparison.json").read_text())
    told["methods"][1]["contrasts"][0]["worse"] += 1
    (tmp_path / "comparison.json").write_text(json.dumps(told))
    done = recounted("recount_compare.py", undisturbed / "ledger.sqlite", tmp_path / "comparison.json")
    assert done.returncode == 1
    assert "ssd-crs against vanilla, harmful_compliance.worse: recomputed" in done.stderr
