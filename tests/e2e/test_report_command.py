"""`specsafe report` through the command line: the files, their numbers, and what is refused."""

import csv
import errno
import json
import os
import shutil
import sqlite3
import subprocess
from pathlib import Path
from xml.etree import ElementTree as ET

import jsonschema
import pytest
from live import HELP, WRONG, command, fine_answer
from tests.recounting import recounted

from specsafe.battery import load_battery
from specsafe.errors import UserError
from specsafe.report.envelope import json_schema
from specsafe.study.ledger import read_ledger, storage_errors

ROOT = Path(__file__).parents[2]
FILES = ["pairs.csv", "report.html", "report.json", "report.md", "report.xml"]
HOSTILE = "</script><script>alert(1)</script>\x1b]0;owned\x07\u2028=1+1"


def new_files(folder):
    return sorted(p.name for p in folder.iterdir() if p.name in FILES or p.name.startswith("."))


def recorded(path, items, changes):
    rows = [{"item": i.id, "text": changes.get(i.id, fine_answer(i))} for i in items]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return f"kind=recorded,path={path}"


@pytest.fixture(scope="module")
def one_screen(tmp_path_factory):
    """A screen with seven wrong answers and a hostile one -> its folder."""
    folder = tmp_path_factory.mktemp("screen")
    battery = load_battery("starter")
    changes = dict.fromkeys([i.id for i in battery.on("capability")[:7]], WRONG)
    changes[battery.on("over_refusal")[0].id] = HELP + HOSTILE
    arms = []
    for role, changed in (("target", {}), ("speculative", changes), ("replicate", {})):
        arms += [f"--{role}", recorded(folder / f"{role}.jsonl", battery.items, changed)]
    flags = command("screen", *arms, "--out", folder / "out")
    done = subprocess.run(flags, capture_output=True, text=True, check=False)
    assert done.returncode in (3, 5), done.stderr
    return folder / "out"


@pytest.fixture
def screened(one_screen, tmp_path):
    """A copy of that screen -> (its folder, its document)."""
    folder = tmp_path / "out"
    shutil.copytree(one_screen, folder)
    for name in FILES:
        (folder / name).unlink(missing_ok=True)
    return folder, json.loads((folder / "result.json").read_text())


def test_the_report_holds_the_result_of_the_screen(screened, run):
    folder, document = screened
    done = run("report", folder)
    assert done.returncode == 0, done.stderr
    assert new_files(folder) == FILES
    assert json.loads((folder / "report.json").read_text()) == document
    assert done.stdout.splitlines() == [
        *(str(folder / n) for n in ("report.html", "report.md", "report.json", "report.xml", "pairs.csv")),
        document["result"]["headline"],
    ]
    assert document["result"]["verdict"] in (folder / "report.html").read_text()
    cases = {c.get("name"): c for c in ET.parse(folder / "report.xml").iter("testcase")}
    assert sorted(cases) == ["capability", "exactness", "harmful compliance", "over-refusal"]


def test_its_numbers_are_recomputed_by_the_independent_script(screened, run):
    folder, _ = screened
    run("report", folder / "ledger.sqlite")
    done = recounted("recompute.py", folder / "ledger.sqlite", folder / "report.json")
    assert done.returncode == 0, done.stderr
    assert "all agree" in done.stdout


def test_the_same_ledger_gives_the_same_bytes(screened, run, tmp_path):
    folder, _ = screened
    for name in ("1", "2"):
        assert run("report", folder, "--out", tmp_path / name).returncode == 0
    for name in FILES:
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes()


def test_what_a_clock_measured_can_be_left_out(record, run, tmp_path):
    timed = {"token_ids": lambda _: [1, 2], "seconds": lambda _: 0.5}
    target, fast = (f"kind=recorded,path={record(name, **timed)}" for name in ("a", "b"))
    run("screen", "--target", target, "--speculative", fast, "--out", tmp_path / "out")
    assert "1.00x" in _page(run, tmp_path / "out")
    assert "1.00x" not in _page(run, tmp_path / "out", "--no-timings")
    assert json.loads((tmp_path / "out" / "report.json").read_text())["result"]["speed_up"] is None


def _page(run, folder, *flags):
    assert run("report", folder, *flags).returncode == 0
    return (folder / "report.html").read_text()


def test_no_answer_leaves_the_ledger_unless_asked_for(screened, run):
    folder, _ = screened
    run("report", folder)
    for name in FILES:
        assert "purple umbrella" not in (folder / name).read_text(), name
        assert "owned" not in (folder / name).read_text(), name
    done = run("report", folder, "--include-text", "--format", "html,csv,md,json,junit")
    assert "model output, which may be harmful" in done.stdout
    assert {n for n in FILES if "purple umbrella" in (folder / n).read_text()} == {"report.html", "pairs.csv"}
    page = (folder / "report.html").read_text()
    assert "owned" in page
    assert "<script" not in page
    assert "\x1b" not in page


def test_the_pairs_are_all_there_one_a_line(screened, run):
    folder, _ = screened
    done = run("report", folder, "--format", "csv")
    assert done.returncode == 0
    assert new_files(folder) == ["pairs.csv"]
    with (folder / "pairs.csv").open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 600
    assert len((folder / "pairs.csv").read_text().splitlines()) == 601
    flipped = [r for r in rows if r["target_label"] == "correct" and r["speculative_label"] == "wrong"]
    assert len(flipped) == 7
    assert sum(r["identical"] == "false" for r in rows) == 8


def test_as_json_there_is_one_document_and_notices_go_to_stderr(screened, run):
    folder, document = screened
    done = run("report", folder, "--json", "--format", "md")
    said = json.loads(done.stdout)
    jsonschema.validate(said, json_schema())
    assert said["result"] == document["result"]
    assert (said["command"], said["exit_code"]) == ("report", 0)
    assert "report.md" in done.stderr


def test_an_unfinished_screen_is_refused_and_told_how_far_it_is(screened, run):
    folder, _ = screened
    with sqlite3.connect(folder / "ledger.sqlite") as db:
        db.execute("UPDATE study SET complete = 0")
        db.execute("DELETE FROM sample WHERE rowid IN (SELECT rowid FROM sample LIMIT 10)")
    done = run("report", folder)
    assert done.returncode == 2
    assert "is not finished: " in done.stderr
    assert "590 of 600" in done.stderr
    assert "--resume --out" in done.stderr
    assert new_files(folder) == []


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["nowhere"], "no ledger"),
        (["."], "no ledger"),
        (["--format", "pdf"], "unknown format 'pdf'"),
        (["--format", ","], "unknown format"),
        (["--out", "/dev/null/x"], "cannot use"),
    ],
)
def test_what_cannot_be_done_is_one_line(flags, expected, screened, run):
    folder, _ = screened
    done = run("report", *(flags if flags[0][0] != "-" else [folder, *flags]))
    assert done.returncode == 2
    assert expected in done.stderr
    assert "Traceback" not in done.stderr


def test_a_folder_that_may_only_be_read_can_be_reported_elsewhere(screened, run, tmp_path):
    folder, document = screened
    for extra in ("-wal", "-shm"):
        (folder / f"ledger.sqlite{extra}").unlink(missing_ok=True)
    folder.chmod(0o555)
    try:
        done = run("report", folder, "--out", tmp_path / "elsewhere")
    finally:
        folder.chmod(0o755)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "elsewhere" / "report.json").read_text()) == document


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("UPDATE study SET config = json_set(config, '$.colour', 1)", "colour: "),
        ("UPDATE study SET config = '{'", "is not a ledger"),
        ("UPDATE study SET config = '5'", "is not a ledger"),
        ("UPDATE study SET resolved = '[1]'", "is not a ledger"),
        ("UPDATE study SET resolved = '{\"battery\": 1}'", "is not a ledger"),
        ("UPDATE arm SET config = '{'", "is not a ledger"),
        ("UPDATE item SET answers = '{'", "is not a ledger"),
        ("DELETE FROM arm WHERE role = 'speculative'", "it has no speculative arm"),
        ("DELETE FROM study", "no study"),
        ("DROP TABLE sample", "cannot be read as a ledger"),
    ],
)
def test_a_strange_ledger_is_one_line(change, expected, screened, run):
    folder, _ = screened
    with sqlite3.connect(folder / "ledger.sqlite") as db:
        db.execute(change)
    done = run("report", folder, "--out", folder / "elsewhere")
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert expected in done.stderr
    assert str(folder / "ledger.sqlite") in done.stderr
    assert "--out" not in done.stderr


def test_a_damaged_ledger_is_named_and_no_room_is_asked_for(screened, run):
    folder, _ = screened
    (folder / "ledger.sqlite").write_text("no ledger " * 300)
    done = run("report", folder)
    assert done.returncode == 2
    assert done.stderr.startswith(f"specsafe: cannot use {folder / 'ledger.sqlite'}: file is not a database")
    assert "make room" not in done.stderr


def test_a_folder_whose_name_is_not_utf_8_can_be_reported(screened, run):
    folder, document = screened
    strange = os.fsencode(folder) + b"\xff%#?"
    folder.rename(os.fsdecode(strange))
    for flags in ((), ("--json",)):
        done = run("report", os.fsdecode(strange), *flags, errors="replace")
        assert done.returncode == 0, done.stderr
        assert document["result"]["headline"] in done.stdout
    with sqlite3.connect(strange + b"/ledger.sqlite") as db:
        db.execute("UPDATE study SET config = '{'")
    done = run("report", os.fsdecode(strange), "--json")
    assert done.returncode == 2
    assert "is not a ledger" in json.loads(done.stdout)["error"]["message"]


def test_an_empty_log_in_a_folder_that_may_only_be_read_is_no_obstacle(screened, monkeypatch):
    folder, _ = screened
    for extra in ("-wal", "-shm"):
        (folder / f"ledger.sqlite{extra}").unlink(missing_ok=True)
    (folder / "ledger.sqlite-wal").touch()
    monkeypatch.setattr(os, "access", lambda *_: False)
    with read_ledger(folder) as ledger:
        assert ledger.complete
        assert not (folder / "ledger.sqlite-shm").exists()


@pytest.mark.parametrize(
    ("error", "hint"),
    [
        (OSError(errno.ENOSPC, "full"), "make room"),
        (OSError(errno.EROFS, "read-only"), "make room"),
        (PermissionError(errno.EACCES, "not yours"), "make room"),
        (NotADirectoryError(errno.ENOTDIR, "a file"), "name another folder"),
        (sqlite3.DatabaseError("malformed"), "cannot be read as a ledger"),
    ],
)
def test_what_to_do_depends_on_what_is_wrong(error, hint, tmp_path):
    with pytest.raises(UserError, match="cannot use") as caught, storage_errors(tmp_path):
        raise error
    assert hint in caught.value.hint


def test_what_does_not_fit_on_the_disk_of_stdout_is_one_line(screened):
    folder, _ = screened
    for arguments in (("report", folder, "--json"), ("battery", "show"), ("--help",), ("screen", "--plan")):
        with Path("/dev/full").open("w") as full:
            done = subprocess.run(
                command(*arguments), stdout=full, stderr=subprocess.PIPE, text=True, check=False
            )
        assert done.returncode == 2, arguments
        last = done.stderr.splitlines()[-1]
        assert last.startswith("specsafe: cannot write the output: "), done.stderr
        assert "No space left" in last
        assert "Traceback" not in done.stderr
        assert "Exception ignored" not in done.stderr


def test_a_reader_that_goes_away_leaves_no_traceback(screened, tmp_path):
    folder, _ = screened
    for arguments in (
        ("report", folder, "--json"),
        ("battery", "show"),
        ("--help",),
        ("screen", "--margin", "7", "--json"),
    ):
        reader, writer = os.pipe()
        os.close(reader)
        done = subprocess.run(
            command(*arguments), stdout=writer, stderr=subprocess.PIPE, text=True, cwd=tmp_path, check=False
        )
        os.close(writer)
        assert done.returncode == 141, arguments
        assert "Traceback" not in done.stderr
        assert "BrokenPipe" not in done.stderr
