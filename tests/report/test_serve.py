"""The shelf of `view`: one strange file hides no other, and the folders are not walked at every request."""

import asyncio
import os
import shutil
import sqlite3
from pathlib import Path

import pytest
from made_comparison import make_comparison

from specsafe.battery import Battery, Item
from specsafe.report import serve
from specsafe.report.serve import Shelf, make_app
from specsafe.report.written import COMPARISON
from specsafe.study.ledger import LEDGER, open_ledger

BATTERY = Battery("b", "1", "none", (Item("Say one.", "capability", "t", answers=("one",)),))


@pytest.fixture
def folder(tmp_path):
    """Folders with a ledger each that cannot be analysed, every one for another reason."""
    changes = {
        "unknown-key": "UPDATE study SET config = '{\"colour\": 1}'",
        "no-json": "UPDATE study SET config = '{'",
        "no-mapping": "UPDATE study SET resolved = '5'",
        "no-study": "DELETE FROM study",
        "old-format": "UPDATE study SET format = 1",
    }
    for name, change in changes.items():
        with open_ledger(tmp_path / name / LEDGER, {"a": 1}, {}, BATTERY, "1"):
            pass
        with sqlite3.connect(tmp_path / name / LEDGER) as db:
            db.execute("UPDATE study SET complete = 1")
            db.execute(change)
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / LEDGER).write_text("no ledger\n" * 100)
    return tmp_path


def get(shelf, path):
    """(status, text) of an address."""
    sent = []

    async def receive():
        return {"type": "http.request"}

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": "GET", "path": path, "headers": [], "query_string": b""}
    asyncio.run(make_app(shelf)(scope, receive, send))
    return sent[0]["status"], b"".join(m.get("body", b"") for m in sent).decode()


def index(shelf):
    """(status, text) of the index."""
    return get(shelf, "/")


def places(shelf):
    return sorted(e.place for e in shelf.entries())


def test_what_cannot_be_analysed_is_listed_with_its_reason(folder):
    status, text = index(Shelf(folder))
    assert status == 200
    assert text.count("cannot be read: ") == 6
    for entry in Shelf(folder).entries():
        assert len(entry.state.splitlines()) == 1
        assert len(entry.state) < 600


def test_whatever_an_analysis_raises_the_index_is_shown(folder, monkeypatch):
    def broken(_):
        raise RuntimeError("one\ntwo " + "x" * 1_000_000)

    monkeypatch.setattr(serve, "read_ledger", broken)
    shelf = Shelf(folder)
    assert index(shelf)[0] == 200
    assert shelf.entries()[0].state.startswith("cannot be read: RuntimeError: one⏎two xxx")
    assert len(shelf.entries()[0].state) < 400


def test_a_folder_whose_name_is_not_utf_8_is_shown(folder):
    strange = Path(os.fsdecode(os.fsencode(folder) + b"/\xff\xfe"))
    shutil.copytree(folder / "text", strange)
    status, text = index(Shelf(folder))
    assert status == 200
    assert text.count("cannot be read: ") == 7


def test_hidden_folders_and_those_of_packages_are_not_entered(folder):
    for name in (".cache", "node_modules", "lib/site-packages", "deep/er"):
        shutil.copytree(folder / "text", folder / name)
    known = ["no-json", "no-mapping", "no-study", "old-format", "text", "unknown-key"]
    assert places(Shelf(folder)) == sorted(["deep/er", *known])


def test_a_single_screen_is_called_by_its_folder(folder):
    assert places(Shelf(folder / "text")) == ["text"]
    assert places(Shelf(folder / "text" / LEDGER)) == [LEDGER]


def test_the_walk_is_kept_for_some_seconds(folder, monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(serve.time, "monotonic", lambda: clock[0])
    shelf = Shelf(folder)
    assert len(shelf.entries()) == 6
    shutil.copytree(folder / "text", folder / "new")
    shutil.rmtree(folder / "old-format")
    assert len(shelf.entries()) == 5  # what is gone is not shown, what is new not yet
    clock[0] += 10
    assert "new" in places(shelf)


def test_comparisons_are_on_the_shelf_by_the_result_beside_their_ledger(tmp_path):
    config = {"name": "made", "methods": {"vanilla": {}}, "baselines": ["vanilla"]}
    for name in ("done", "done/tuning", "begun", "broken"):
        with open_ledger(tmp_path / name / LEDGER, config, {}, BATTERY, "1"):
            pass
    COMPARISON.write(make_comparison(("vanilla", "ssd")), tmp_path / "done")
    (tmp_path / "broken" / "comparison.json").write_text('{"name": 1}')
    shelf = Shelf(tmp_path)
    states = {e.place: e.state for e in shelf.entries()}
    assert states["done"] == "2 methods"
    assert states["done/tuning"] == "the tuning prompts of a comparison"
    assert states["begun"] == "a comparison without a result yet"
    assert states["broken"].startswith("cannot be read: ValidationError")
    status, text = get(shelf, "/")
    assert status == 200
    assert "2 methods on the same 100 prompts" in text
    assert "labels of a stand-in" in text
    assert text.count("/report/") == 1
    (done,) = (e for e in shelf.entries() if e.place == "done")
    status, page = get(shelf, f"/report/{done.id}")
    assert (status, page) == (200, (tmp_path / "done" / "comparison.html").read_text(encoding="utf-8"))
    COMPARISON.write(make_comparison(("vanilla", "ssd", "continuous")), tmp_path / "done")
    assert {e.place: e.state for e in shelf.entries()}["done"] == "3 methods"
