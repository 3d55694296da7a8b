"""The ledger: exactly once, one writer, nothing changes under its feet."""

import pytest

from specsafe.battery import Battery, Item
from specsafe.engines import Sample
from specsafe.errors import UserError
from specsafe.study.ledger import has_study, open_ledger

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
        4,
        3,
        9,
        0.1,
        0.2,
    )
    with ledger(path) as book:
        book.add("arm", 0, kept)
        book.commit()
    with ledger(path) as book:
        assert book.samples("arm", 0) == {ITEMS[0].id: kept}
        assert book.items() == ITEMS


def test_inserting_twice_is_a_counted_no_op(path):
    with ledger(path) as book:
        book.add("arm", 0, Sample(ITEMS[0].id, "first", "stop"))
        book.add("arm", 0, Sample(ITEMS[0].id, "second", "stop"))
        book.add("arm", 1, Sample(ITEMS[0].id, "another replicate", "stop"))
        assert book.duplicates == 1
        assert book.samples("arm", 0)[ITEMS[0].id].text == "first"
        assert book.answered("arm", 1) == {ITEMS[0].id}


def test_two_writers_are_refused(path):
    with ledger(path), pytest.raises(UserError, match="another screen"), ledger(path):
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
        pytest.raises(UserError, match="0 items are new, 1 are gone"),
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
