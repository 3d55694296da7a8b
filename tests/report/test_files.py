"""Files: written whole or not at all, the same bytes twice, text only where it was asked for."""

import json

import pytest
from made_results import arm, hostile_result, make_result, pair_row

from specsafe.report.document import without_timings
from specsafe.report.files import NAMES, document, write_reports
from specsafe.report.printable import cut, error_line, one_line, printable
from specsafe.report.terminal import summary
from specsafe.screen.result import FailedItem

ROWS = [pair_row("a", changed=True), pair_row("b"), pair_row("c", identical=True)]


def secret(items):
    return {i: (f"secret of {i}", "another secret") for i in items}


def test_every_format_is_written_and_named(tmp_path):
    written = write_reports(make_result(), tmp_path / "new" / "folder", NAMES, rows=ROWS)
    assert [p.name for p in written] == list(NAMES.values())
    assert sorted(p.name for p in written[0].parent.iterdir()) == sorted(NAMES.values())


def test_only_what_is_asked_for_is_written(tmp_path):
    assert [p.name for p in write_reports(make_result(), tmp_path)] == ["report.html"]
    assert [p.name for p in write_reports(make_result(), tmp_path, ["json", "md"])] == [
        "report.md",
        "report.json",
    ]


@pytest.mark.parametrize("make", [make_result, hostile_result])
def test_the_same_result_gives_the_same_bytes(make, tmp_path):
    once = write_reports(make(), tmp_path / "1", NAMES, rows=ROWS, texts_of=secret)
    again = write_reports(make(), tmp_path / "2", NAMES, rows=ROWS, texts_of=secret)
    assert [p.read_bytes() for p in once] == [p.read_bytes() for p in again]


def test_runs_that_differ_only_in_what_a_clock_measured_compare(tmp_path):
    slow = make_result(
        speed_up=None, resolved={"at_once": 2, "threads": 1, "probe": [{"tokens_per_second": 9}]}
    )
    files = [
        write_reports(without_timings(r), tmp_path / str(n), NAMES, rows=ROWS)
        for n, r in enumerate((make_result(), slow))
    ]
    assert [p.read_bytes() for p in files[0]] == [p.read_bytes() for p in files[1]]


def test_the_json_report_is_the_document_of_the_screen(tmp_path):
    result = make_result()
    (path,) = write_reports(result, tmp_path, ["json"])
    assert path.read_text() == document(result) + "\n"
    assert json.loads(path.read_text())["result"] == result.model_dump(mode="json")


def test_no_answer_is_anywhere_unless_asked_for(tmp_path):
    for path in write_reports(make_result(), tmp_path / "1", NAMES, rows=ROWS):
        assert "secret" not in path.read_text()
    told = write_reports(make_result(), tmp_path / "2", NAMES, rows=ROWS, texts_of=secret)
    assert {p.name for p in told if "secret of a" in p.read_text()} == {"report.html", "pairs.csv"}
    assert "secret of c" not in (tmp_path / "2" / "report.html").read_text()  # a pair that does not differ


def test_a_failure_on_the_way_leaves_the_old_file_and_nothing_else(tmp_path):
    (tmp_path / "pairs.csv").write_text("old")

    def broken():
        yield ROWS[0]
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_reports(make_result(), tmp_path, ["csv"], rows=broken())

    def broken_texts(_):
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_reports(make_result(), tmp_path, ["csv"], rows=ROWS, texts_of=broken_texts)
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("pairs.csv", "old")]


def test_printable_one_line_and_cut():
    assert printable("a\x1b[1m\u202e\ud800\nb") == "a\ufffd[1m\ufffd\ufffd\nb"
    assert one_line("a\r\nb\u2028c\rd") == "a⏎b⏎c\ufffdd"
    assert cut("x" * 5, 5) == "xxxxx"
    assert cut("x" * 6, 5) == "xxxxx… [cut: 5 of 6 characters]"


def test_an_error_is_one_line_and_a_long_word_leaves_the_rest():
    said = error_line(f"no ledger at {'x' * 1_000_000} here\nor \udcff")
    assert said.startswith("no ledger at xxx")
    assert said.endswith("of 1,000,000 characters] here⏎or \ufffd")
    assert len(said) < 400
    assert len(error_line("word " * 1_000_000)) < 2100


def test_ids_and_reasons_of_any_length_are_cut(tmp_path):
    failed = [FailedItem(item="i" * 1_000_000, reason="r" * 1_000_000, tries=3)]
    result = make_result(arms=[arm("target"), arm("speculative", failed=failed)])
    assert len(summary(result)) < 20_000
    for path in write_reports(result, tmp_path, ["html", "md"]):
        assert "[cut: 200 of 1,000,000 characters]" in path.read_text().replace("\\", "")
        assert path.stat().st_size < 200_000
