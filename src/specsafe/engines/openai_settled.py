"""What is settled once for all servers of a screen, before any arm answers."""

from __future__ import annotations

from collections.abc import Iterable

from specsafe.engines.arm_openai import OpenAIArm, serve_words
from specsafe.engines.base import Json
from specsafe.engines.openai import AT_ONCE, open_session


def resolved(arms: Iterable[OpenAIArm]) -> Json:
    """What is settled once for all arms of a screen, by asking each server: dialects by address, and concurrency.

    One arm at a time and one concurrency for all: how many requests run beside each other is a treatment too. A server
    that is ours to start is not started for this where its command says it all.
    """
    dialects: dict[str, str] = {}
    counters = False
    fixed: set[int] = set()
    for arm in dict.fromkeys(a.model_copy(update={"prefill": ""}) for a in arms):
        dialects[arm.address], only_counters = _by_command(arm) or _by_asking(arm)
        counters |= arm.speculative and only_counters
        if arm.concurrency != "auto":
            fixed.add(int(arm.concurrency))
    concurrency = min(fixed) if fixed else 1 if counters else AT_ONCE
    return {"at_once": 1, "concurrency": concurrency, "dialects": dialects, "only_counters": counters}


def _by_asking(arm: OpenAIArm) -> tuple[str, bool]:
    """Dialect, and whether only counters tell of drafting."""
    session = open_session(arm)
    try:
        return session.server.dialect, session.tells.drafting == "counters"
    finally:
        session.close()


def _by_command(arm: OpenAIArm) -> tuple[str, bool] | None:
    """As _by_asking, of a command that names vLLM or llama-server, or an arm that says it all; None for any other."""
    if arm.serve and arm.dialect != "auto" and arm.concurrency != "auto":
        return arm.dialect, False
    words = serve_words(arm.serve)
    named = "vllm" if "vllm" in words else "llamacpp" if "llama-server" in words else None
    if named is None:
        return None
    told = "--per-request-spec-decode-metrics" in arm.serve
    return (named, not told) if named == "vllm" else (named, False)
