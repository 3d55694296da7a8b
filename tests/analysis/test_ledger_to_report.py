"""Room: analysis and report, from a ledger. Laws: numbers recounted, the same bytes, nothing hostile, nothing of an answer."""

from __future__ import annotations

import json
import sqlite3
from xml.etree import ElementTree as ET

import pytest
from made_ledger import NO, YES, write_ledger
from tests.recounting import recounted
from tests.report.pages import Page

from specsafe.analysis.result import StudyResult
from specsafe.analysis.run import analyze, without_timings
from specsafe.errors import UserError
from specsafe.report.serve import Shelf
from specsafe.report.written import STUDY
from specsafe.study.ledger import open_ledger, read_ledger


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """(folder, result, files) of a whole study."""
    folder = tmp_path_factory.mktemp("study")
    path = write_ledger(folder)
    with open_ledger(path, None, {}, None, "1") as ledger:
        result = analyze(ledger)
    return folder, result, STUDY.write(result, folder)


def test_the_numbers_are_those_of_an_independent_recount(study):
    folder, _, _ = study
    found = recounted("recount_study.py", folder, folder / "study.json")
    assert found.returncode == 0, found.stdout + found.stderr
    assert int(found.stdout.split()[1]) > 300


def test_the_recount_finds_a_number_that_was_changed(study, tmp_path):
    folder, _, _ = study
    changed = json.loads((folder / "study.json").read_text())
    lines = next(p for p in changed["passes"] if p["name"] == "equivalence")["lines"]
    lines[3]["estimates"][0]["parts"]["worse"] += 1
    (tmp_path / "study.json").write_text(json.dumps(changed))
    found = recounted("recount_study.py", folder, tmp_path / "study.json")
    assert found.returncode == 1 and "equivalence" in found.stderr


def test_the_same_ledger_gives_the_same_bytes(study, tmp_path):
    folder, _, written = study
    with read_ledger(folder) as ledger:
        again = STUDY.write(analyze(ledger), tmp_path)
    assert [p.name for p in again] == [p.name for p in written]
    assert all(a.read_bytes() == b.read_bytes() for a, b in zip(written, again, strict=True))


def test_the_result_is_read_back_as_it_was_written(study):
    folder, result, _ = study
    assert StudyResult.model_validate_json((folder / "study.json").read_bytes()) == result


def test_what_was_planted_stands_in_the_result(study):
    _, result, _ = study
    standing = {h.name: str(h.standing) for h in result.hypotheses}
    assert standing["H2"] == standing["H3"] == "supported"
    assert {
        g.verdict for c in result.gates if c.cell.startswith("3: ") for g in c.gates if g.axis != "capability"
    } == {"FAIL"}
    probes = [c.key for c in result.cells if c.part == "probe"]
    assert probes and not set(probes) & {g.cell for g in result.gates}
    assert result.checked and result.verification == () and result.lock["sha256"] == "ab" * 32
    assert any(c.failed for c in result.cells) and not any(c.missing for c in result.cells)


def test_every_report_tells_lock_deviations_counts_and_verification(study):
    _, result, _ = study
    page, markdown = Page(STUDY.html(result)), STUDY.markdown(result)
    text = " ".join(page.text)
    for told in (text, markdown):
        assert "ab" * 32 in told and "all rows are what was written" in told
        assert "Deviations from the lock" in told and "Planned against actual" in told
        assert "shown, not judged" in told and "not applicable" in told and "no labels" in told
    assert "dtype was float32, is <b>float16</b>" in text  # as text, not as an element
    assert "b" not in {tag for tag, _ in page.elements}
    assert "<b>" not in markdown


def test_pages_load_nothing_and_hold_no_answer(study):
    folder, _, written = study
    page = Page((folder / "study.html").read_text())
    for tag, attributes in page.elements:
        assert tag not in ("script", "img", "iframe", "link", "object")
        assert "style" not in attributes
        for name in ("href", "src", "xlink:href"):
            assert attributes.get(name, "#").startswith("#")
    for path in written:
        text = path.read_text(encoding="utf-8")
        assert not any(said[:20] in text for said in (*NO, *YES))
        assert str(folder) not in text
        if path.suffix == ".svg":
            ET.fromstring(text)
    assert {p.stem.rstrip("-0123456789") for p in written if p.suffix == ".svg"} == {
        "planned", "forest", "dose", "acceptance", "identity", "forks",
    }  # fmt: skip


def test_without_timings_nothing_of_a_clock_is_left(study):
    _, result, _ = study
    assert without_timings(result).find("speed").state == "not applicable"
    assert result.find("speed").state == "done"


def test_the_shelf_shows_a_study_once_it_is_analysed(study, tmp_path):
    folder, _, _ = study
    (entry,) = Shelf(folder).entries()
    assert entry.result is not None and entry.state.startswith("H0 ")
    write_ledger(tmp_path / "begun", each=6, complete=False)
    (entry,) = Shelf(tmp_path).entries()
    assert entry.result is None and entry.state == "a study, not finished"


def test_a_study_that_is_not_finished_is_analysed_as_far_as_it_is(tmp_path):
    path = write_ledger(
        tmp_path, each=10, complete=False, hide=lambda cell, item: cell.where != "1" and item.task == "sums"
    )
    with read_ledger(path) as ledger:
        result = analyze(ledger, check=False)
    assert any(c.missing for c in result.cells) and not result.complete and not result.checked
    assert "The study is not complete" in STUDY.markdown(result)


def test_a_study_without_an_answer_says_nothing(tmp_path):
    path = write_ledger(tmp_path, each=8, complete=False, hide=lambda cell, item: True)
    with read_ledger(path) as ledger:
        result = analyze(ledger, check=False)
    assert {str(h.standing) for h in result.hypotheses} == {"not testable"}
    assert [p.name for p in result.passes if p.state == "done"] == ["audit"]  # arms were opened
    assert not result.gates and not result.published and result.answers == 0
    assert "No cell with a matched target can be judged yet" in STUDY.markdown(result)


def change_a_text(path):
    db = sqlite3.connect(path)
    db.execute("UPDATE sample SET text = 'something else' WHERE rowid = 5")
    db.commit()
    db.close()


def test_a_changed_row_is_told_in_the_report(tmp_path):
    path = write_ledger(tmp_path, each=6)
    with open_ledger(path, None, {}, None, "1") as ledger:
        analyze(ledger)
    change_a_text(path)
    with read_ledger(path) as ledger:
        result = analyze(ledger)
    assert result.verification and "The ledger is not what was written" in STUDY.markdown(result)


def test_a_changed_answer_that_was_never_scored_is_not_scored(tmp_path):
    path = write_ledger(tmp_path, each=6)
    change_a_text(path)
    with read_ledger(path) as ledger, pytest.raises(UserError, match="not what was written"):
        analyze(ledger)


def test_baselines_of_another_ledger_are_compared_and_an_empty_comparison_is_refused(tmp_path):
    one, other = (write_ledger(tmp_path / n, each=12, name=n) for n in ("one", "other"))
    with read_ledger(one) as a, read_ledger(other) as b:
        found = analyze(a, earlier=[b], check=False).find("earlier_baselines")
    assert found.state == "done" and all(x.estimates[0].k == 0 for x in found.lines)
    empty = write_ledger(tmp_path / "none", each=6, published={"a paper": {"other model": {"harm": 0.5}}})
    with read_ledger(empty) as ledger, pytest.raises(UserError, match="nothing to compare"):
        analyze(ledger, check=False)


def test_another_ledger_is_refused(tmp_path):
    from made_ledger import make_battery

    with (
        open_ledger(tmp_path / "ledger.sqlite", {"screen": 1}, {}, make_battery(3), "1") as ledger,
        pytest.raises(UserError, match="no study"),
    ):
        analyze(ledger)
