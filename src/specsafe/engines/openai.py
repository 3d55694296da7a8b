"""Arms behind an OpenAI-compatible server: what is checked before one opens, and its session.

Requests run in an event loop in a thread of its own, a fixed number of them at a time. An item that cannot be answered
is a failure with its reason; a server that answers nothing any more ends the run, and costs no item.
"""

from __future__ import annotations

import asyncio
import queue
import random
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

from specsafe.engines import served
from specsafe.engines.arm_openai import OpenAIArm
from specsafe.engines.base import Failure, Json, Request, Sample, refuse_reply
from specsafe.engines.openai_claims import hold_against, require_as_claimed
from specsafe.engines.openai_client import Client, GaveUp, Passing, Refused, api_key, patiently
from specsafe.engines.openai_counters import Counters, read_counters
from specsafe.engines.openai_dialects import DIALECTS, Drafting, ImpossibleCounts, ReplyError
from specsafe.engines.openai_plugin import Plugin, look_for_plugin, rule_facts, to_ask, unproved
from specsafe.engines.openai_reply import Read, Unanswerable, read_reply, request_body
from specsafe.engines.openai_rules import require_producible
from specsafe.engines.openai_server import Server, gone, look_at
from specsafe.errors import UserError

AT_ONCE = 8
PLAIN = Request("plain prompt", "Say hello.")
# so that a prompt lookup has something to draft
REPEATS = Request("repeating prompt", f"Say this again: {'one two three ' * 5}")
_PLAIN_TOKENS, _REPEAT_TOKENS = 8, 24
_SETTLE_SECONDS, _SETTLE_TRIES = 0.05, 40  # counters may follow an answer by some moments
_END_SECONDS = 2.0  # a server that died is cleaned up behind before that is known
Source = Literal["request", "counters", "none"]
T = TypeVar("T")
U = TypeVar("U")


class Tells(NamedTuple):
    """What the replies of a server hold. drafting: where counts of drafting come from."""

    token_ids: bool
    logprobs: bool
    top: bool
    drafting: Source


def check(arm: OpenAIArm) -> dict[str, str]:
    """Nothing of a server lies in files: {}. Raises UserError where the key is missing or a package is."""
    try:
        import httpx  # noqa: F401
        import prometheus_client  # noqa: F401
    except ImportError as error:
        raise UserError("kind=openai needs httpx and prometheus-client", "pip install specsafe") from error
    api_key(arm)
    if arm.dialect not in ("auto", "vllm"):
        to_ask(arm, arm.dialect, None)
    if (
        arm.prefill
        and arm.chat_template == "on"
        and arm.dialect != "auto"
        and not can_prefill(arm, arm.dialect)
    ):
        raise UserError(
            f"prefill: a server of dialect {arm.dialect} answers such a message instead of continuing it",
            "leave prefill out, or use chat_template=off",
        )
    return {}


def can_prefill(arm: OpenAIArm, dialect: str) -> bool:
    """Whether answers of such a server can be made to begin with a text."""
    return arm.chat_template == "off" or DIALECTS[dialect].prefill is not None


def open_session(arm: OpenAIArm, log: Path | None = None, *, fresh: bool = False) -> OpenAISession:
    """Ask the server who it is and what its replies hold; one that is ours to start is started.

    log: takes what a started server prints. fresh: it must be a new start. Raises UserError where it does not answer,
    or drafts unasked.
    """
    check(arm)
    if not arm.serve:
        return OpenAISession(arm)
    running = served.acquire(arm, log, fresh=fresh)
    try:
        return OpenAISession(arm.model_copy(update={"url": running.url}), running)
    except BaseException:
        served.release(running)
        raise


class OpenAISession:
    """See engines.base.Session."""

    def __init__(self, arm: OpenAIArm, running: served.Running | None = None) -> None:
        self._running, self._opened = running, False
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._lock = threading.Lock()
        self._closed = False
        self._random = random.Random()
        try:
            self._client = self._wait(_client(arm))
            self.server: Server = self._wait(look_at(self._client, arm))
            self.arm = arm.model_copy(
                update={
                    "dialect": self.server.dialect,
                    "concurrency": AT_ONCE if arm.concurrency == "auto" else arm.concurrency,
                }
            )
            check(self.arm)
            before = self._plugin()
            self.asked = to_ask(self.arm, self.server.dialect, before)
            if before is not None:
                self.server = self.server._replace(rule=before.rule)
            if arm.speculative:
                require_producible(
                    arm.rule_in_force,
                    self.server.dialect,
                    self.server.version or "",
                    arm.temperature,
                    plugin=before is not None,
                )
                hold_against(self.arm, self.server, rule_is_asked_for=self.asked is not None)
            self.tells: Tells = self._wait(self._first_look(PLAIN, _PLAIN_TOKENS))
            self.plugin = self._plugin()
            self.rule_proof = self.plugin.proof(before, self.asked) if self.plugin else ""
            if self.asked and not self.rule_proof:
                self._prove_again(before)
            self._opened = True
        except BaseException:
            self.close()
            raise

    def fingerprint(self) -> Json:
        """What runs there, as far as the server says; rule_proved: it named its rule itself."""
        arm, server, tells = self.arm, self.server, self.tells
        known = {k: v for k, v in server.told.items() if v is not None}
        return {
            "engine": f"server ({server.dialect})",
            "engine_version": server.version or "unknown",
            "device": "unknown",
            "served_model": server.model,
            **known,
            "prompt": "chat template of the server" if arm.chat_template == "on" else "raw completion",
            **rule_facts(arm, server.rule, self.plugin, self.asked, self.rule_proof),
            "concurrency": arm.concurrency,
            "token_ids": tells.token_ids,
            "logprobs": tells.logprobs,
            "drafting_told_by": tells.drafting,
            **({"started_by_specsafe": True} if arm.serve else {}),
        }

    def generate(self, requests: Iterable[Request]) -> Iterator[Sample | Failure]:
        """Yield a sample or a failure for each request as it completes; see engines.base.Session.

        Raises UserError where the server is gone, refuses everybody, or tells impossible counts.
        """
        asked = list(requests)
        for request in asked:
            refuse_reply(request, "kind=openai")
        yield from self.each(asked, self._answer)

    def each(self, things: Sequence[U], work: Callable[[U], Awaitable[T]]) -> Iterator[T]:
        """Work on things, as many at a time as the arm says -> results as they come. Raises what `work` raises."""
        results: queue.SimpleQueue[tuple[T] | None] = queue.SimpleQueue()
        run = self._submit(self._work_on_all(things, work, results))
        while (result := results.get()) is not None:
            yield result[0]
        if not self._closed:
            run.result()

    def counters(self) -> Counters | None:
        """The server's counters of speculation once they have come to rest; None where it has none. Raises UserError."""
        return self._wait(self._counters_at_rest())

    def close(self) -> None:
        """Give up what is in flight, and the connections; a generate() that waits in another thread ends."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        if self._running is not None and self._opened:  # one that did not open was never handed out
            served.release(self._running)
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def post(self, path: str, body: Json, *, api: bool = True) -> Json:
        """See openai_client.Client.post; within `each`."""
        return await self._client.post(path, body, api=api)

    def _plugin(self) -> Plugin | None:
        """What specsafe's plugin tells now, where the server is a vLLM that has it."""
        return self._wait(look_for_plugin(self._client, self.arm)) if self.server.dialect == "vllm" else None

    def _prove_again(self, before: Plugin | None) -> None:
        """A second request, for the first drafted nothing. Raises UserError where what is asked for decides nothing."""
        self._wait(self._first_look(REPEATS, _REPEAT_TOKENS))
        self.plugin = self._plugin()
        self.rule_proof = self.plugin.proof(before, self.asked) if self.plugin else ""
        if self.asked and not self.rule_proof:
            raise unproved(self.arm, self.asked, self.plugin)

    # --- the thread of the loop ---------------------------------------------------------------------------

    def _submit(self, work: Coroutine[Any, Any, T]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        result: T = self._submit(work).result()
        return result

    async def _stop(self) -> None:
        others = [t for t in asyncio.all_tasks() if t is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        if hasattr(self, "_client"):
            await self._client.close()

    async def _work_on_all(
        self,
        things: Sequence[U],
        work: Callable[[U], Awaitable[T]],
        results: queue.SimpleQueue[tuple[T] | None],
    ) -> None:
        left = iter(things)

        async def take() -> None:
            for thing in left:
                results.put((await work(thing),))

        tasks = [asyncio.create_task(take()) for _ in range(min(int(self.arm.concurrency), len(things)))]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            results.put(None)

    async def patient(self, item: str, ask: Callable[[], Awaitable[T]]) -> T | Failure:
        """What is asked of an item; a failure once a plain prompt has shown that the server is not to blame."""
        try:
            return (await patiently(self.arm, ask, self._random)).value
        except GaveUp as error:
            await self._require_life()
            return Failure(item, str(error), len(error.reasons))
        except Refused as error:
            return Failure(item, f"the server refused it: {error}", 1)

    async def _answer(self, request: Request) -> Sample | Failure:
        """One item: a sample, or a failure once a plain prompt has shown that the server is not to blame."""
        try:
            read, failed = await patiently(self.arm, lambda: self._attempt(request), self._random)
        except GaveUp as error:
            await self._require_life()
            return Failure(request.item, str(error), len(error.reasons))
        except Refused as error:
            return Failure(request.item, f"the server refused it: {error}", 1)
        except Unanswerable as error:
            return Failure(request.item, str(error), 1)
        except ImpossibleCounts as error:
            raise UserError(
                f"the server at {self.arm.url} tells impossible counts of drafting ({request.item[:40]}): {error}",
                "no acceptance can be computed from them; telemetry=none goes on without",
            ) from error
        require_as_claimed(self.arm, read.drafting)
        if failed and self.tells_by_counters:  # what a lost attempt drafted is in the counters too
            return replace(_undrafted(read.sample), failed_attempts=failed)
        sample = read.sample if self.arm.speculative else _undrafted(read.sample)
        return replace(sample, failed_attempts=failed)

    @property
    def tells_by_counters(self) -> bool:
        """Whether counts come from counters, read before and after each request."""
        return hasattr(self, "tells") and self.tells.drafting == "counters" and self.arm.concurrency == 1

    async def _attempt(self, request: Request, max_tokens: int | None = None) -> Read:
        arm = self.arm
        body = request_body(arm, self.server.model, request.prompt, max_tokens)
        if self.asked:
            body["vllm_xargs"] = dict(self.asked.fields)
        before = await self._counters_at_rest() if self.tells_by_counters else None
        started = time.monotonic()
        reply = await self._client.post(
            "/completions" if arm.chat_template == "off" else "/chat/completions", body
        )
        try:
            read = read_reply(arm, request, reply, self.server.letters, time.monotonic() - started)
        except ReplyError as error:
            raise Passing(str(error)) from error
        if before is None or read.drafting.drafted is not None:
            return read
        after = await self._counters_at_rest()
        if after is None:
            return read
        added = after.since(before)
        told = Drafting(added.drafted, added.accepted, added.rounds)
        sample = replace(read.sample, drafted=added.drafted, accepted=added.accepted, rounds=added.rounds)
        return Read(sample, told)

    async def _counters_at_rest(self) -> Counters | None:
        """The counters once two looks in a row agree: they may follow an answer by some moments."""
        last = await self._counters()
        for _ in range(_SETTLE_TRIES if last else 0):
            await asyncio.sleep(_SETTLE_SECONDS)
            now = await self._counters()
            if now == last:
                break
            last = now
        return last

    async def _counters(self) -> Counters | None:
        if not DIALECTS[self.arm.dialect].counters:
            return None
        try:
            got = (await patiently(self.arm, lambda: self._client.look("/metrics"), self._random)).value
        except GaveUp as error:
            raise UserError(
                f"/metrics of {self.arm.url} does not answer: {error}", "telemetry=none goes on without it"
            ) from error
        if got.status != 200:
            return None
        return read_counters(got.body.decode("utf-8", "replace"), self.arm.dialect, self.server.model)

    def _gone(self, error: GaveUp) -> UserError:
        """What to say of a server that answers nothing; of one of ours, what its log says."""
        if self._running is not None and self._running.ends_within(_END_SECONDS):
            return self._running.died("meanwhile")
        return gone(self.arm, error)

    async def _require_life(self) -> None:
        """Raises UserError unless the server answers a plain prompt: then an item was not what it failed on."""
        try:
            await patiently(self.arm, lambda: self._attempt(PLAIN, _PLAIN_TOKENS), self._random)
        except GaveUp as error:
            raise self._gone(error) from error
        except (Refused, Unanswerable, ImpossibleCounts):
            return  # it answers; what it says of a plain prompt is not the question

    async def _first_look(self, request: Request, tokens: int) -> Tells:
        """One plain request, to see what the replies hold."""
        try:
            read = (await patiently(self.arm, lambda: self._attempt(request, tokens), self._random)).value
        except GaveUp as error:
            raise self._gone(error) from error
        except (Refused, Unanswerable) as error:
            raise UserError(
                f"the server at {self.arm.url} refuses a plain prompt: {error}",
                "mend rule= or method="
                if self.asked and "specsafe:" in str(error)
                else "mend the arm: top= may be above its limit, or chat_template= may be the other one",
            ) from error
        except ImpossibleCounts as error:
            raise UserError(
                f"the server at {self.arm.url} tells impossible counts of drafting: {error}",
                "no acceptance can be computed from them; telemetry=none goes on without",
            ) from error
        require_as_claimed(self.arm, read.drafting)
        source: Source = "none"
        if self.arm.telemetry != "none":
            if read.drafting.drafted is not None:
                source = "request"
            elif await self._counters() is not None:
                source = "counters"
        s = read.sample
        return Tells(s.token_ids is not None, bool(s.logprobs), bool(s.top), source)


def _undrafted(sample: Sample) -> Sample:
    """The sample without counts of drafting: not known, or not its arm's business."""
    return replace(sample, drafted=None, accepted=None, rounds=None, accepted_at=None)


async def _client(arm: OpenAIArm) -> Client:
    """Made within the loop that it belongs to."""
    return Client(arm)
