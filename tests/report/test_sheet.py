"""The sheet: one line a pair, no cell a formula, nothing that drives a terminal."""

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_results import HOSTILE, pair_row

from specsafe.report.sheet import cell, sheet_lines
from specsafe.screen.rows import PairRow


def read(lines):
    return list(csv.reader(io.StringIO("".join(lines))))


def test_a_row_a_pair_with_the_names_of_its_fields():
    head, row = read(sheet_lines([pair_row(speculative_label=None, fork_gap=None)]))
    assert head == list(PairRow._fields)
    found = dict(zip(head, row, strict=True))
    assert found["identical"] == "false"
    assert found["fork_position"] == "3"
    assert found["fork_gap"] == found["speculative_label"] == ""


@pytest.mark.parametrize(
    "text", ["=1+1", "+1", "-1", "@x", "\t=1", "\r=1", " =1", "  \t@x", "=cmd|' /C calc'!A0", "＝1"]
)
def test_a_formula_is_quoted(text):
    assert cell(text).startswith("'")
    assert not cell(text).removeprefix("'").startswith(("\t", "\r"))


@pytest.mark.parametrize("text", ["a;=1+1", "a; @x", 'a;"=1+1"', "a;＝1", "a;b;-1", ";=1", "a;\u00a0+1"])
def test_a_formula_is_quoted_where_semicolons_part_the_cells_too(text):
    line = "".join(sheet_lines([pair_row(stratum=text)])).splitlines()[1]
    for part in line.split(";")[1:]:
        assert part.startswith(("'", "b;", "b")), part
    assert cell("fine; and =1; so") == "fine; and =1; so"


def test_ids_of_any_length_are_cut():
    _, row = read(sheet_lines([pair_row("i" * 1_000_000, stratum="s" * 1_000_000, cluster="c" * 1_000_000)]))
    assert max(map(len, row)) < 250


def test_numbers_of_ours_stay_numbers():
    assert [cell(-0.25), cell(3), cell(True), cell(None), cell("fine")] == ["-0.25", "3", "true", "", "fine"]


@given(st.text(max_size=50))
def test_any_text_is_one_cell_in_one_line(text):
    lines = list(sheet_lines([pair_row(text, stratum=text)], {text: (text, None)}))
    assert len(lines) == 2
    assert len("".join(lines).splitlines()) == 2
    _, row = read(lines)
    assert len(row) == len(PairRow._fields) + 2
    assert not any(c.lstrip().startswith(("=", "+", "@")) for c in row)


def test_texts_are_cut_and_only_there_if_asked_for():
    rows = [pair_row("a"), pair_row("b")]
    assert "text" not in "".join(sheet_lines(rows)).replace("text_sha", "")
    head, first, second = read(sheet_lines(rows, {"a": (HOSTILE, "y" * 1_000_000)}))
    assert head[-2:] == ["target_text", "speculative_text"]
    assert len(first[-1]) < 2100
    assert "of 1,000,000 characters" in first[-1]
    assert not set("".join(first)) & set("\x00\x07\x1b\u202e\u2028\ud800\n")
    assert second[-2:] == ["", ""]
