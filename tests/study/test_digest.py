"""Hashes of a ledger: every flipped byte that a reader could see is found, and so is every row that went missing."""

import random
import shutil
import sqlite3
from contextlib import closing

import pytest

from specsafe.battery import Battery, Item
from specsafe.engines import Failure, Sample
from specsafe.errors import UserError
from specsafe.study.digest import MANIFEST, row_digest
from specsafe.study.ledger import LEDGER, open_ledger, read_ledger
from specsafe.study.verify import verify

ITEMS = tuple(Item(f"Question number {n}?", "capability", "sums", answers=(str(n),)) for n in range(12))
TABLES = ("study", "item", "arm", "sample", "failure", "score", "event", "manifest")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A complete ledger in which every column holds something."""
    path = tmp_path_factory.mktemp("whole") / LEDGER
    with open_ledger(path, {"margin": 0.03}, {"threads": 1}, Battery("b", "1", "none", ITEMS), "0") as book:
        book.describe_arm("target", "arm one", 0, {"kind": "recorded", "path": "a.jsonl"}, 12)
        book.set_fingerprint("target", {"engine": "recorded", "answers_sha256": "ab" * 32})
        for n, item in enumerate(ITEMS[:-1]):
            text, ids = f"the answer to it is {n} caf\u00e9", tuple(range(100 * n, 100 * n + 40))
            book.add(
                "arm one",
                0,
                Sample(
                    item.id,
                    text,
                    "stop",
                    ids,
                    tuple(-0.25 for _ in ids),
                    tuple(((i, -0.25), (i + 1, -2.5)) for i in ids),
                    drafted=9,
                    accepted=4,
                    rounds=3,
                    accepted_at=(2, 1, 1),
                    letters=(("A", -1.5),),
                    columns={"p": tuple(0.5 for _ in ids)},
                    prompt_tokens=7,
                    prefill_seconds=0.125,
                    seconds=1,
                    failed_attempts=("timed out",),
                ),
            )
        book.add("arm one", 0, Failure(ITEMS[-1].id, "the worker died on it", 3))
        book.add_scores([(i.id, "ef" * 32, "exact@0", {"label": "correct"}) for i in ITEMS])
        book.event("preflight passed: all is well")
        book.set_complete()
    return path


@pytest.fixture
def copy(whole, tmp_path):
    shutil.copy(whole, tmp_path / LEDGER)
    return tmp_path / LEDGER


def problems(path):
    with read_ledger(path) as ledger:
        return verify(ledger)


def everything(path):
    """All that a reader can see."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
        db.text_factory = bytes
        return {t: db.execute(f"SELECT * FROM {t}").fetchall() for t in TABLES}  # noqa: S608


def flip(path, offset, bit=0):
    data = bytearray(path.read_bytes())
    data[offset] ^= 1 << bit
    path.write_bytes(data)


def test_what_was_written_verifies(whole):
    assert problems(whole) == []


@pytest.mark.parametrize(
    ("value", "named"),
    [
        (b"the answer to it is 3", "sample (arm arm one, item {3}, replicate 0): text"),
        (b"[300,301,302,", "sample (arm arm one, item {3}, replicate 0): token_ids"),
        (b"[[301,-0.25],[302,-2.5]]", "sample (arm arm one, item {3}, replicate 0): the row"),
        (b"[2,1,1]", "sample (arm arm one, item {"),
        (b'"path":"a.jsonl"', "arm (role target)"),
        (b'"engine":"recorded"', "arm (role target)"),
        (b'"margin":0.03', "study (id "),
        (b'"threads":1', "study (id "),
        (b"Question number 7?", "item (id {7})"),
        (b"the worker died on it", "failure (arm arm one, item {11}, replicate 0)"),
        (b'"label":"correct"', "score (item "),
        (b"preflight passed", "event (number 1)"),
    ],
)
def test_a_flipped_byte_is_found_and_named(copy, value, named):
    flip(copy, copy.read_bytes().index(value) + 1)
    for n, item in enumerate(ITEMS):
        named = named.replace(f"{{{n}}}", item.id)
    found = problems(copy)
    assert any(line.startswith(named.rstrip("{")) for line in found), found


def test_whatever_byte_is_flipped_it_is_found_or_changes_nothing_that_can_be_read(whole, tmp_path):
    before, size, chance = everything(whole), whole.stat().st_size, random.Random(7)
    found = 0
    for number in range(250):
        path = tmp_path / f"{number}.sqlite"
        shutil.copy(whole, path)
        flip(path, chance.randrange(100, size), chance.randrange(8))
        try:
            same, told = everything(path) == before, problems(path)
        except (sqlite3.DatabaseError, UnicodeDecodeError, UserError):
            found += 1  # it cannot be opened: nobody takes it for whole
            continue
        assert same or told, f"flip {number} went unseen"
        found += bool(told)
        path.unlink()
    assert found > 50


@pytest.mark.parametrize("table", sorted(MANIFEST))
def test_a_row_that_went_missing_is_found(copy, table):
    with closing(sqlite3.connect(copy)) as db:
        db.execute(f"DELETE FROM {table} WHERE rowid = (SELECT max(rowid) FROM {table})")  # noqa: S608
        db.commit()
    assert any(line.startswith(f"manifest ({table})") for line in problems(copy))


def test_a_row_changed_together_with_its_hash_is_found_by_the_manifest(copy):
    with closing(sqlite3.connect(copy)) as db:
        db.row_factory = sqlite3.Row
        row = dict(db.execute("SELECT * FROM failure").fetchone()) | {"reason": "something else"}
        db.execute("UPDATE failure SET reason = ?, sha256 = ?", (row["reason"], row_digest(row)))
        db.commit()
    assert [line.split(":")[0] for line in problems(copy)] == ["manifest (failure)"]


def test_numbers_hash_as_the_columns_give_them_back():
    assert row_digest({"seconds": 1}) == row_digest({"seconds": 1.0})
    assert row_digest({"text": "caf\u00e9"}) == row_digest({"text": "caf\u00e9".encode()})
    assert row_digest({"a": "1", "b": None}) != row_digest({"a": None, "b": "1"})
    assert row_digest({"a": "x", "sha256": "1"}) == row_digest({"a": "x", "sha256": "2"})
    assert row_digest({"a": "1"}) != row_digest({"a": 1})
