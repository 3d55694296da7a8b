"""Arms of our own engine: what is checked before one opens, its worker, and its answers as samples."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from specsafe.decoding.safety.methods import find, parse_changes
from specsafe.decoding.safety.projection import Pair, read_projection, require_fit
from specsafe.drafts import model_file
from specsafe.drafts.layers import parse_keep
from specsafe.engines.arm_native import NativeArm
from specsafe.engines.base import Audited, Claim, Failure, Json, Request, Sample, Session
from specsafe.engines.worker import WorkerSession, WorkerSpec, cores
from specsafe.errors import UserError
from specsafe.models.store import sha256_file

SLOTS = 16
_NGRAM = 3
_PARTS = ("*.safetensors", "*.json", "*.jinja", "tokenizer.model")


def check(arm: NativeArm) -> dict[str, str]:
    """Files of an arm, before any model loads -> SHA-256 by part. Raises UserError for what is missing or does not fit."""
    found = check_models(arm)
    return {**found, **_steering(arm, found)} if arm.method else found


def check_models(arm: NativeArm) -> dict[str, str]:
    """As check, of the networks alone."""
    missing = [p for p in ("torch", "transformers", "safetensors", "gguf") if find_spec(p) is None]
    if missing:
        raise UserError(f"the native engine needs {missing[0]}", "pip install 'specsafe[native]'")
    _kept_layers(arm.draft), _longest_ngram(arm.draft)
    found = {"model": sha256_of_model(model_path(arm.model))}
    draft = draft_path(arm)
    return found if draft is None else {**found, "draft": sha256_of_model(draft)}


def _steering(arm: NativeArm, files: dict[str, str]) -> dict[str, str]:
    """The projection of a method that is steered: it must be there, this pair's, and trained at these scales."""
    method = find(arm.method, parse_changes(arm.changes))
    if method.steering is None:
        return {}
    if not arm.steering:
        raise UserError(
            f"method={arm.method} is steered and needs steering=FILE",
            f"train one: specsafe steer --method {arm.method}",
        )
    path = Path(arm.steering).expanduser()
    require_fit(path, read_projection(path), method, pair(arm, files))
    return {"steering": sha256_file(path)}


def pair(arm: NativeArm, files: dict[str, str]) -> Pair:
    """Which networks steer and are steered; files: hashes of `check`. Raises UserError for what cannot be steered."""
    outside = [name for name in (arm.model, arm.draft) if name.startswith("transformers:")]
    if outside:
        raise UserError(f"{outside[0]}: models read through transformers cannot be steered", "name another")
    itself = find(arm.method, parse_changes(arm.changes)).draft == "self"
    return Pair(
        target_sha256=files["model"],
        draft_sha256=files["model"] if itself else files.get("draft", files["model"]),
        layers=() if itself else _kept_layers(arm.draft),
    )


def model_path(name: str) -> str:
    """A catalogue name or a path -> the path of a GGUF file or a folder; `transformers:` stays in front."""
    prefix = "transformers:" if name.startswith("transformers:") else ""
    path = Path(name.removeprefix(prefix)).expanduser()
    if path.is_dir():
        return f"{prefix}{path.resolve()}"
    if prefix:
        raise UserError(f"no folder at {name.removeprefix(prefix)!r}", "name a folder with safetensors")
    return str(model_file(name))


def draft_path(arm: NativeArm) -> str | None:
    """The path of the model that drafts; None where the target or no model does."""
    inside = arm.draft in ("none", "self", "ngram", "script")
    if inside or arm.draft.startswith(("ngram:", "layers:", "first:")):
        return None
    return model_path(arm.draft)


def resolved(arm: NativeArm) -> Json:
    """Threads, slots and arms at once.

    Nothing is probed: one arm at a time takes all cores, and in invariant arithmetic the slots change no bit.
    """
    return {
        "threads": cores() if arm.threads == "auto" else arm.threads,
        "slots": SLOTS if arm.slots == "auto" else arm.slots,
        "at_once": 1,
        "probe": [],
    }


def stack_config(arm: NativeArm) -> Json:
    """An arm as decoding.stack reads it, its files found."""
    return {
        **arm.model_dump(),
        "rule": arm.rule_in_force,
        "rule_parameters": _as_rule(arm),
        "stops": arm.stops,
        "model_path": model_path(arm.model),
        "draft_path": draft_path(arm) or "",
        "keep": _kept_layers(arm.draft),
        "lookup": _longest_ngram(arm.draft),
        "steering_path": str(Path(arm.steering).expanduser()) if arm.steering else "",
    }


def open_session(arm: NativeArm, log: Path | None = None) -> WorkerSession:
    """Start the worker of an arm. Raises UserError if it cannot load or its arithmetic cannot be proved."""
    return WorkerSession(_spec(arm), log)


def become(session: Session, arm: NativeArm, *, hold: bool = False) -> None:
    """Make an open session answer as another arm; networks that both need stay loaded. Raises as open_session.

    hold: the others stay loaded too, for an arm that follows.
    """
    if not isinstance(session, WorkerSession):
        raise TypeError(f"{session} is no session of a native arm")
    session.become(_spec(arm, hold=hold))


def _spec(arm: NativeArm, *, hold: bool = False) -> WorkerSpec:
    files = check(arm)
    threads, slots = (resolved(arm)[name] for name in ("threads", "slots"))
    return WorkerSpec(
        module="specsafe.engines.native_worker",
        config={**stack_config(arm), "threads": threads, "slots": slots, "hold": hold},
        engine="the native engine",
        model=f"{arm.model} (draft {arm.draft})",
        facts={
            **{f"{part}_sha256": digest for part, digest in files.items()},
            "prompt": "chat template" if arm.chat_template == "on" else "raw completion",
            "rule": arm.rule_in_force,
            "lossless": arm.lossless,
            "threads": threads,
            "device": arm.device,
        },
        in_flight=slots,
        sample=partial(to_sample, arm),
        reads_replies=True,
    )


def measure(session: WorkerSession, requests: Iterable[Request]) -> dict[str, int | Failure]:
    """Item -> tokens that the arm would read of a request, its answer apart; a failure where it cannot be asked."""
    asked = {r.item: {**session.line(r), "measure": True} for r in requests}
    told: dict[str, int | Failure] = {}
    for m in session.ask(asked):
        told |= {m.item: m} if isinstance(m, Failure) else {m["item"]: int(m["prompt_tokens"])}
    return told


def require_room(session: Session, arm: NativeArm, requests: Iterable[Request]) -> None:
    """Raise UserError if some prompt leaves no room for an answer; all are read, none is answered."""
    if not isinstance(session, WorkerSession):
        raise TypeError(f"{session} is no session of a native arm")
    told = measure(session, requests)
    needed = {item: n + arm.max_tokens for item, n in told.items() if not isinstance(n, Failure)}
    too_long = {item: n for item, n in needed.items() if n > arm.context}
    if too_long:
        item, most = max(too_long.items(), key=lambda pair: pair[1])
        raise UserError(
            f"{len(too_long)} of {len(told)} prompts do not fit context={arm.context}: {item} needs {most} tokens, "
            f"{arm.max_tokens} of them for its answer",
            f"use context={most} or more, or leave those items out",
        )


def audit(session: WorkerSession, claims: Iterable[Claim]) -> Iterator[Audited | Failure]:
    """Audit answers in a session of an arm that auditing.auditor lets through, one answer an item, in any order."""
    asked: dict[str, Json] = {}
    for c in claims:
        answer = {"text": c.text, "token_ids": c.token_ids, "finish": c.finish}
        asked[c.item] = {"item": c.item, "prompt": c.prompt, "answer": answer}
    for found in session.ask(asked):
        yield found if isinstance(found, Failure) else _audited(found)


def spell(session: WorkerSession, tokens: Sequence[int]) -> dict[int, str]:
    """Token id -> its text, by the target's tokenizer."""
    (answer,) = session.ask({"spell": {"item": "spell", "spell": list(tokens)}})
    if isinstance(answer, Failure):
        raise RuntimeError(answer.reason)
    return dict(zip(tokens, answer["texts"], strict=True))


def _audited(message: Json) -> Audited:
    return Audited(
        **{
            **message,
            "logprobs": tuple(message["logprobs"]),
            "top": tuple(tuple((int(i), float(p)) for i, p in row) for row in message["top"]) or None,
            "letters": tuple((a, p) for a, p in message["letters"]) or None,
        }
    )


def _kept_layers(draft: str) -> tuple[int, ...]:
    """Layers of the target that draft, empty where it is not some of them that do."""
    if draft.startswith("first:"):
        return tuple(range(_number(draft)))
    return parse_keep(draft.removeprefix("layers:")) if draft.startswith("layers:") else ()


def _longest_ngram(draft: str) -> int:
    """Longest n-gram of a prompt lookup; 0 where none drafts."""
    if draft == "ngram":
        return _NGRAM
    return _number(draft) if draft.startswith("ngram:") else 0


def _number(draft: str) -> int:
    text = draft.partition(":")[2]
    if not text.isdecimal() or not 0 < int(text) < 1000:
        raise UserError(
            f"draft={draft}: expected a positive number after the colon", "such as first:12 or ngram:3"
        )
    return int(text)


def _as_rule(arm: NativeArm) -> dict[str, float]:
    """Parameters by the names that decoding.rules gives them: the arm's `leak` is the rule's rate."""
    return {"rate" if name == "leak" else name: value for name, value in arm.rule_parameters.items()}


def sha256_of_model(path: str) -> str:
    """SHA-256 of a file; of a folder, over the names and hashes of what a model is read from. Raises UserError."""
    place = Path(path.removeprefix("transformers:"))
    if place.is_file():
        return sha256_file(place)
    files = sorted({f for pattern in _PARTS for f in place.glob(pattern)})
    if not files:
        raise UserError(f"{place} holds no model", "name a folder with config.json and *.safetensors")
    text = "".join(f"{f.name} {sha256_file(f)}\n" for f in files)
    return hashlib.sha256(text.encode()).hexdigest()


def to_sample(arm: NativeArm, message: Json) -> Sample:
    """An answer line of the worker as a sample."""
    return Sample(
        item=message["item"],
        text=message["text"],
        finish=message["finish"],
        token_ids=tuple(message["token_ids"]),
        logprobs=tuple(message["logprobs"]),
        top=tuple(tuple((int(i), float(p)) for i, p in row) for row in message["top"]) if arm.top else None,
        letters=tuple((a, p) for a, p in message["letters"]) or None,
        drafted=message["drafted"] if arm.speculative else None,
        accepted=message["accepted"] if arm.speculative else None,
        rounds=message["rounds"] if arm.speculative else None,
        accepted_at=tuple(message["accepted_at"]) if arm.speculative else None,
        columns={name: tuple(values) for name, values in message["columns"].items()} or None,
        prompt_tokens=message["prompt_tokens"],
        prefill_seconds=message["prefill_seconds"],
        seconds=message["seconds"],
    )
