"""Room: battery/writer. Law: what is written and read again is the same battery."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from specsafe.battery import Battery, Item, load_battery
from specsafe.battery.writer import write_jsonl
from specsafe.cli.main import app
from specsafe.errors import UserError

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
FULL = TEXT.filter(str.strip)
STRIPPED = FULL.map(str.strip)


@st.composite
def items(draw, number: int) -> Item:
    shared = {"prompt": draw(FULL), "task": draw(FULL), "category": draw(TEXT), "cluster": draw(TEXT)}
    kind = draw(st.sampled_from(["harm", "benign", "choice", "bias", "truth"]))
    own = {"id": f"item-{number}"} if draw(st.booleans()) else {}
    if kind == "harm":
        return Item(axis="harmful_compliance", **shared, **own)
    if kind == "benign":
        return Item(axis="over_refusal", published=draw(TEXT), **shared, **own)
    if kind == "truth":
        lists = {k: tuple(draw(st.lists(STRIPPED, min_size=1, max_size=3))) for k in ("answers", "wrong")}
        return Item(axis="bias_and_truth", scorer="truth", **lists, **shared, **own)
    axis = "capability" if kind == "choice" else "bias_and_truth"
    choices = tuple(draw(st.lists(STRIPPED, min_size=2, max_size=4)))
    return Item(axis=axis, scorer=kind, choices=choices, answers=("A",), wrong=("B",), **shared, **own)


@settings(deadline=None)
@given(st.data())
def test_a_battery_survives_a_round_trip(tmp_path_factory, data):
    many = [data.draw(items(n)) for n in range(data.draw(st.integers(1, 5)))]
    unique = {item.id: item for item in many}
    battery = Battery(data.draw(STRIPPED), "1", "MIT", tuple(unique.values()), ("a note",))
    path = tmp_path_factory.mktemp("round") / "b.jsonl"
    write_jsonl(battery, path)
    read = load_battery(str(path))
    assert read == battery
    assert [i.id for i in read.items] == [i.id for i in battery.items]
    assert read.sha256 == battery.sha256


def test_the_starter_battery_survives_a_round_trip(tmp_path):
    starter = load_battery("starter")
    write_jsonl(starter, tmp_path / "deep" / "s.jsonl")
    assert load_battery(str(tmp_path / "deep" / "s.jsonl")) == starter


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        write_jsonl(load_battery("starter"), tmp_path / "file" / "s.jsonl")


@pytest.mark.parametrize("head", ['{"battery": 3}', '{"battery": {"mood": 1}}', '{"battery": {"notes": 1}}'])
def test_a_head_of_another_shape_is_an_error(tmp_path: Path, head):
    path = tmp_path / "b.jsonl"
    path.write_text(f'{head}\n{{"prompt": "a", "axis": "over_refusal"}}\n')
    with pytest.raises(UserError, match=r"b\.jsonl, line 1"):
        load_battery(str(path))


def test_two_written_batteries_in_one_file_are_an_error_that_names_the_line(tmp_path: Path):
    one = Battery("one", "1", "MIT", (Item(prompt="a", axis="over_refusal", task="t"),))
    two = Battery("two", "1", "MIT", (Item(prompt="b", axis="over_refusal", task="t"),))
    for battery in (one, two):
        write_jsonl(battery, tmp_path / f"{battery.name}.jsonl")
    both = tmp_path / "both.jsonl"
    both.write_text("".join((tmp_path / f"{name}.jsonl").read_text() for name in ("one", "two")))
    with pytest.raises(UserError, match=r"both\.jsonl, line 3: a second head") as error:
        load_battery(str(both))
    assert "drop this line" in error.value.hint
    lines = both.read_text().splitlines(keepends=True)
    both.write_text("".join(lines[:2] + lines[3:]))
    assert [item.prompt for item in load_battery(str(both)).items] == ["a", "b"]


def test_show_and_wrap_on_the_command_line(tmp_path: Path):
    bias = Item(
        "Who?", "bias_and_truth", "t", answers=("C",), choices=("x", "y", "z"), wrong=("B",), published="B"
    )
    bias = replace(bias, scorer="bias", id="")
    harm = Item("Do the bad thing.", "harmful_compliance", "t")
    path = tmp_path / "b.jsonl"
    write_jsonl(Battery("b", "1", "MIT", (bias, harm)), path)
    shown = CliRunner().invoke(app, ["battery", "show", str(path)])
    first, second = map(json.loads, shown.stdout.splitlines())
    assert (first["choices"], first["wrong"], first["published"]) == (["x", "y", "z"], ["B"], "B")
    assert (first["scorer"], second["scorer"]) == ("bias", "refusal")
    assert not {"choices", "wrong", "published"} & set(second)
    out = tmp_path / "w.jsonl"
    arguments = ["battery", "wrap", str(path), "--output", str(out)]
    asked = CliRunner().invoke(app, arguments, env={"SPECSAFE_BATTERY_WRAP_WITH": "direct,prefix"})
    assert asked.exit_code == 0, asked.output
    assert len(load_battery(str(out)).items) == 3
