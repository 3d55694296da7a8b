"""A small server of files on 127.0.0.1, whole or by range, that breaks off on demand and keeps what it was asked."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple


class Seen(NamedTuple):
    """One request as the server saw it: its Range header, and what was answered."""

    range: str | None
    status: int
    sent: int


class FileServer(ThreadingHTTPServer):
    """Serves `files`; the next answer stops after `cut` bytes; `ranges`: whether it can send parts."""

    def __init__(self, files: Mapping[str, bytes]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = dict(files)
        self.ranges = True
        self.cut: int | None = None
        self.seen: list[Seen] = []

    def url(self, path: str) -> str:
        """Address of a served path."""
        return f"http://127.0.0.1:{self.server_port}{path}"


class Handler(BaseHTTPRequestHandler):
    """GET with and without Range."""

    server: FileServer

    def do_GET(self) -> None:
        """Serve a file or a part of it."""
        wanted, body = self.headers["Range"], self.server.files.get(self.path)
        if body is None:
            return self.answer(404, b"", wanted)
        if not (wanted and self.server.ranges):
            return self.answer(200, body, wanted)
        first, last = re.fullmatch(r"bytes=(\d+)-(\d*)", wanted).groups()
        part = body[int(first) : int(last) + 1 if last else None]
        if not part:
            return self.answer(416, b"", wanted)
        span = f"bytes {first}-{int(first) + len(part) - 1}/{len(body)}"
        return self.answer(206, part, wanted, {"Content-Range": span})

    def answer(self, status: int, body: bytes, wanted: str | None, headers: Mapping[str, str] = {}) -> None:
        """Promise the whole body; send it, or what `cut` leaves of it."""
        sent = body[: self.server.cut]
        self.server.cut = None
        self.server.seen.append(Seen(wanted, status, len(sent)))
        self.send_response(status)
        kind = "text/html" if body[:1] == b"<" else "application/octet-stream"
        for name, value in {"Content-Length": str(len(body)), "Content-Type": kind, **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(sent)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def serving(files: Mapping[str, bytes]) -> Iterator[FileServer]:
    """The server, while the block runs."""
    with FileServer(files) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()
