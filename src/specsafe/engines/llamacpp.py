"""llama.cpp arms: the parent's side. Native code lives in a worker process, an arm each.

An abort in the worker costs its work in flight: it is started again and asked for what is missing.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from specsafe.drafts import draft_file
from specsafe.engines.arms import LLAMACPP_RULES, LlamaCppArm
from specsafe.engines.base import Failure, Json, Request, Sample
from specsafe.engines.llamacpp_worker import NGRAM
from specsafe.errors import UserError
from specsafe.models.gguf_file import model_facts
from specsafe.models.store import resolve

_START_SECONDS = 180
_TRIES = 3
_PLAIN = Request("plain prompt", "Say hello.")


def check(arm: LlamaCppArm) -> dict[str, str]:
    """Files and labels of an arm, before any model loads -> SHA-256 by part ("model", "draft").

    Raises UserError for a missing or damaged file, a rule that llama.cpp cannot apply, a tokenizer that
    target and draft do not share, or a missing package.
    """
    try:
        import xllamacpp  # noqa: F401
    except ImportError as error:
        raise UserError(
            "the llama.cpp engine is not installed", "pip install 'specsafe[llamacpp]'"
        ) from error
    if not arm.rule_is_known:
        raise UserError(
            f"rule={arm.rule_in_force}: this llama.cpp build cannot apply it; it accepts draft tokens that equal the target's own",
            f"use one of: {', '.join(LLAMACPP_RULES)}",
        )
    if arm.rule == "greedy" and arm.temperature > 0:
        raise UserError(
            f"rule=greedy at temperature {arm.temperature}: llama.cpp samples there",
            "use rule=agreement or temperature=0",
        )
    target = model_facts(resolve(arm.model))
    path = draft_path(arm)
    if path is None:
        return {
            "model": target.sha256,
            "tokenizer": target.tokenizer_sha256,
            "chat_template": target.chat_template_sha256,
        }
    draft = model_facts(path)
    if draft.tokenizer_sha256 != target.tokenizer_sha256:
        raise UserError(
            f"draft {arm.draft} has another tokenizer ({draft.tokenizer_sha256[:12]}…) than target {arm.model} "
            f"({target.tokenizer_sha256[:12]}…): llama.cpp would log it and run without speculation",
            "choose a draft of the same family, or draft=layers:…",
        )
    return {**check(arm.model_copy(update={"draft": "none", "rule": "auto"})), "draft": draft.sha256}


def draft_path(arm: LlamaCppArm) -> Path | None:
    """The GGUF file that drafts, made first if it is a layer-dropped one; None where no model drafts."""
    if arm.draft == "none" or arm.draft in NGRAM:
        return None
    if arm.draft == "self":
        return resolve(arm.model)
    if arm.draft.startswith("layers:"):
        return draft_file(resolve(arm.model), arm.draft.removeprefix("layers:"))
    return resolve(arm.draft)


def open_session(arm: LlamaCppArm, log: Path | None = None) -> LlamaCppSession:
    """Start the worker of an arm whose threads and slots are numbers. Raises UserError if it cannot load."""
    if arm.threads == "auto" or arm.slots == "auto":
        raise ValueError("threads and slots must be resolved before an arm is opened")
    return LlamaCppSession(arm, check(arm), log)


class LlamaCppSession:
    """One worker process; see engines.base.Session."""

    def __init__(self, arm: LlamaCppArm, files: dict[str, str], log: Path | None) -> None:
        self._arm, self._files, self._log = arm, files, log
        self._process: subprocess.Popen[str] | None = None
        self._facts: Json = {}
        self._closed = False
        self._start()

    def fingerprint(self) -> Json:
        """Versions, hashes, rule, threads and slots of what runs."""
        arm = self._arm
        return {
            **self._facts,
            **{f"{part}_sha256": digest for part, digest in self._files.items()},
            "prompt": "chat template" if arm.chat_template == "on" else "raw completion",
            "rule": arm.rule_in_force,
            "lossless": arm.lossless,
            "threads": arm.threads,
            "device": "cpu",
        }

    def generate(self, requests: Iterable[Request]) -> Iterator[Sample | Failure]:
        """Yield a sample or a failure for each request as it completes; see engines.base.Session.

        Where the worker dies, one of the items in flight may be the cause: they are asked again alone, and
        an item that kills it _TRIES times is given up. Raises UserError if the worker dies on a plain prompt too.
        """
        pending = {r.item: r for r in requests}
        tries: dict[str, int] = {}
        while pending and not self._closed:
            worker = self._process
            if worker is None or worker.poll() is not None:
                self._start()
                continue
            suspects = [r for i, r in pending.items() if i in tries][:1]
            asked = suspects or list(pending.values())
            self._send(worker, asked)
            for answer in self._receive(worker, pending, len(asked)):
                tries.pop(answer.item, None)
                yield answer
            if worker.poll() is None or self._closed:
                continue
            in_flight = suspects or list(pending.values())[: int(self._arm.slots)]
            for request in in_flight:
                tries[request.item] = tries.get(request.item, 0) + 1
                if tries[request.item] >= _TRIES:
                    del pending[request.item], tries[request.item]
                    yield self._give_up(request.item)

    def _give_up(self, item: str) -> Failure:
        """The failure of an item, once the worker has shown on a plain prompt that it is not the engine's."""
        reason = f"the worker died on it; last log line: {self._last_log()}"
        if self._process is None or self._process.poll() is not None:
            self._start()
        assert self._process is not None
        self._send(self._process, [_PLAIN])
        if not any(self._receive(self._process, {_PLAIN.item: _PLAIN}, 1)) and not self._closed:
            raise UserError(
                f"the llama.cpp worker died {_TRIES} times on {item}, and then on a plain prompt; last log line: {self._last_log()}",
                "finished answers are kept; mend the engine and run the same command to continue",
            )
        return Failure(item, reason, _TRIES)

    def close(self) -> None:
        """Stop the worker; a generate() that waits for it in another thread ends."""
        self._closed = True
        self._kill()

    def _kill(self) -> None:
        worker, self._process = self._process, None
        if worker is None:
            return
        assert worker.stdin and worker.stdout
        worker.kill()
        worker.wait()
        for pipe in (worker.stdin, worker.stdout):
            try:
                pipe.close()
            except BrokenPipeError:  # requests that the worker never read; nobody wants them now
                continue

    def _start(self) -> None:
        """Start the worker; one that is killed while it loads is started again. Raises UserError."""
        for left in reversed(range(_TRIES)):
            self._kill()
            self._process = worker = self._spawn()
            message = self._hear(worker)
            if "ready" in message:
                self._facts = message["ready"]
                return
            killed = worker.poll() is not None and "failed" not in message
            self._kill()
            if not killed or not left:
                reason = message.get("failed", f"no answer from the worker; {self._last_log()}")
                raise UserError(
                    f"llama.cpp cannot open {self._arm.model} (draft {self._arm.draft}): {reason}",
                    f"see {self._log}" if self._log else "check that the file is a complete GGUF model",
                )

    def _spawn(self) -> subprocess.Popen[str]:
        stderr: IO[bytes] | int = self._log.open("ab") if self._log else subprocess.DEVNULL
        try:
            return subprocess.Popen(
                [sys.executable, "-m", "specsafe.engines.llamacpp_worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                encoding="utf-8",
                start_new_session=True,  # Ctrl-C reaches the parent alone, which then stops its workers
            )
        finally:
            if not isinstance(stderr, int):
                stderr.close()

    def _hear(self, worker: subprocess.Popen[str]) -> Json:
        """Send the configuration -> {"ready": …} or {"failed": …}; {} if the worker said nothing."""
        path = draft_path(self._arm)
        config = {
            **self._arm.model_dump(),
            "rule": self._arm.rule_in_force,
            "model_path": str(resolve(self._arm.model)),
            "draft_path": str(path) if path else "",
        }
        assert worker.stdin and worker.stdout
        try:
            worker.stdin.write(json.dumps(config) + "\n")
            worker.stdin.flush()
        except BrokenPipeError:  # it died before it read anything
            worker.wait()
            return {}
        readable, _, _ = select.select([worker.stdout], [], [], _START_SECONDS)
        line = worker.stdout.readline() if readable else ""
        if not line.endswith("\n"):
            if readable:
                worker.wait()
            return {}
        return dict(json.loads(line))

    def _send(self, worker: subprocess.Popen[str], requests: Iterable[Request]) -> None:
        """Queue all requests in the worker, from a thread so that a full pipe cannot block the reading."""
        lines = [json.dumps({"item": r.item, "prompt": r.prompt}) + "\n" for r in requests]
        assert worker.stdin
        pipe = worker.stdin

        def write() -> None:
            try:
                for line in lines:
                    pipe.write(line)
                pipe.flush()
            except (BrokenPipeError, ValueError):
                return  # the worker died or was closed: the reader notices and decides

        threading.Thread(target=write, daemon=True).start()

    def _receive(
        self, worker: subprocess.Popen[str], pending: dict[str, Request], expected: int
    ) -> Iterator[Sample | Failure]:
        """What the worker answers, until all that was asked is there or the worker has died."""
        assert worker.stdout
        for _ in range(expected):
            line = worker.stdout.readline()
            if not line.endswith("\n"):  # end of file, or half a line of a killed worker
                worker.wait()
                return
            message = json.loads(line)
            request = pending.pop(message["item"])
            if "error" in message:
                yield Failure(request.item, f"llama.cpp refused it: {message['error']}", 1)
            else:
                yield self._sample(message)

    def _sample(self, message: dict[str, Any]) -> Sample:
        arm = self._arm
        logprobs, top = message["logprobs"], message["top"]
        if arm.speculative and logprobs:  # 0.0 from a speculative arm is "not scored", not certainty
            top = [t if p != 0.0 else [] for p, t in zip(logprobs, top, strict=True)]
            logprobs = [p if p != 0.0 else None for p in logprobs]
        return Sample(
            item=message["item"],
            text=message["text"],
            letters=tuple((a, p) for a, p in message["letters"]) if message["letters"] else None,
            finish=message["finish"],
            token_ids=tuple(message["token_ids"]),
            logprobs=tuple(logprobs) if logprobs else None,
            top=tuple(tuple((int(i), float(p)) for i, p in row) for row in top) if top else None,
            drafted=(message["drafted"] or 0) if arm.speculative else None,
            accepted=(message["accepted"] or 0) if arm.speculative else None,
            prompt_tokens=message["prompt_tokens"],
            prefill_seconds=message["prefill_seconds"],
            seconds=message["seconds"],
        )

    def _last_log(self) -> str:
        if self._log is None or not self._log.exists():
            return "no log"
        lines = self._log.read_bytes()[-4096:].decode("utf-8", "replace").strip().splitlines()
        return lines[-1][:200] if lines else "empty log"


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
