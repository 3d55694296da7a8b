"""A short probe that chooses threads and slots: how many threads an arm, how many requests at a time.

Batch size is a treatment, so slots are chosen once for all arms of a screen and recorded. More slots are
taken only for a clear gain.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from specsafe.engines import Request, Sample, open_session
from specsafe.engines.arms import LlamaCppArm
from specsafe.engines.base import Json
from specsafe.engines.worker import cores
from specsafe.errors import UserError

_TOKENS = 12
_REQUESTS_PER_SLOT = 2
_SLOTS = (1, 8)
_GAIN = 1.25
_PATIENCE = 3.0  # a candidate this many times slower than the best is stopped: busy cores make it crawl


@dataclass(frozen=True)
class Candidate:
    """One way to use the machine and the tokens a second that it gave over all arms at once."""

    threads: int
    slots: int
    at_once: int
    tokens_per_second: float


def choose_concurrency(arm: LlamaCppArm, prompts: Sequence[str]) -> Json:
    """{"threads", "slots", "at_once", "probe"} for this machine; numbers that the arm fixes are kept."""
    available = cores()
    threads = [arm.threads] if arm.threads != "auto" else sorted({1, available})
    slots = [arm.slots] if arm.slots != "auto" else list(_SLOTS)
    pairs = [(int(t), int(s)) for t in threads for s in slots]
    if len(pairs) == 1:
        t, s = pairs[0]
        return {"threads": t, "slots": s, "at_once": max(1, available // t), "probe": []}
    tried: list[Candidate] = []
    best: Candidate | None = None
    for t, s in pairs:
        limit = (
            _PATIENCE * _work(s) * (available // t or 1) / best.tokens_per_second
            if best and best.tokens_per_second
            else None
        )
        candidate = _measure(arm, prompts, t, s, max(1, available // t), limit)
        tried.append(candidate)
        if best is None or candidate.tokens_per_second > _GAIN * best.tokens_per_second:
            best = candidate
    if best is None or not best.tokens_per_second:
        raise UserError(
            f"none of the first {len(prompts)} prompts of the battery could be answered",
            "raise context= of the target, or name threads= and slots= to see each failure",
        )
    return {
        "threads": best.threads,
        "slots": best.slots,
        "at_once": best.at_once,
        "probe": [asdict(c) for c in tried],
    }


def _work(slots: int) -> int:
    return _REQUESTS_PER_SLOT * max(slots, 2) * _TOKENS


def _measure(
    arm: LlamaCppArm, prompts: Sequence[str], threads: int, slots: int, at_once: int, limit: float | None
) -> Candidate:
    """Tokens a second of `at_once` sessions together; what is there when the limit (seconds) is over counts."""
    fixed = arm.model_copy(update={"threads": threads, "slots": slots, "max_tokens": _TOKENS})
    sessions = [open_session(fixed) for _ in range(at_once)]
    requests = [Request(str(n), prompts[n % len(prompts)]) for n in range(_REQUESTS_PER_SLOT * max(slots, 2))]
    counts = [0] * at_once

    def work(index: int) -> None:
        for sample in sessions[index].generate(requests):
            counts[index] += len(sample.token_ids or ()) if isinstance(sample, Sample) else 0

    workers = [threading.Thread(target=work, args=(n,), daemon=True) for n in range(at_once)]
    started = time.monotonic()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(None if limit is None else max(0.0, started + limit - time.monotonic()))
    seconds = time.monotonic() - started
    tokens = sum(counts)
    for session in sessions:
        session.close()
    return Candidate(threads, slots, at_once, round(tokens / seconds, 1))
