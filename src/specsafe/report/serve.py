"""Reports on loopback: an index of the screens, comparisons and studies under a folder, and the page of each.

A screen's page is made from its ledger, that of a comparison or a study from the result that stands beside its ledger.

Nothing in an address reaches the file system: an id is looked up among the ledgers that were found. A page of
another site can neither read nor ask: Host must be this server, and a request that tells where it comes
from must come from here.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from pathlib import Path
from typing import Any, NamedTuple

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import Route

from specsafe.analysis.result import StudyResult
from specsafe.compare.config import is_comparison
from specsafe.compare.result import ComparisonResult
from specsafe.errors import UserError
from specsafe.report.comparing.front import front
from specsafe.report.page import policy, render, render_page
from specsafe.report.parts.front import tone
from specsafe.report.printable import SHORT, cut, error_line
from specsafe.report.studies.front import front as study_front
from specsafe.report.written import COMPARISON, STUDY
from specsafe.screen.analyze import analyze
from specsafe.screen.result import ScreenResult
from specsafe.study.ledger import LEDGER, read_ledger
from specsafe.study.reading import is_study

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]
_WALK_KEPT = 3.0  # seconds for which the folders are not walked again
_NOT_ENTERED = {"site-packages", "node_modules"}
_STATIC_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}


class Entry(NamedTuple):
    """A line of the index; the result is None where it is not finished or cannot be read, and `state` says why.

    tags, lead and note: what the index says of a result.
    """

    id: str
    place: str
    begun: str
    result: ScreenResult | ComparisonResult | StudyResult | None
    state: str
    tone: str
    tags: tuple[str, ...] = ()
    lead: str = ""
    note: str = ""


class Shelf:
    """The screens, comparisons and studies under a folder. Results are kept until their ledger changes, its place for some seconds."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder.resolve()
        self._kept: dict[Path, tuple[tuple[int, ...], Entry]] = {}
        self._lock = threading.Lock()  # one analysis at a time: requests run in threads
        self._walked: tuple[float, dict[str, Path]] | None = None
        self._walking = threading.Lock()

    def entries(self) -> list[Entry]:
        """All of them, the newest first."""
        found = [self._entry(p) for p in self._ledgers().values() if p.is_file()]
        return sorted(found, key=lambda e: e.begun, reverse=True)

    def find(self, key: str) -> Entry | None:
        """The one with this id."""
        path = self._ledgers().get(key)
        return None if path is None else self._entry(path)

    def _ledgers(self) -> dict[str, Path]:
        """Id -> path, as the last walk found them."""
        with self._walking:
            if self._walked is None or time.monotonic() - self._walked[0] > _WALK_KEPT:
                found = {_key(p): p for p in sorted(_walk(self._folder))}
                self._walked = (time.monotonic(), found)
            return self._walked[1]

    def _entry(self, path: Path) -> Entry:
        with self._lock:
            state = tuple(
                n
                for p in (
                    path,
                    *(path.with_name(n) for n in (f"{path.name}-wal", COMPARISON.result, STUDY.result)),
                )
                for n in _stamp(p)
            )
            kept = self._kept.get(path)
            if kept is None or kept[0] != state:
                kept = self._kept[path] = (state, self._read(path))
            return kept[1]

    def _read(self, path: Path) -> Entry:
        key, place = _key(path), self._place(path)
        try:
            with read_ledger(path) as ledger:
                begun = ledger.created
                if is_comparison(ledger.config()):
                    return _compared(key, place, begun, path.with_name(COMPARISON.result))
                if is_study(ledger.config()):
                    return _studied(key, place, begun, path.with_name(STUDY.result), ledger.complete)
                if not ledger.complete:
                    return Entry(key, place, begun, None, "not finished", "open")
                result = analyze(ledger)
        except Exception as error:  # whatever is wrong with one file, the others are to be seen
            bug = not isinstance(error, UserError)
            said = cut(f"{type(error).__name__}: {error}", SHORT) if bug else str(error)
            return Entry(key, place, "", None, f"cannot be read: {error_line(said)}", "open")
        return Entry(
            *(key, place, begun, result, str(result.verdict), tone(result.verdict)),
            tags=("quick run",) if result.quick else (),
            lead=result.headline,
            note=f"battery {result.battery}, begun {begun} UTC, study {result.study}",
        )

    def _place(self, path: Path) -> str:
        """What one is called: its folder under the one that is shown, or the name of that one."""
        if path == self._folder:
            return path.name
        under = path.parent.relative_to(self._folder)
        return str(under) if under.parts else self._folder.name or str(self._folder)


def _compared(key: str, place: str, begun: str, result: Path) -> Entry:
    """A comparison, by its result. Raises ValueError for one that this version cannot read."""
    if not result.is_file():
        within = result.parent.name == "tuning" and result.parent.with_name(LEDGER).is_file()
        state = "the tuning prompts of a comparison" if within else "a comparison without a result yet"
        return Entry(key, place, begun, None, state, "open")
    found = ComparisonResult.model_validate_json(result.read_bytes())
    first = front(found)
    return Entry(
        *(key, place, begun, found, first.verdict, first.tone),
        tags=("labels of a stand-in",) if found.stand_in else (),
        lead=f"{first.verdict} {first.bound}. {first.lead}",
        note=f"comparison {found.name}, begun {begun} UTC",
    )


def _studied(key: str, place: str, begun: str, result: Path, complete: bool) -> Entry:
    """A study, by its result. Raises ValueError for one that this version cannot read."""
    if not result.is_file():
        state = "a study that is not analysed yet" if complete else "a study, not finished"
        return Entry(key, place, begun, None, state, "open")
    found = StudyResult.model_validate_json(result.read_bytes())
    first = study_front(found)
    return Entry(
        *(key, place, begun, found, first.verdict, first.tone),
        tags=() if found.complete else ("not finished",),
        lead=first.headline,
        note=f"study {found.name}, begun {begun} UTC",
    )


def _walk(folder: Path) -> Iterator[Path]:
    """The ledgers under a folder, or the one that it is; hidden folders and those of packages hold none."""
    if folder.is_file():
        yield folder
    for place, folders, names in os.walk(folder):
        folders[:] = [f for f in folders if not f.startswith(".") and f not in _NOT_ENTERED]
        if LEDGER in names:
            yield Path(place, LEDGER)


def _key(path: Path) -> str:
    return hashlib.sha256(os.fsencode(path)).hexdigest()[:16]


def _stamp(path: Path) -> tuple[int, int]:
    with contextlib.suppress(OSError):
        stat = path.stat()
        return stat.st_mtime_ns, stat.st_size
    return 0, 0


def make_app(shelf: Shelf) -> Starlette:
    """The pages, without the guard."""

    def index(_: Request) -> Response:
        return HTMLResponse(render("index.html.j2", entries=shelf.entries()))

    def page(request: Request) -> Response:
        entry = shelf.find(request.path_params["key"])
        if entry is None or entry.result is None:
            return PlainTextResponse("no such report\n", 404)
        if isinstance(entry.result, ComparisonResult):
            return HTMLResponse(COMPARISON.html(entry.result))
        if isinstance(entry.result, StudyResult):
            return HTMLResponse(STUDY.html(entry.result))
        return HTMLResponse(render_page(entry.result))

    return Starlette(routes=[Route("/", index), Route("/report/{key:str}", page)])


def guard(app: Application, port: int, seen: Callable[[], None] = lambda: None) -> Application:
    """Only GET and HEAD, only to this very host, only from this very site; headers on every answer."""
    hosts = {f"{name}:{port}".encode() for name in ("127.0.0.1", "localhost")}

    async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        seen()
        refusal = _refusal(scope, hosts)

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), *_headers()]
            await send(message)

        await (refusal or app)(scope, receive, send_with_headers)

    return guarded


def _refusal(scope: Scope, hosts: set[bytes]) -> Response | None:
    headers: list[tuple[bytes, bytes]] = scope["headers"]
    given = [value for name, value in headers if name == b"host"]
    if len(given) != 1 or given[0] not in hosts:
        return PlainTextResponse("wrong Host\n", 403)
    origins = [value for name, value in headers if name == b"origin"]
    sites = [value for name, value in headers if name == b"sec-fetch-site"]
    if any(o != b"http://" + given[0] for o in origins) or any(
        s not in (b"same-origin", b"none") for s in sites
    ):
        return PlainTextResponse("this request came from another site\n", 403)
    if scope["method"] not in ("GET", "HEAD"):
        return PlainTextResponse("only GET and HEAD\n", 405, {"Allow": "GET, HEAD"})
    return None


def _headers() -> list[tuple[bytes, bytes]]:
    values = {"Content-Security-Policy": f"{policy()}; frame-ancestors 'none'", **_STATIC_HEADERS}
    return [(name.lower().encode(), value.encode()) for name, value in values.items()]


def listen(port: int) -> socket.socket:
    """A socket on this machine alone; port 0 takes a free one. Raises OSError if the port is taken."""
    return socket.create_server(("127.0.0.1", port))


def serve(folder: Path, listener: socket.socket, idle_seconds: float, say: Callable[[str], None]) -> None:
    """Serve until Ctrl-C or until nobody asked for `idle_seconds`; the socket is closed then."""
    port = listener.getsockname()[1]
    last = time.monotonic()

    def seen() -> None:
        nonlocal last
        last = time.monotonic()

    config = uvicorn.Config(
        guard(make_app(Shelf(folder)), port, seen),
        log_level="error",
        access_log=False,
        server_header=False,
        lifespan="off",
        timeout_graceful_shutdown=1,
    )
    server = uvicorn.Server(config)

    async def run() -> None:
        task = asyncio.create_task(server.serve(sockets=[listener]))
        while not task.done():
            await asyncio.wait([task], timeout=0.2)
            server.should_exit = server.should_exit or time.monotonic() - last > idle_seconds
        await task

    try:
        say(f"reports of {folder}: http://127.0.0.1:{port}/ (Ctrl-C stops)")
        asyncio.run(run())
    except KeyboardInterrupt:
        say("stopped")
    finally:
        listener.close()
