"""What is settled once for all servers of a screen, before any arm answers."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable
from typing import NamedTuple

from specsafe.engines.arm_openai import OpenAIArm, serve_words
from specsafe.engines.base import Json
from specsafe.engines.openai import AT_ONCE, open_session
from specsafe.engines.openai_plugin import NGRAM, no_leak

_WORKER = "specsafe.plugin.worker"


class _Told(NamedTuple):
    """only_counters: nothing else tells of drafting. no_leak: why the server cannot be made to leak; "" if it can."""

    dialect: str
    only_counters: bool
    no_leak: str


def resolved(arms: Iterable[OpenAIArm]) -> Json:
    """What is settled once for all arms of a screen, by asking each server: dialects by address, and concurrency.

    One arm at a time and one concurrency for all: how many requests run beside each other is a treatment too. A server
    that is ours to start is not started for this where its command says it all.
    """
    told: dict[str, _Told] = {}
    counters = False
    fixed: set[int] = set()
    for arm in dict.fromkeys(a.model_copy(update={"prefill": ""}) for a in arms):
        told[arm.address] = found = _by_command(arm) or _by_asking(arm)
        counters |= arm.speculative and found.only_counters
        if arm.concurrency != "auto":
            fixed.add(int(arm.concurrency))
    concurrency = min(fixed) if fixed else 1 if counters else AT_ONCE
    return {
        "at_once": 1,
        "concurrency": concurrency,
        "dialects": {address: t.dialect for address, t in told.items()},
        "only_counters": counters,
        "no_leak": {address: t.no_leak for address, t in told.items() if t.no_leak},
    }


def _by_asking(arm: OpenAIArm) -> _Told:
    session = open_session(arm)
    try:
        dialect = session.server.dialect
        reason = no_leak(dialect, session.plugin, session.rule_proof)
        return _Told(dialect, session.tells.drafting == "counters", reason)
    finally:
        session.close()


def _by_command(arm: OpenAIArm) -> _Told | None:
    """Of a command that names vLLM or llama-server, or an arm that says it all; None for any other."""
    words = serve_words(arm.serve)
    named = "vllm" if "vllm" in words else "llamacpp" if "llama-server" in words else None
    if arm.serve and arm.dialect != "auto" and arm.concurrency != "auto":
        return _Told(arm.dialect, False, _no_leak_by_command(arm.dialect, arm.serve))
    if named is None:
        return None
    told = named == "llamacpp" or "--per-request-spec-decode-metrics" in arm.serve
    return _Told(named, not told, _no_leak_by_command(named, arm.serve))


def _no_leak_by_command(dialect: str, serve: str) -> str:
    """As openai_plugin.no_leak; a command that starts the plugin is believed here, and its server is asked later."""
    if dialect != "vllm":
        return no_leak(dialect, None, "")
    told = [w.partition("=")[2] for w in shlex.split(serve) if w.startswith("VLLM_PLUGINS=")]
    if _WORKER not in serve or "specsafe" not in (told or [os.environ.get("VLLM_PLUGINS", "")])[-1]:
        return (
            "the command of the speculative server starts vLLM without specsafe's plugin "
            f"({_WORKER}.Worker, VLLM_PLUGINS=specsafe), which alone can be made to leak"
        )
    return NGRAM if "ngram" in serve else ""
