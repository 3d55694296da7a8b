"""Train a steering projection in a worker process: what is checked before, and what comes back."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from specsafe.battery import Battery
from specsafe.battery.split import prove_disjoint
from specsafe.decoding.safety.methods import METHODS, find, parse_changes
from specsafe.decoding.safety.projection import EPOCHS, Apart, Projection, read_projection, words_sha256
from specsafe.engines import native
from specsafe.engines.arm_native import NativeArm
from specsafe.engines.base import Json
from specsafe.engines.worker import end, spawn
from specsafe.errors import UserError
from specsafe.fetch import sha256_file

Report = Callable[[int, int], None]
"""Answers read so far, and in all."""


class Trained(NamedTuple):
    """The record of a projection, the hash of its file, and how long that took."""

    projection: Projection
    sha256: str
    seconds: float


def train(
    arm: NativeArm,
    prompts: Battery,
    out: Path,
    *,
    apart_from: Sequence[Battery],
    epochs: int = EPOCHS,
    report: Report = lambda done, planned: None,
    log: Path | None = None,
) -> Trained:
    """Train the projection for an arm on all prompts of a battery and write it to `out`, or leave `out` as it is.

    arm: as it will decode, its `steering` left open. apart_from: what will be evaluated on. Raises UserError, before
    any model loads, if the method is not steered, a file is missing, or a prompt to train on is one of those, nearly
    equal to it or in its cluster; and for what the worker refuses.
    """
    require_steered(arm)
    proofs = proved_apart(prompts, apart_from)
    if out.is_dir() or not out.parent.is_dir() or not os.access(out.parent, os.W_OK):
        raise UserError(
            f"cannot write {str(out)!r}", "name a file in a folder that is there and can be written"
        )
    bare = arm.model_copy(update={"steering": ""})
    pair = native.pair(bare, native.check_models(bare))
    asked: Json = {
        "config": {**native.stack_config(bare), **_resources(bare)},
        "prompts": {i.id: i.prompt for i in prompts.items},
        "out": str(out),
        "pair": pair.model_dump(mode="json"),
        "apart_from": [p.model_dump(mode="json") for p in proofs],
        "epochs": epochs,
    }
    began = time.monotonic()
    record = _run(asked, report, log)
    return Trained(Projection.model_validate(record), sha256_file(out), time.monotonic() - began)


def of_axes(prompts: Battery, axes: Sequence[str], limit: int | None = None) -> Battery:
    """The items of some axes, of each at most `limit`, chosen by hash. Raises UserError for an axis without one."""
    missing = [axis for axis in axes if not prompts.on(axis)]
    if missing:
        raise UserError(
            f"battery {prompts.name} has no prompt of axis {missing[0]!r}",
            f"it has: {', '.join(prompts.axes)}",
        )
    some = replace(prompts, items=tuple(i for i in prompts.items if i.axis in axes))
    return some if limit is None else some.limit(limit)


def require_steered(arm: NativeArm) -> None:
    """Raise UserError unless the arm's method has a projection to train."""
    if not arm.method or find(arm.method, parse_changes(arm.changes)).steering is None:
        steered = [name for name, m in METHODS.items() if m.steering is not None]
        raise UserError(f"method {arm.method!r} is not steered", f"those are: {', '.join(steered)}")


def trained_on(arm: NativeArm, prompts: Iterable[str]) -> list[str]:
    """Those prompts that the projection of an arm was trained on: answers to them are no evidence."""
    if not arm.steering:
        return []
    projection = read_projection(Path(arm.steering).expanduser())
    known = {p.words_sha256 for p in projection.prompts}
    return [prompt for prompt in prompts if words_sha256(prompt) in known]


def proved_apart(prompts: Battery, apart_from: Sequence[Battery]) -> list[Apart]:
    """For each battery the proof that no prompt is in it, nearly in it or in one of its clusters; see battery.near.

    Raises UserError naming the ids that are.
    """
    proofs = []
    for other in apart_from:
        proof = prove_disjoint(prompts, other)
        proofs.append(
            Apart(
                name=other.name,
                sha256=other.sha256,
                items=len(other.items),
                pairs=len(prompts.items) * len(other.items),
                templated=proof.templated,
            )
        )
    return proofs


def _resources(arm: NativeArm) -> Json:
    found = native.resolved(arm)
    return {name: found[name] for name in ("threads", "slots")}


def _run(asked: Json, report: Report, log: Path | None) -> Json:
    """The record that the worker gives. Raises UserError with its reason if it gives none."""
    with _worker(log) as worker:
        if worker.stdin is None or worker.stdout is None:
            raise RuntimeError("a worker without pipes")
        worker.stdin.write(json.dumps(asked) + "\n")
        worker.stdin.flush()  # and it stays open: the worker ends with it
        for line in worker.stdout:
            message = json.loads(line)
            if "trained" in message:
                return dict(message["trained"])
            if "failed" in message:
                raise UserError(f"the training failed: {message['failed']}", message.get("hint") or _see(log))
            report(message["done"], message["planned"])
        raise UserError(f"the training ended with code {worker.wait()} and without a word", _see(log))


def _see(log: Path | None) -> str:
    return f"see {log}" if log else "is there memory enough? Try fewer prompts, or threads=1"


@contextmanager
def _worker(log: Path | None) -> Iterator[subprocess.Popen[str]]:
    worker = spawn([sys.executable, "-m", "specsafe.engines.steering_worker"], log)
    try:
        yield worker
    finally:
        end(worker)
