"""Labels of people, judges and guards. Laws: a sheet tells no arm; what comes back is kept once, and decides the passes that need it."""

from __future__ import annotations

import csv
import shutil
import sys
from pathlib import Path

import pytest
from made_ledger import NO, write_ledger
from typer.testing import CliRunner

from specsafe.analysis.passes.judges import consensus
from specsafe.analysis.run import analyze
from specsafe.cli.main import app
from specsafe.errors import UserError
from specsafe.report.written import STUDY
from specsafe.study.labels import COLUMNS, read_labels
from specsafe.study.ledger import read_ledger
from specsafe.study.verify import verify

LABELLED = ("judge_labels", "judge_agreement", "scorer_error")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A study and its sheet."""
    folder = tmp_path_factory.mktemp("labels")
    write_ledger(folder, each=10)
    study("export", folder, "--sheet", "--include-text")
    return folder


@pytest.fixture
def folder(whole, tmp_path):
    return Path(shutil.copytree(whole, tmp_path / "study"))


def study(*arguments):
    """Run a command -> what it printed; raises what it raised."""
    done = CliRunner().invoke(app, ["study", *map(str, arguments)])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.stdout


def rows(sheet):
    with sheet.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def fill(sheet, call, note="", parted=","):
    """Write a sheet with labels. call: number and row -> label."""
    found = [{**row, "label": call(n, row), "note": note} for n, row in enumerate(rows(sheet))]
    with sheet.open("w", encoding="utf-8-sig", newline="") as file:  # as a spreadsheet saves it
        writer = csv.DictWriter(file, COLUMNS, delimiter=parted)
        writer.writeheader()
        writer.writerows(found)
    return len(found)


def rightly(_, row):
    return "Full refusal" if row["text"] in NO else "compliance"


def analysed(folder):
    with read_ledger(folder) as ledger:
        assert verify(ledger) == []
        return analyze(ledger, check=False)


def states(result):
    return [result.find(name).state for name in LABELLED]


def test_a_sheet_holds_every_distinct_answer_once_in_an_order_that_is_chance_and_names_no_arm(folder):
    found = rows(folder / "labels.csv")
    assert tuple(found[0]) == COLUMNS
    names = [row["answer"] for row in found]
    assert names == sorted(set(names)) and all(name.startswith("a") for name in names)
    assert len({(row["prompt"], row["text"]) for row in found}) == len(found) >= 40
    assert all("number" in row["prompt"] and not row["label"] for row in found)
    text = (folder / "labels.csv").read_text()
    assert not any(word in text for word in ("typical", "big", "mid", "refusal", "sums"))


def test_the_quota_of_people_is_the_length_of_their_sheet(tmp_path):
    write_ledger(tmp_path, each=6, quota=7)
    assert "7 answers to label" in study("export", tmp_path, "--sheet", "--include-text")
    assert len(rows(tmp_path / "labels.csv")) == 7


def test_a_sheet_is_written_on_request_alone_and_never_over_another(folder):
    with pytest.raises(UserError, match="holds prompts and answers"):
        study("export", folder, "--sheet")
    with pytest.raises(UserError, match="may hold labels"):
        study("export", folder, "--sheet", "--include-text")
    with pytest.raises(UserError, match="needs a format"):
        study("export", folder, "--sheet", "--parquet")


def test_labels_of_people_decide_agreement_and_the_scorers_error(folder):
    assert states(analysed(folder)) == ["no labels"] * 3
    n = fill(folder / "labels.csv", lambda n, row: "" if n == 0 else rightly(n, row))
    said = study("score", folder, "--labels", folder / "labels.csv", "--rater", "Ana")
    assert said == f"human:Ana: {n - 1} labels new, {n - 1} in all; 1 row has none\n"
    assert "0 labels new" in study("score", folder, "--labels", folder / "labels.csv", "--rater", "Ana")
    result = analysed(folder)
    assert states(result) == ["no labels", "done", "done"]
    assert {(x.of, x.estimates[0].estimate) for x in result.find("judge_agreement").lines} == {
        ("human:Ana", 1.0)
    }
    (wrong,) = {(x.estimates[0].k, x.estimates[0].n) for x in result.find("scorer_error").lines}
    assert wrong[0] == 0 and 40 <= wrong[1] <= n - 1
    assert "beyond the scorers' error" in {x.reading for x in result.find("scorer_error").lines}
    assert "human:Ana" in STUDY.markdown(result)
    assert "human:Ana: " in study("score", folder)


def test_two_people_are_held_against_each_other_and_what_they_dispute_decides_nothing(folder):
    for name, call in (
        ("Ana", rightly),
        ("Bo", lambda n, row: "unclear" if n == 1 else "compliance" if n % 4 == 0 else rightly(n, row)),
    ):
        fill(folder / "labels.csv", call)
        study("score", folder, "--labels", folder / "labels.csv", "--rater", name)
    result = analysed(folder)
    (between,) = [x for x in result.find("judge_agreement").lines if x.of == "human:Ana and human:Bo"]
    kappa = between.estimates[0]
    assert kappa.low < kappa.estimate < 1 and kappa.k < kappa.n and kappa.parts["left out"] == 1
    (wrong,) = {(x.estimates[0].k, x.estimates[0].n) for x in result.find("scorer_error").lines}
    assert wrong == (0, kappa.k + 1)  # Ana alone decides what is unclear to Bo


def test_a_consensus_is_what_all_who_decide_say():
    key, other, third = ("i", "1"), ("i", "2"), ("i", "3")
    raters = {"a": {key: "refusal", other: "unclear"}, "b": {key: "PARTIAL_REFUSAL", third: "compliance"}}
    assert consensus(raters) == {key: "refusal", other: "unclear", third: "compliance"}
    assert consensus({**raters, "c": {key: "compliance"}})[key] == "unclear"


def test_a_judges_labels_are_a_judges_and_one_that_decides_nothing_stops_the_analysis(folder):
    fill(folder / "labels.csv", rightly)
    study("score", folder, "--labels", folder / "labels.csv", "--judge", "gemma3 12b")
    result = analysed(folder)
    assert states(result) == ["done", "done", "no labels"]
    assert {x.of for x in result.find("judge_labels").lines} == {"judge:gemma3 12b"}
    assert [p for p in result.published if p.about == "kappa"]
    fill(folder / "labels.csv", lambda *_: "UNCLEAR")
    study("score", folder, "--labels", folder / "labels.csv", "--judge", "other")
    with read_ledger(folder) as ledger, pytest.raises(UserError, match="of judge:other decides anything"):
        analyze(ledger, check=False)


def changed(folder, old, new):
    text = (folder / "labels.csv").read_text()
    (folder / "labels.csv").write_text(text.replace(old, new, 1))


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda f: changed(f, "answer,", "id,"), "has no column answer"),
        (lambda f: (f / "labels.csv").write_text(""), "has no column answer"),
        (lambda f: (f / "labels.csv").write_bytes(b"\xff\xfe\x00"), "cannot read"),
        (lambda f: (f / "labels.csv").unlink(), "cannot read"),
        (lambda f: fill(f / "labels.csv", lambda *_: "maybe"), "row 2: no label 'maybe'"),
        (
            lambda f: (fill(f / "labels.csv", rightly), changed(f, "\na", "\nb")),
            "1 id is no answer of this study",
        ),
    ],
)
def test_a_sheet_that_cannot_be_kept_is_one_line_and_nothing_of_it_is(folder, spoil, told):
    spoil(folder)
    with pytest.raises(UserError, match=told) as error:
        study("score", folder, "--labels", folder / "labels.csv", "--rater", "Ana")
    assert error.value.hint and "\n" not in str(error.value)
    with read_ledger(folder) as ledger:
        assert not any(who.startswith("human:") for who in ledger.scorers())


def test_an_answer_is_called_one_thing_by_one_rater(folder, tmp_path):
    sheet = tmp_path / "twice.csv"
    sheet.write_text("answer,label\na1,refusal\na1,compliance\n")
    with pytest.raises(UserError, match="row 3: answer a1 has two labels"):
        read_labels(sheet)
    fill(folder / "labels.csv", rightly)
    study("score", folder, "--labels", folder / "labels.csv", "--rater", "Ana")
    fill(folder / "labels.csv", lambda *_: "compliance")
    with pytest.raises(UserError, match=r"human:Ana called a\w+ full_refusal before, and compliance now"):
        study("score", folder, "--labels", folder / "labels.csv", "--rater", "Ana")
    study("score", folder, "--labels", folder / "labels.csv", "--rater", "Ana again")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--labels", "labels.csv"), "whose labels are these"),
        (("--labels", "labels.csv", "--rater", "a", "--judge", "b"), "whose labels are these"),
        (("--labels", "labels.csv", "--rater", "../a"), "no name of a rater"),
        (("--rater", "a"), "name whose labels a sheet holds"),
        (("--labels", "labels.csv", "--guard", "model=x"), "three things"),
        (("--guard", "x"), "'x' is no key=value"),
        (("--guard", "model=x,heat=1"), "unknown key 'heat'"),
        (("--guard", "model=/nowhere/x"), "guard: "),
    ],
)
def test_flags_that_do_not_fit_are_one_line(folder, arguments, told):
    with pytest.raises(UserError, match=told):
        study("score", folder, *arguments)


def test_a_sheet_parted_by_semicolons_is_read_and_its_notes_leave_the_ledger_on_request_alone(folder):
    parquet = pytest.importorskip("pyarrow.parquet")
    n = fill(folder / "labels.csv", rightly, note="It says: Sure; step one", parted=";")
    study("score", folder, "--labels", folder / "labels.csv", "--rater", "Ana")
    for flags, told in (((), False), (("--include-text",), True)):
        study("export", folder, "--parquet", *flags)
        records = parquet.read_table(folder / "parquet" / "score.parquet").to_pylist()
        mine = [r["record"] for r in records if r["scorer"] == "human:Ana"]
        assert len(mine) == n and all('"label":' in r and ("step one" in r) == told for r in mine)


def test_a_real_guard_labels_the_refusals_of_a_study(tmp_path):
    pytest.importorskip("torch")
    sys.path.append(str(Path(__file__).parents[1] / "compare"))
    from handmade import GUARD, write_folder

    write_folder(tmp_path / "guard", GUARD)
    write_ledger(tmp_path / "study", each=4)
    keys = f"model={tmp_path / 'guard'},threads=1,dtype=float32,context=512"
    said = study("score", tmp_path / "study", "--guard", keys)
    assert said.startswith("guard:guard:")
    result = analysed(tmp_path / "study")
    assert states(result) == ["done", "done", "no labels"]
    lines = result.find("judge_agreement").lines
    assert {x.estimates[0].estimate for x in lines} <= {1.0, None} and {x.of for x in lines} == {
        said.partition(": ")[0]
    }
    assert "0 labels new" in study("score", tmp_path / "study", "--guard", keys)
