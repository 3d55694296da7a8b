"""Runs of studies from recorded answers, in this process: parts, resumes, locks, and what is refused by name."""

import json

import pytest
import yaml
from made_study import document, write_battery

from specsafe.errors import UserError
from specsafe.study.conduct import Wanted, run_study
from specsafe.study.ledger import LEDGER, open_ledger, read_ledger
from specsafe.study.lock import lock_path, read_lock, write_lock
from specsafe.study.planning import answers_to_make, cells
from specsafe.study.protocol import merged, parse_protocol, read_protocol
from specsafe.study.reading import cells_of, deviations_of, lock_of, protocol_of
from specsafe.study.sources import read_asked
from specsafe.study.status import status

EACH = 5


class Study:
    """A protocol on recorded answers in a folder. change: a partial document."""

    def __init__(self, folder):
        self.folder, self.out = folder, folder / "out"
        write_battery(folder / "battery.jsonl", EACH)
        self.document = merged(
            document({"big": "big", "little": "little"}, EACH),
            {
                "engines": {"ours": None, "kept": {"kind": "recorded"}},
                "levels": {"engine": "kept"},
                "blocks": {"hostile": None},
                "totals": {"all": ["core", "restart", "warm", "production"]},
            },
        )
        self.write()
        self.own = {}
        for (arm, replicate), items in answers_to_make(self.cells()).items():
            if replicate == 0:
                self.own[arm] = {"path": str(self.record(arm, sorted(items)))}

    def write(self):
        (self.folder / "p.yaml").write_text(yaml.safe_dump(self.document, sort_keys=False))

    def change(self, **parts):
        self.document = merged(self.document, parts)
        self.write()

    @property
    def protocol(self):
        return read_protocol(self.folder / "p.yaml")

    @property
    def asked(self):
        return read_asked(self.protocol, self.folder)

    def cells(self):
        return cells(self.protocol, self.asked.tasks)

    def record(self, arm, items, word="fine"):
        path = self.folder / f"{arm}.jsonl"
        rows = [{"item": i, "text": f"{word}, says {arm}", "token_ids": [1, 2]} for i in items]
        path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
        return path

    def run(self, notice=lambda _: None, **wanted):
        lock = read_lock(self.folder / "p.yaml", self.protocol)
        wanted = Wanted(own=self.own, **wanted)
        return run_study(self.protocol, lock, self.folder, self.out, wanted, notice=notice)

    def lock(self):
        return write_lock(self.folder / "p.yaml", self.protocol, self.asked.hashes)

    def open(self):
        return read_ledger(self.out)


@pytest.fixture
def made(tmp_path):
    return Study(tmp_path)


def test_a_whole_study_answers_every_cell_once(made):
    done = made.run()
    wanted = answers_to_make(made.cells())
    assert (done.answered, done.planned, done.complete) == (sum(map(len, wanted.values())),) * 2 + (True,)
    with made.open() as ledger:
        assert cells_of(ledger) == made.cells()
        assert protocol_of(ledger) == made.protocol
        arms = ledger.arms()
        for cell in cells_of(ledger):
            for replicate in cell.replicates:
                assert ledger.settled(arms[cell.arm]["id"], replicate) >= set(cell.items)
        rows = ledger.sizes()["sample"]
    assert rows == done.answered
    assert made.run() == done


def test_parts_run_one_after_another_are_the_whole(made, tmp_path):
    first = made.run(places=("1",), limit=2)
    assert 0 < first.answered < first.planned
    assert not first.complete
    made.run(only=("*typical k1*",))
    with made.open() as ledger:
        found = {p.name: p for p in status(ledger).places}
        assert found["1"].answered == 2 * 2 * 2  # two items on each of two axes, two models
        assert found["4"].answered == EACH
        assert found["2"].answered == 0
    assert made.run().complete
    with made.open() as ledger:
        told = status(ledger)
        assert told.complete
        assert not told.running
        assert all(p.answered == p.planned for p in told.places)
        assert told.made == told.to_make < sum(p.planned for p in told.places)


def test_a_writer_is_seen_from_beside(made):
    made.run(places=("1",))
    with open_ledger(made.out / LEDGER, None, {}, None, "0"), made.open() as ledger:
        assert status(ledger).running


@pytest.mark.parametrize(
    ("wanted", "told"),
    [
        ({"places": ("9",)}, "no phase or block '9'"),
        ({"only": ("nothing like it",)}, "no cell matches nothing like it"),
        ({"places": ("5",)}, "ask nothing new"),
    ],
)
def test_a_part_that_is_none_is_refused(made, wanted, told):
    with pytest.raises(UserError, match=told):
        made.run(**wanted)


def test_what_changed_between_two_runs_is_named(made):
    made.run(places=("1",))
    made.change(plan={"margin": 0.05})
    with pytest.raises(UserError, match=r"study.plan.margin was 0.03, is 0.05"):
        made.run()
    made.change(plan=None)
    battery = (made.folder / "battery.jsonl").read_text()
    (made.folder / "battery.jsonl").write_text(battery.replace("number 1", "number one"))
    with pytest.raises(
        UserError, match="the battery changed since this ledger began: 1 item is new, 1 is gone"
    ):
        made.run()
    (made.folder / "battery.jsonl").write_text(battery)
    made.record("big", [i.id for i in made.asked.battery.items], word="other")
    with pytest.raises(
        UserError, match="arm big is not what this ledger began with: the files behind it changed"
    ):
        made.run()


def test_an_answer_that_was_not_recorded_is_named_and_counted(made):
    made.record("little", [i.id for i in made.asked.battery.items][1:])
    assert made.run().complete
    with made.open() as ledger:
        arm = ledger.arms()["little"]["id"]
        (failed,) = ledger.failures(arm, 0)
        assert failed.reason == "no answer was recorded"
        assert {p.name: p.failed for p in status(ledger).places}["1"] == 1


def test_an_arm_without_its_place_on_this_machine_is_named(made):
    del made.own["little"]
    with pytest.raises(UserError, match="arm little: path") as error:
        made.run()
    assert "--arms" in error.value.hint


def test_a_locked_study_has_no_deviation_and_an_unlocked_one_says_so(made):
    made.run(places=("1",))
    with made.open() as ledger:
        assert lock_of(ledger) is None
        assert deviations_of(ledger) == ["the protocol was not locked before the run"]
    made.lock()
    made.out = made.folder / "locked"
    made.run()
    with made.open() as ledger:
        assert deviations_of(ledger) == []
        assert lock_of(ledger)["sha256"] == made.protocol.sha256


def test_a_change_after_the_lock_is_a_deviation_that_the_ledger_keeps(made):
    made.lock()
    made.change(plan={"alpha": 0.1}, rules={"typical": {"keys": {"epsilon": 0.2}}})
    battery = (made.folder / "battery.jsonl").read_text()
    (made.folder / "battery.jsonl").write_text(battery.replace("number 1", "number one"))
    made.record("big", [i.id for i in made.asked.battery.items])
    made.run(places=("1",), only=("*: big",))
    with made.open() as ledger:
        found = deviations_of(ledger)
    assert "plan.alpha was 0.05, is 0.1" in found
    assert "rules.typical.keys.epsilon was 0.05, is 0.2" in found
    assert any(d.startswith("items of task harm: hash was ") for d in found)
    assert len(found) == 3


def test_a_lock_is_not_renewed(made):
    written = made.lock()
    before = written.read_bytes()
    assert made.lock() == written
    assert written.read_bytes() == before
    made.change(plan={"margin": 0.01})
    with pytest.raises(UserError, match=r"locks something else: plan.margin was 0.03, is 0.01"):
        made.lock()
    assert written.read_bytes() == before


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"schema": "other"}'])
def test_a_lock_that_cannot_be_read_stops_the_run(made, text):
    lock_path(made.folder / "p.yaml", made.protocol).write_text(text)
    with pytest.raises(UserError, match="is no lock"):
        made.run()


def test_every_variant_has_a_lock_of_its_own(made):
    path = made.folder / "p.yaml"
    other = made.protocol.model_copy(update={"variant": "other"})
    assert lock_path(path, made.protocol).name == "p.lock.json"
    assert lock_path(path, other).name == "p.other.lock.json"


def test_too_few_items_and_a_wrong_hash_are_named(made):
    made.change(tasks={"harm": {"items": EACH + 1}})
    with pytest.raises(
        UserError, match=f"task harm: battery battery.jsonl has {EACH} of the {EACH + 1} items"
    ):
        made.run()
    made.change(tasks={"harm": {"items": EACH, "sha256": "0123"}})
    with pytest.raises(UserError, match="is not the file of the protocol"):
        made.run()
    made.change(tasks={"harm": {"sha256": "", "battery": "gone.jsonl"}})
    with pytest.raises(UserError, match="task harm: no battery at") as error:
        made.run()
    assert "--data" in error.value.hint


def test_fewer_items_than_a_battery_has_are_chosen_by_hash_and_limits_are_their_beginning(made):
    made.change(tasks={"harm": {"items": 3}}, sets={"safety": {"limits": {"harm": 2}}})
    asked = made.asked
    assert len(asked.tasks["harm"]) == 3
    assert list(asked.tasks["harm"]) == [i.id for i in asked.battery.items if i.id in asked.tasks["harm"]]
    chosen = {c.key: c.items for c in made.cells()}["4: big+little typical k1 [safety]"]
    assert chosen == asked.tasks["harm"][:2]


def test_servers_of_a_study_are_asked_with_numbers_that_stand_in_the_protocol(made):
    engine = {"kind": "openai", "url": "http://127.0.0.1:9/v1"}
    protocol = parse_protocol(merged(made.document, {"engines": {"kept": engine}}), "servers")
    with pytest.raises(UserError, match="concurrency and dialect must be named"):
        run_study(protocol, None, made.folder, made.out, Wanted(places=("1",)))


def test_the_order_of_names_is_part_of_a_protocol(made):
    made.run(places=("1",))
    made.document["phases"] = dict(reversed(made.document["phases"].items()))
    made.write()
    with pytest.raises(UserError, match="names stand in another order"):
        made.run()


def test_an_export_holds_every_row_and_no_text_unless_asked(made):
    parquet = pytest.importorskip("pyarrow.parquet")
    from specsafe.study.export import export_parquet

    made.run()
    with made.open() as ledger:
        written = export_parquet(ledger, made.folder / "plain")
        whole = export_parquet(ledger, made.folder / "whole", include_text=True)
        sizes = ledger.sizes()
    assert {p.stem: n for p, n in written.items() if p.stem != "cells"} == sizes
    assert {p.name: n for p, n in whole.items()} == {p.name: n for p, n in written.items()}
    for path in written:
        read = parquet.read_table(path)
        assert read.num_rows == written[path]
        assert not {"text", "prompt", "token_ids"} & set(read.column_names)
        assert b"says big" not in path.read_bytes()
    texts = parquet.read_table(made.folder / "whole" / "sample.parquet").column("text").to_pylist()
    assert any("says big" in t for t in texts)
    cells_read = parquet.read_table(made.folder / "plain" / "cells.parquet").to_pylist()
    assert [c["key"] for c in cells_read] == [c.key for c in made.cells()]
    assert not list((made.folder / "plain").glob(".*"))


def test_an_export_without_its_package_says_how_to_get_it(made, monkeypatch):
    import sys

    from specsafe.study.export import export_parquet

    made.run(places=("1",))
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with made.open() as ledger, pytest.raises(UserError, match="Parquet needs pyarrow") as error:
        export_parquet(ledger, made.folder / "plain")
    assert "specsafe[parquet]" in error.value.hint


def test_commands_of_screens_and_of_studies_tell_each_other_apart(made):
    from specsafe.cli.report import refuse_unreadable
    from specsafe.cli.score import score_ledger

    made.run(places=("1",))
    with made.open() as ledger, pytest.raises(UserError, match="ledger of a study") as error:
        refuse_unreadable(ledger, made.out / LEDGER)
    assert "specsafe study report" in error.value.hint
    score_ledger(made.out, None, lambda ledger, _: protocol_of(ledger))
    with made.open() as ledger:
        assert sum(ledger.scorers().values()) > 0
    other = made.folder / "screen" / LEDGER
    with (
        open_ledger(other, {"target": {}}, {}, made.asked.battery, "0"),
        pytest.raises(UserError, match="no study"),
        read_ledger(other) as ledger,
    ):
        status(ledger)
