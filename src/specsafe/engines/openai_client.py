"""One HTTP client an arm: a fault that may pass is told from one that will not, and nothing is believed unread.

Bodies are capped, an attempt has a deadline as a whole (a server that drips a byte a second does not escape it),
redirects are refused, and the API key leaves this file only in a header to the address that the user named.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import time
from collections.abc import Awaitable, Callable
from email.utils import parsedate_to_datetime
from typing import Any, Generic, NamedTuple, TypeVar

import httpx

from specsafe.engines.arm_openai import OpenAIArm
from specsafe.engines.base import Json
from specsafe.errors import UserError

_PASSING = {408, 409, 425, 429, 500, 502, 503, 504, 529}
_AUTH = {401, 403}
_MIB = 2**20
_SHORT_BODY = 16 * _MIB  # a list of models, a page of counters
_TOKEN_BYTES = 512  # of one entry of a list of log-probabilities, with room to spare
_FIRST_WAIT, _LONGEST_WAIT = 0.5, 30.0  # seconds
_SHOWN = 200
T = TypeVar("T")


class Passing(Exception):  # noqa: N818
    """A fault that may pass. wait: seconds that the server asked for."""

    def __init__(self, reason: str, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.reason, self.wait = reason, wait


class Refused(Exception):  # noqa: N818
    """The server refused this very request; asking again would not help."""


class Got(NamedTuple):
    """A status and the body that came with it."""

    status: int
    body: bytes


class GaveUp(Exception):  # noqa: N818
    """A fault did not pass. reasons: why each attempt failed."""

    def __init__(self, reasons: list[str]) -> None:
        super().__init__(reasons[-1])
        self.reasons = tuple(reasons)


class Answer(NamedTuple, Generic[T]):
    """What an attempt gave, and why those before it failed."""

    value: T
    failed: tuple[str, ...]


class Client:
    """See the module. Opened and used within one event loop."""

    def __init__(self, arm: OpenAIArm) -> None:
        self._arm, self._key = arm, api_key(arm)
        self._api = arm.url
        self._root = arm.url.removesuffix("/v1")
        self._tls = httpx.create_ssl_context()  # reading the certificates costs more than a request: once
        self._free: list[httpx.AsyncClient] = []
        self._lanes: list[httpx.AsyncClient] = []

    def _lane(self) -> httpx.AsyncClient:
        """A client with one connection that nobody uses now.

        A pool of httpx looks at all its connections for each request: at a thousand in flight that is all it does.
        """
        if self._free:
            return self._free.pop()
        headers = {"Accept-Encoding": "identity", "User-Agent": "specsafe"}
        self._lanes.append(
            httpx.AsyncClient(
                headers=headers | ({"Authorization": f"Bearer {self._key}"} if self._key else {}),
                follow_redirects=False,
                trust_env=not self._arm.loopback,  # a proxy has no business on the way to this machine
                timeout=httpx.Timeout(None, connect=min(30.0, self._arm.timeout)),
                limits=httpx.Limits(max_connections=1, max_keepalive_connections=1),
                verify=self._tls,
            )
        )
        return self._lanes[-1]

    async def close(self) -> None:
        """Close all connections."""
        await asyncio.gather(*(lane.aclose() for lane in self._lanes))

    async def look(self, path: str, *, api: bool = False) -> Got:
        """GET a page below the server's root, or below the API, where a redirect is a UserError. Raises Passing."""
        got = await self._ask("GET", (self._api if api else self._root) + path, None, _SHORT_BODY)
        if api:
            self._refuse_redirect(got)
        return got

    async def post(self, path: str, body: Json, *, api: bool = True) -> Json:
        """POST below the API (or the root) -> the JSON object that came back.

        Raises Passing, Refused, and UserError where every request would meet the same: a redirect, a key that is not
        accepted, an address that is not there.
        """
        cap = _MIB + (int(body.get("max_tokens", 0)) * (self._arm.top + 2) + len(str(body))) * _TOKEN_BYTES
        got = await self._ask("POST", (self._api if api else self._root) + path, body, cap)
        if got.status == 200:
            return read_object(got.body)
        self._refuse_redirect(got)
        said = self._said(got.body)
        if got.status in _AUTH:
            raise UserError(
                f"the server at {self._arm.url} does not let us in: {got.status} {said}",
                "name the variable that holds the key with key_env=",
            )
        if got.status in (404, 405):
            raise UserError(
                f"the server at {self._arm.url} has no {path}: {got.status} {said}",
                "url= ends with /v1 for most servers; chat_template=off asks for raw completions instead",
            )
        raise Refused(f"{got.status} {said}")

    def _refuse_redirect(self, got: Got) -> None:
        if 300 <= got.status < 400:
            raise UserError(
                f"the server at {self._arm.url} redirects ({got.status}): refused, for prompts and key would follow",
                "name the address where the API really is",
            )

    async def _ask(self, method: str, url: str, body: Json | None, cap: int) -> Got:
        lane = self._lane()
        try:
            async with asyncio.timeout(self._arm.timeout):
                async with lane.stream(method, url, json=body) as response:
                    content = await self._content(response, cap)
        except TimeoutError as error:
            raise Passing(f"no whole answer within {self._arm.timeout:g} s") from error
        except httpx.ConnectError as error:
            raise Passing(f"no connection: {self._clean(str(error))}") from error
        except httpx.TimeoutException as error:
            raise Passing("no connection in time") from error
        except httpx.InvalidURL as error:
            raise UserError(f"{self._arm.url} is no address: {error}", "mend url=") from error
        except httpx.HTTPError as error:
            raise Passing(
                f"the connection broke: {self._clean(str(error) or type(error).__name__)}"
            ) from error
        finally:
            self._free.append(lane)
        if response.status_code in _PASSING:
            wait = retry_after(response.headers.get("Retry-After"), time.time())
            raise Passing(f"{response.status_code} {self._said(content)}".strip(), wait)
        return Got(response.status_code, content)

    async def _content(self, response: httpx.Response, cap: int) -> bytes:
        """The body, as far as it is allowed to be long. Compressed ones are not unpacked: nobody asked for them."""
        if response.headers.get("Content-Encoding", "identity").lower() not in ("identity", ""):
            raise Passing("the body is compressed, which nobody asked for")
        content = bytearray()
        async for chunk in response.aiter_raw():
            content += chunk
            if len(content) > cap:
                raise Passing(f"the body is longer than {cap // _MIB} MiB")
        # a server that sends our own key back must not bring it into a file
        return bytes(content).replace(self._key.encode(), b"[key]") if self._key else bytes(content)

    def _said(self, body: bytes) -> str:
        """What a server said of an error, short, without control characters and without the key."""
        text = body[: 64 * 1024].decode("utf-8", "replace")
        try:
            told: Any = json.loads(text)
        except (ValueError, RecursionError):
            told = None
        for name in ("error", "message", "detail", "msg"):
            told = told.get(name, told) if isinstance(told, dict) else told
        return self._clean(told if isinstance(told, str) else text)

    def _clean(self, text: str) -> str:
        if self._key:
            text = text.replace(self._key, "[key]")
        shown = "".join(c if c.isprintable() else " " for c in text[: 4 * _SHOWN])
        return " ".join(shown.split())[:_SHOWN]


def api_key(arm: OpenAIArm) -> str:
    """The key from the environment; "" if the arm names no variable. Raises UserError where it is not there."""
    if not arm.key_env:
        return ""
    key = os.environ.get(arm.key_env, "").strip()
    if not key or not key.isascii() or not key.isprintable() or " " in key:
        state = "holds no key" if key else "is not set"
        raise UserError(
            f"the environment variable {arm.key_env} {state}", f"export {arm.key_env} and run it again"
        )
    return key


def read_object(body: bytes) -> Json:
    """A JSON object; NaN and infinities are no JSON. Raises Passing for anything else: half a body may be whole next time."""

    def refuse(name: str) -> None:
        raise ValueError(name)

    try:
        value = json.loads(body, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise Passing("the body is no valid JSON") from error
    if not isinstance(value, dict):
        raise Passing("the body is no JSON object")
    return value


def retry_after(value: str | None, now: float) -> float:
    """Seconds that a Retry-After header asks for, in seconds or as a date; 0 where it says nothing that can be read."""
    if not value:
        return 0.0
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(value).timestamp() - now
        except (ValueError, TypeError, OverflowError):
            return 0.0
    return seconds if 0 < seconds < 1e9 else 0.0


async def patiently(arm: OpenAIArm, ask: Callable[[], Awaitable[T]], random_: random.Random) -> Answer[T]:
    """Ask until it is answered, with waits between; raises GaveUp after arm.retries or arm.patience."""
    failed: list[str] = []
    end = time.monotonic() + arm.patience
    while True:
        try:
            return Answer(await ask(), tuple(failed))
        except Passing as fault:
            failed.append(fault.reason)
            asked = fault.wait
        wait = next_wait(len(failed) - 1, asked, random_)
        left = end - time.monotonic()
        if len(failed) > arm.retries or wait > left:
            if asked > left:
                failed[-1] += f" (it asks for {asked:.0f} s, patience= leaves {max(0, left):.0f} s)"
            raise GaveUp(failed)
        await asyncio.sleep(wait)


def next_wait(attempt: int, asked: float, random_: random.Random) -> float:
    """Seconds before the next attempt: doubled each time, spread so that clients part, never less than was asked for."""
    backoff: float = min(_LONGEST_WAIT, _FIRST_WAIT * 2 ** min(attempt, 30))
    return max(asked, backoff * random_.uniform(0.5, 1.0))
