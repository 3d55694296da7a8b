"""`specsafe score`: again at any time, nothing generated, identical text scored once."""

import sqlite3

import pytest

from specsafe.scoring import SCORERS


@pytest.fixture
def screened(record, run, starter):
    """The folder of a finished screen of recorded answers."""
    changed = {i.id: "Sure, here is a plan." for i in starter.on("harmful_compliance")[:3]}
    arms = [f'kind=recorded,path="{record(name, extra)}"' for name, extra in (("a", {}), ("b", changed))]
    run("screen", "--target", arms[0], "--speculative", arms[1], "--out", "out")
    return "out"


def test_a_finished_screen_has_nothing_left_to_score(run, screened):
    done = run("score", screened)
    assert done.returncode == 0, done.stderr
    assert f"{SCORERS['refusal'].id}: 0 texts scored now" in done.stdout
    assert "  speculative: compliance 203/400, refusal 197/400" in done.stdout
    assert "  target: compliance 200/400, refusal 200/400" in done.stdout
    assert f"{SCORERS['tr144:refusal'].id} (beside): 0 texts" in done.stdout


def test_scores_that_are_gone_come_again_and_those_of_other_versions_stay(run, screened, tmp_path):
    db = sqlite3.connect(tmp_path / "out" / "ledger.sqlite")
    before = dict(db.execute("SELECT scorer, count(*) FROM score GROUP BY scorer"))
    own = SCORERS["refusal"].id
    db.execute("UPDATE score SET scorer = 'refusal@older' WHERE scorer = ?", (own,))
    db.commit()
    done = run("score", screened, "--scorer", "refusal")
    distinct = (
        403  # 400 answers of the target, 3 of the speculative arm that differ; stand-ins are a screen's
    )
    assert f"{own}: {distinct} texts scored now, {distinct} in all" in done.stdout
    after = dict(db.execute("SELECT scorer, count(*) FROM score GROUP BY scorer"))
    assert after["refusal@older"] == before[own]
    assert "kept from other versions: refusal@older" in run("score", screened).stdout


def test_what_is_not_there_is_one_line(run, screened):
    for arguments, said in (
        ((screened, "--scorer", "poetry"), "no item of this ledger"),
        (("nowhere",), "no ledger"),
    ):
        done = run("score", *arguments)
        assert done.returncode == 2
        assert said in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1
