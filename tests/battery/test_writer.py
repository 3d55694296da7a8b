"""Room: battery/writer. Law: what is written and read again is the same battery."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from specsafe.battery import Battery, Item, load_battery
from specsafe.battery.writer import write_jsonl
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
