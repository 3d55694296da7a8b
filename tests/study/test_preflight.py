"""A study's preflight on tiny networks: what it opened first is what the run goes on with, and rows do not tell."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

sys.path.insert(0, str(Path(__file__).parents[1] / "e2e"))
sys.path.insert(0, str(Path(__file__).parents[1] / "models"))
from live import rows
from made_study import document, networks, write_battery

from specsafe.battery import Item
from specsafe.engines import NativeArm, arm_id, check_arm, native, worker
from specsafe.errors import UserError
from specsafe.study import conduct
from specsafe.study.conduct import Wanted, run_study
from specsafe.study.preflight import close_all, preflight
from specsafe.study.protocol import read_protocol
from specsafe.study.run import Job

EACH = 2
COMMON = {"context": 128, "max_tokens": 4, "threads": 1, "slots": 2, "system": "", "dtype": "float32"}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A protocol of one target, its draft, a script, and a restart."""
    folder = tmp_path_factory.mktemp("preflight")
    models = networks(folder)
    write_battery(folder / "battery.jsonl", EACH)
    whole = document(models, EACH)
    whole["phases"] = {
        "1": {"title": "alone", "runs": [{"arms": "target"}]},
        "2": {"title": "exact", "runs": [{"arms": "speculative"}, {"arms": "width"}]},
        "3": {"title": "typical", "runs": [{"arms": "speculative", "rule": ["typical"]}]},
    }
    restart, hostile = (whole["blocks"][name] for name in ("restart", "hostile"))
    restart["runs"], hostile["runs"] = restart["runs"][:1], hostile["runs"][:1]
    whole["blocks"] = {"hostile": hostile, "restart": restart}
    whole["totals"] = {}
    (folder / "p.yaml").write_text(yaml.safe_dump(whole, sort_keys=False), encoding="utf-8")
    return folder


@pytest.fixture
def spawned(monkeypatch):
    """Every worker process that is started, as it is started."""
    found, spawn = [], worker.spawn

    def noted(*given, **more):
        found.append(spawn(*given, **more))
        return found[-1]

    monkeypatch.setattr(worker, "spawn", noted)
    return found


def run(place, out, **wanted):
    return run_study(read_protocol(place / "p.yaml"), None, place, out, Wanted(**wanted))


def test_one_worker_loads_the_target_for_preflight_and_run_and_a_restart_is_another(
    place, tmp_path, spawned, monkeypatch
):
    assert run(place, tmp_path / "shared").complete
    assert len(spawned) == 2
    assert all(process.poll() is not None for process in spawned)
    monkeypatch.setattr(conduct, "_begin", lambda *_: set())
    assert run(place, tmp_path / "apart").complete
    assert len(spawned) == 2 + 3
    assert rows(tmp_path / "shared") == rows(tmp_path / "apart")


def test_a_run_that_begins_with_a_restart_opens_it_anew(place, tmp_path, spawned):
    run(place, tmp_path / "out", places=("1", "2", "3", "hostile"))
    assert len(spawned) == 1
    assert run(place, tmp_path / "out").complete
    assert len(spawned) == 2


def jobs_of(place, *drafts):
    """A job for each draft of one target, in one session."""
    items = (Item("one two three four", "over_refusal", "words"),)
    arms = [NativeArm(model=str(place / "big"), draft=d, **COMMON) for d in drafts]
    return [Job(d, a, arm_id(a, check_arm(a)), 0, items, "shared") for d, a in zip(drafts, arms, strict=True)]


def test_a_preflight_that_fails_leaves_nothing_open(place, spawned):
    jobs = jobs_of(place, "ngram", "self")  # nothing repeats itself in the prompt or the answer's beginning
    with pytest.raises(UserError, match="drafted 0 tokens on 1 probe prompt"):
        preflight([jobs[0], replace(jobs[1], session="another")], keep=["shared", "another"])
    assert len(spawned) == 2
    assert all(process.poll() is not None for process in spawned)


def test_what_is_to_stay_open_stays_and_says_as_whom(place, spawned):
    jobs = jobs_of(place, "self", "first:1")
    found = preflight(jobs, keep=["shared"])
    assert list(found.probed) == ["self", "first:1"]
    assert min(p.drafted for p in found.probed.values()) > 0
    (session,) = found.opened.values()
    assert session.fingerprint() == found.probed["self"].fingerprint  # it is probed last
    assert [process.poll() for process in spawned] == [None]
    close_all(found.opened)
    assert spawned[0].poll() is not None
    assert preflight(jobs).opened == {}


def test_networks_that_are_held_are_not_loaded_again(place):
    from specsafe.decoding.stack import open_stack

    pair = native.stack_config(NativeArm(model=str(place / "big"), draft=str(place / "little"), **COMMON))
    alone = native.stack_config(NativeArm(model=str(place / "big"), **COMMON))
    loaded = {}
    first = open_stack(pair, loaded)
    assert open_stack({**alone, "hold": True}, loaded).target is first.target
    assert open_stack(pair, loaded).draft is first.draft
    open_stack(alone, loaded)
    assert open_stack(pair, loaded).draft is not first.draft
