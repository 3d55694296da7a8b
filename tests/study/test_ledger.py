"""The ledger: exactly once, one writer, nothing changes under its feet."""

import sqlite3

import pytest

from specsafe.battery import Battery, Item
from specsafe.engines import Failure, Sample
from specsafe.errors import UserError
from specsafe.study.answers import light_part
from specsafe.study.ledger import has_study, open_ledger, read_ledger

ITEMS = (
    Item("One?", "capability", "answer", answers=("1",)),
    Item("Two?", "capability", "answer", answers=("2",)),
)
BATTERY = Battery("b", "1", "none", ITEMS)


def ledger(path, config=None, battery=BATTERY):
    return open_ledger(path, config or {"margin": 0.03}, {"threads": 1}, battery, "0")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "ledger.sqlite"


def test_a_sample_comes_back_as_it_went_in(path):
    text = "caf\u00e9 \x00 \x1b[0m \u2028 end"
    kept = Sample(
        ITEMS[0].id,
        text,
        "stop",
        (1, 2),
        (-0.5, None),
        (((1, -0.5),), ()),
        drafted=4,
        accepted=3,
        rounds=2,
        accepted_at=(2, 1),
        letters=(("A", -0.5), ("C", -1.25)),
        prompt_tokens=9,
        prefill_seconds=0.1,
        seconds=0.2,
    )
    with ledger(path) as book:
        book.add("arm", 0, kept)
        book.commit()
    with ledger(path) as book:
        answers = book.answers("arm", 0)
        (tokens,) = answers.tokens({i.id for i in ITEMS}).values()
        assert tokens.ids == kept.token_ids
        assert [tokens.logprob_at(k) for k in range(2)] == list(kept.logprobs)
        assert [tokens.top_at(k) for k in range(3)] == [dict(kept.top[0]), {}, {}]
        assert answers.texts({ITEMS[0].id}) == {ITEMS[0].id: text}
        assert dict(answers) == {ITEMS[0].id: light_part(kept)}
        assert book.items() == ITEMS


def test_inserting_twice_is_a_counted_no_op(path):
    with ledger(path) as book:
        book.add("arm", 0, Sample(ITEMS[0].id, "first", "stop"))
        book.add("arm", 0, Sample(ITEMS[0].id, "second", "stop"))
        book.add("arm", 1, Sample(ITEMS[0].id, "another replicate", "stop"))
        assert book.duplicates == 1
        assert book.answers("arm", 0).texts({ITEMS[0].id}) == {ITEMS[0].id: "first"}
        assert book.settled("arm", 1) == {ITEMS[0].id}


def test_a_failure_settles_an_item_and_is_kept_once(path):
    with ledger(path) as book:
        for tries in (3, 5):
            book.add("arm", 0, Failure(ITEMS[0].id, "it died", tries))
        book.add("arm", 0, Sample(ITEMS[1].id, "fine", "stop"))
        book.commit()
        assert book.settled("arm", 0) == {i.id for i in ITEMS}
        assert book.failures("arm", 0) == [Failure(ITEMS[0].id, "it died", 3)]
        assert list(book.answers("arm", 0)) == [ITEMS[1].id]


def test_reading_needs_no_lock_and_writes_nothing(path):
    with ledger(path) as book:
        book.add("arm", 0, Sample(ITEMS[0].id, "first", "stop"))
        book.commit()
        with read_ledger(path) as reader:
            reader.add_scores([(ITEMS[0].id, "hash", "scorer", {"label": "x"})])
            assert reader.settled("arm", 0) == {ITEMS[0].id}
            assert not reader.complete
        assert book.labels("scorer") == {}
        book.add_scores([(ITEMS[0].id, "hash", "scorer", {"label": "x", "more": "y"})])
        assert book.labels("scorer") == {(ITEMS[0].id, "hash"): "x"}
        assert book.scorers() == {"scorer": 1}
        book.set_complete()
    with read_ledger(path) as reader:
        assert reader.complete


@pytest.mark.parametrize("content", [None, b"", b"not a database, but as long as a header would be" * 4])
def test_what_is_no_ledger_is_said_to_be_none(path, content):
    if content is not None:
        path.write_bytes(content)
    with (
        pytest.raises((UserError, sqlite3.DatabaseError), match=r"no ledger|no study|not a database"),
        read_ledger(path),
    ):
        pass


def test_the_same_event_is_logged_once(path):
    with ledger(path) as book:
        for _ in range(2):
            book.event("preflight passed")
        assert book.events() == ["preflight passed"]


def test_two_writers_are_refused(path):
    with ledger(path), pytest.raises(UserError, match="another run"), ledger(path):
        pass


def test_what_changed_is_named(path):
    with ledger(path, {"margin": 0.03, "target": {"n_max": 3}}):
        pass
    with (
        pytest.raises(UserError, match=r"target.n_max was 3, is 4"),
        ledger(path, {"margin": 0.03, "target": {"n_max": 4}}),
    ):
        pass
    other = Battery("b", "1", "none", ITEMS[:1])
    with (
        pytest.raises(UserError, match="0 items are new, 1 is gone"),
        ledger(path, {"margin": 0.03, "target": {"n_max": 3}}, other),
    ):
        pass


def test_a_fingerprint_that_changes_on_a_resume_is_refused(path):
    with ledger(path) as book:
        book.describe_arm("target", "id", 0, {}, 2)
        book.set_fingerprint("target", {"engine_version": "1"})
        book.set_fingerprint("target", {"engine_version": "1"})
        with pytest.raises(UserError, match="engine_version"):
            book.set_fingerprint("target", {"engine_version": "2"})


def test_what_was_decided_at_the_start_stays(path):
    with ledger(path):
        pass
    with open_ledger(path, None, {"threads": 9}, None, "0") as book:
        assert book.resolved() == {"threads": 1}


def test_an_empty_file_holds_no_study(path):
    assert not has_study(path)
    path.write_bytes(b"")
    assert not has_study(path)
    with pytest.raises(UserError, match="no study"), open_ledger(path, None, {}, None, "0"):
        pass
