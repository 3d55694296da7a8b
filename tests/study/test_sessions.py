"""Arms that share an open worker answer as they do in workers of their own, on tiny networks."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))
from made_study import networks

from specsafe.battery import Battery, Item
from specsafe.engines import NativeArm, Request, arm_id, check_arm, native, open_session
from specsafe.errors import UserError
from specsafe.study.ledger import open_ledger
from specsafe.study.run import Job, run_jobs

ITEMS = tuple(Item(f"What comes after {n}?", "capability", "sums", answers=(str(n + 1),)) for n in range(3))
COMMON = {"context": 128, "max_tokens": 8, "threads": 1, "slots": 2, "system": "", "dtype": "float32"}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return {name: str(path) for name, path in networks(tmp_path_factory.mktemp("networks")).items()}


@pytest.fixture(scope="module")
def arms(models):
    """Arms of one target, one of which draws samples."""
    target = NativeArm(model=models["big"], **COMMON)
    drafted = target.model_copy(update={"draft": models["little"]})
    return [
        target,
        drafted,
        drafted.model_copy(update={"rule": "typical", "epsilon": 0.05}),
        drafted.model_copy(update={"draft": "script", "script": "aaaa", "rule": "leak", "leak": 0.5}),
        drafted.model_copy(update={"temperature": 0.7, "rule": "rejection"}),
        NativeArm(model=models["little"], **COMMON),
    ]


def said(session):
    return {s.item: (s.text, s.token_ids) for s in session.generate([Request(i.id, i.prompt) for i in ITEMS])}


def test_a_worker_that_becomes_another_arm_answers_as_that_arm(arms):
    alone = []
    for arm in arms:
        session = open_session(arm)
        alone.append((said(session), session.fingerprint()))
        session.close()
    shared = open_session(arms[0])
    process = shared._process.pid
    for arm, expected in zip(arms, alone, strict=True):
        native.become(shared, arm)
        assert (said(shared), shared.fingerprint()) == expected
    assert shared._process.pid == process
    shared._process.kill()
    shared._process.wait()
    native.become(shared, arms[1])  # a worker that died is started as the new arm
    assert said(shared) == alone[1][0]
    with pytest.raises(UserError, match="longer than the target's"):
        native.become(shared, arms[0].model_copy(update={"context": 4096}))
    shared.close()


def test_jobs_of_one_session_are_rows_of_their_own_arms(arms, tmp_path):
    jobs = [
        Job(f"arm {n}", arm, arm_id(arm, check_arm(arm)), 0, ITEMS, "one") for n, arm in enumerate(arms[:3])
    ]
    jobs += [Job("again", arms[0], jobs[0].arm_id, 1, ITEMS, "two")]
    with open_ledger(tmp_path / "l.sqlite", {}, {}, Battery("b", "", "", ITEMS), "0") as ledger:
        run_jobs(jobs, ledger, at_once=1, logs=tmp_path)
        for job in jobs:
            assert set(ledger.answers(job.arm_id, job.replicate)) == {i.id for i in ITEMS}
            rule = ledger.arms()[job.role]["fingerprint"]["rule"]
            assert rule == job.arm.rule_in_force
    assert {p.name for p in tmp_path.glob("*.log")} == {"arm 0.log", "again.log"}
