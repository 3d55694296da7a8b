"""llama.cpp arms: what is checked before one opens, its worker, and its answers as samples."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from specsafe.drafts import draft_file, model_file
from specsafe.engines.arm_llamacpp import LlamaCppArm
from specsafe.engines.base import Json, Sample
from specsafe.engines.llamacpp_worker import NGRAM
from specsafe.engines.worker import WorkerSession, WorkerSpec
from specsafe.errors import UserError
from specsafe.models.gguf_file import model_facts


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
            f"use one of: {', '.join(arm.rules)}",
        )
    if arm.rule == "greedy" and arm.temperature > 0:
        raise UserError(
            f"rule=greedy at temperature {arm.temperature}: llama.cpp samples there",
            "use rule=agreement or temperature=0",
        )
    target = model_facts(model_file(arm.model))
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
        return model_file(arm.model)
    if arm.draft.startswith("layers:"):
        return draft_file(model_file(arm.model), arm.draft.removeprefix("layers:"))
    return model_file(arm.draft)


def open_session(arm: LlamaCppArm, log: Path | None = None) -> WorkerSession:
    """Start the worker of an arm whose threads and slots are numbers. Raises UserError if it cannot load."""
    if arm.threads == "auto" or arm.slots == "auto":
        raise ValueError("threads and slots must be resolved before an arm is opened")
    files, path = check(arm), draft_path(arm)
    spec = WorkerSpec(
        module="specsafe.engines.llamacpp_worker",
        config={
            **arm.model_dump(),
            "rule": arm.rule_in_force,
            "model_path": str(model_file(arm.model)),
            "draft_path": str(path) if path else "",
        },
        engine="llama.cpp",
        model=f"{arm.model} (draft {arm.draft})",
        facts={
            **{f"{part}_sha256": digest for part, digest in files.items()},
            "prompt": "chat template" if arm.chat_template == "on" else "raw completion",
            "rule": arm.rule_in_force,
            "lossless": arm.lossless,
            "threads": arm.threads,
            "device": "cpu",
        },
        in_flight=arm.slots,
        sample=partial(_sample, arm),
    )
    return WorkerSession(spec, log)


def _sample(arm: LlamaCppArm, message: Json) -> Sample:
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
