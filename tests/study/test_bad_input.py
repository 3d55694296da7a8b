"""What `specsafe study` cannot use: one line that says what was wrong, exit code 2, and nothing begun."""

import sys

import pytest
import yaml
from made_study import document, write_battery

from specsafe.battery import Battery, Item
from specsafe.cli.main import main
from specsafe.study.ledger import LEDGER, open_ledger
from specsafe.study.protocol import merged

RECORDED = {
    "engines": {"ours": None, "kept": {"kind": "recorded"}},
    "levels": {"engine": "kept"},
    "blocks": {"hostile": None},
    "totals": {"all": ["core", "restart", "warm", "production"]},
}


@pytest.fixture
def place(tmp_path):
    """A protocol of recorded answers, its battery, and an address for one of its arms."""
    write_battery(tmp_path / "battery.jsonl")
    write(tmp_path, {})
    (tmp_path / "answers.jsonl").write_text('{"prompt": "nobody asks this", "text": "x"}')
    (tmp_path / "arms.yaml").write_text(yaml.safe_dump({"big": {"path": str(tmp_path / "answers.jsonl")}}))
    return tmp_path


def write(folder, changes):
    whole = merged(merged(document({"big": "b", "little": "l"}), RECORDED), changes)
    (folder / "p.yaml").write_text(yaml.safe_dump(whole, sort_keys=False))


@pytest.fixture
def refused(capsys, monkeypatch):
    """Run a command as the program does -> its one line on stderr, or its last where it told how far it was."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["specsafe", "study", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            main()
        *notices, line = capsys.readouterr().err.strip().splitlines()
        assert stopped.value.code == 2
        assert all(not n.startswith(("specsafe:", "Traceback")) for n in notices)
        assert line.startswith("specsafe: ") and len(line) < 600
        return line

    return run


ONE = ("--phases", "1", "--only", "*: big")


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (("--phases", "1,9"), "no phase or block '9' (the protocol has: 1, 2, 3, 4, 5, restart"),
        (("--phases", ","), "--phases ',' names none"),
        (("--phases", "5"), "these phases ask nothing new"),
        (("--only", "*: big", "--only", "nothing like it"), "no cell matches nothing like it"),
        (("--phases", "2", "--only", "1: *"), "no cell matches 1: *"),
        (("--limit", "0"), "--limit"),
        (("--limit", "some"), "--limit"),
        (("--workers", "-1"), "--workers"),
        (("--variant", "other"), "has no variant 'other'"),
        (("--arms", "nowhere.yaml"), "cannot read nowhere.yaml"),
        (("--data", "nowhere"), "no battery at nowhere"),
    ],
)
def test_a_run_that_cannot_be_meant_begins_nothing(place, refused, flags, told):
    assert told in refused("run", place / "p.yaml", "--out", place / "out", *flags)
    assert not (place / "out").exists()


def test_an_arm_that_the_protocol_does_not_have_is_named(place, refused):
    (place / "arms.yaml").write_text("bigg: {path: x}")
    line = refused("run", place / "p.yaml", "--arms", place / "arms.yaml", "--out", place / "out")
    assert "no arm 'bigg' in the protocol (see: specsafe study plan FILE --arms)" in line


def test_a_folder_of_another_study_or_of_none_is_refused_by_name(place, refused):
    arms = ("--arms", place / "arms.yaml", "--out", place / "out")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["specsafe", "study", "run", str(place / "p.yaml"), *map(str, arms), *ONE])
        with pytest.raises(SystemExit) as done:
            main()
    assert done.value.code == 0
    write(place, {"name": "another", "tasks": {"harm": {"items": 3}}})
    line = refused("run", place / "p.yaml", *arms, *ONE)
    assert "holds study tiny, planned, not another, planned (name another --out folder)" in line
    write(
        place,
        {
            "plan": {"margin": 0.01, "alpha": 0.1, "power": 0.9, "bootstrap": 100},
            "title": "x",
            "version": "2",
        },
    )
    line = refused("run", place / "p.yaml", *arms, *ONE)
    assert "study.plan.alpha was 0.05, is 0.1" in line and "and 1 more" in line
    items = Battery("b", "1", "", (Item("Say it.", "over_refusal", "t"),))
    with open_ledger(place / "screen" / LEDGER, {"target": {}}, {}, items, "0"):
        pass
    assert "holds no study" in refused("run", place / "p.yaml", *arms[:2], "--out", place / "screen", *ONE)
    for command in ("status", "score", "analyze", "report"):
        assert "holds no study" in refused(command, place / "screen")
        assert "no ledger at" in refused(command, place / "nowhere")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"levls": {}}, "p.yaml: levls: no such key"),
        ({"levels": {"sed": [1]}}, "levels.sed: no such key"),
        ({"tasks": {"harm": {"itms": 4, "items": None}}}, "tasks.harm.itms: no such key"),
        ({"plan": {"hypotheses": {"H7": "x"}}}, "plan.hypotheses.H7"),
        ({"totals": {"all": ["core", "1"]}}, "totals.all does not close: it counts 1 twice"),
        ({"totals": {"1": ["2"]}}, "totals.1: a phase or block has that name"),
        ({"totals": {"all": ["core", "6"]}}, "totals.all: no place or total before it '6'"),
        ({"tasks": {"harm": {"clusters": 5}}}, "5 clusters are more than its 4 items"),
        ({"sets": {"safety": {"limits": {"harm": 5}}}}, "sets.safety: limits must be of its tasks"),
        ({"labels": {"total": 5, "human": 6}}, "labels: 6 labels by people are more than 5 in all"),
        (
            {"plan": {"published": {"a paper": {"big": {"arc": 0.5}}}}},
            "plan.published.a paper.big: no task 'arc'",
        ),
        ({"plan": {"published": {"a paper": {"big": {"harm": 50}}}}}, "less than or equal to 1"),
        ({"blocks": {"warm": {"levels": {"temperature": [0]}}}}, "2 samples at temperature 0"),
        ({"tasks": {"harm": {"items": 9}}}, "has 4 of the 9 items that the protocol counts"),
    ],
)
def test_a_protocol_that_cannot_be_meant_is_one_line_for_every_command_that_reads_it(
    place, refused, changes, told
):
    write(place, changes)
    commands = [("lock", place / "p.yaml"), ("run", place / "p.yaml", "--out", place / "out")]
    if "9 items" not in told:  # a plan needs no battery
        commands.append(("plan", place / "p.yaml"))
    for command in commands:
        assert told in refused(*command)
    assert not (place / "out").exists()
    assert not (place / "p.lock.json").exists()
