"""The worker process of one native arm: JSON lines in, JSON lines out (see engines.worker).

A request {"item", "prompt", "replicate"} is decoded, with "reply" what is said of that answer; with "measure" only its
tokens are counted; {"item", "prompt", "answer"} is audited; with "spell", a list of token ids, their texts are told.
{"arm": configuration} makes the worker another arm, once all that was asked is answered: networks that both need stay
loaded. The worker ends when its input ends, so it cannot outlive a killed parent.
"""

from __future__ import annotations

import json
import math
import os
import queue
import sys
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from specsafe.errors import UserError

if TYPE_CHECKING:
    from specsafe.decoding.loop import Answer, Prompt
    from specsafe.decoding.stack import Loaded, Stack
    from specsafe.decoding.verify import Auditor, Question

Json = dict[str, Any]
Say = Callable[[Json], None]


def main() -> None:
    """Serve one arm on stdin and stdout; whatever prints goes to stderr."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def say(message: Json) -> None:
        out.write(json.dumps(message, allow_nan=False) + "\n")
        out.flush()

    inbox: queue.Queue[Json | None] = queue.Queue()

    def read() -> None:
        for line in sys.stdin:
            inbox.put(json.loads(line))
        inbox.put(None)

    threading.Thread(target=read, daemon=True).start()
    loaded: Loaded = {}
    config = inbox.get()
    while config is not None:
        stack = _opened(config, loaded, say)
        config = serve(stack, inbox, say)


def _opened(config: Json, loaded: Loaded, say: Say) -> Stack:
    """The stack of a configuration; what hinders it is told to the parent, which turns it into one line for the user."""
    try:
        from specsafe.decoding.stack import open_stack

        stack = open_stack(config, loaded)
        say({"ready": facts(stack)})
    except UserError as error:
        say({"failed": error.message, "hint": error.hint})
        os._exit(1)
    except Exception as error:
        say({"failed": f"{type(error).__name__}: {error}"})
        raise
    return stack


def serve(stack: Stack, inbox: queue.Queue[Json | None], say: Say) -> Json | None:
    """Answer requests as they come, as many at a time as the arm has slots -> the next arm; None once the input ends."""
    from specsafe.decoding.loop import Stopped
    from specsafe.decoding.verify import Auditor

    auditor = Auditor(stack)
    ended, following = False, None
    waiting: list[Question] = []  # audits, which are read together

    def take(wait: bool) -> Prompt | None:
        nonlocal ended, following
        while not ended:
            try:
                request = inbox.get(block=wait and not waiting)
            except queue.Empty:
                if not waiting:
                    return None
                _audit(auditor, waiting, say)
                continue
            if request is None or "arm" in request:
                ended, following = True, None if request is None else request["arm"]
            else:
                prompt = _taken(stack, waiting, request, say)
                if prompt is not None:
                    return prompt
            if waiting and (ended or len(waiting) == auditor.TOGETHER):
                _audit(auditor, waiting, say)
        return None

    for answer in stack.decoder().run(take):
        if isinstance(answer, Stopped):
            say({"item": answer.item, "error": answer.reason})
        else:
            say(flatten(stack, answer))
    return following


def _taken(stack: Stack, waiting: list[Question], request: Json, say: Say) -> Prompt | None:
    """A request as a prompt for the loop; None if it was answered at once, or waits to be audited with others."""
    from specsafe.decoding.verify import Question

    if "spell" in request:
        texts = [stack.tokenizer.decode([t]) for t in request["spell"]]
        say({"item": request["item"], "texts": texts})
        return None
    try:
        prompt = stack.prompt(
            request["item"], request["prompt"], request.get("replicate", 0), request.get("reply")
        )
    except UserError as error:
        say({"item": request["item"], "error": error.message})
        return None
    if request.get("measure"):
        longest = max(len(prompt.tokens), len(prompt.read_by_draft))
        say({"item": request["item"], "prompt_tokens": longest})
        return None
    if "answer" in request:
        waiting.append(Question(request["item"], prompt.tokens, request["answer"]))
        return None
    return prompt


def _audit(auditor: Auditor, waiting: list[Question], say: Say) -> None:
    """Audit what waits; each answer is told its share of the seconds, by the tokens of its prompt and its own."""
    began = time.perf_counter()
    found = auditor.together(waiting)
    read = [
        len(q.prompt) + (a["tokens"] if isinstance(a, dict) else 0)
        for q, a in zip(waiting, found, strict=True)
    ]
    each = (time.perf_counter() - began) / max(sum(read), 1)
    for question, answer, tokens in zip(waiting, found, read, strict=True):
        if isinstance(answer, dict):
            say({**answer, "seconds": each * tokens})
        else:
            say({"item": question.item, "error": str(answer)})
    waiting.clear()


def facts(stack: Stack) -> Json:
    """What really runs."""
    import torch

    drafter = stack.decoder()
    return {
        "engine": "specsafe native",
        "engine_version": f"torch {torch.__version__}",
        "build": f"{torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads",
        "weights": stack.config["dtype"],
        "tokenizer_sha256": stack.tokenizer.sha256,
        "products": f"{str(stack.target.computes).removeprefix('torch.')}, {stack.target.library}",
        "rule_parameters": _in_force(stack, drafts=drafter.drafts),
        "arithmetic": stack.config["arithmetic"],
        "rows_proved_equal": {role: proof.rows for role, proof in stack.proofs.items()},
        "tile": {role: proof.tile for role, proof in stack.proofs.items()},
        "slots": stack.config["slots"],
        "context_per_slot": stack.config["context"],
        "bytes": {
            "target": stack.target.bytes,
            "draft": stack.draft.bytes if stack.draft not in (None, stack.target) else 0,
            "cache": drafter.cache_bytes,
        },
    }


def _in_force(stack: Stack, *, drafts: bool) -> str:
    """The rule with its parameters, or the method with its parts."""
    if stack.method is not None:
        return repr(stack.method)
    return repr(stack.rule) if drafts else ""


def flatten(stack: Stack, answer: Answer) -> Json:
    """An answer of the loop -> the fields of a Sample."""
    from specsafe.decoding.stopping import cut

    spoken = [t for t in answer.tokens if t not in stack.tokenizer.end_ids]
    return {
        "item": answer.item,
        "text": cut(stack.tokenizer.decode(spoken), stack.config["stops"]),
        "finish": answer.finish,
        "token_ids": answer.tokens,
        "logprobs": answer.logprobs,
        "top": answer.top,
        "letters": stack.letter_logprobs(answer.watched),
        "drafted": answer.drafted,
        "accepted": answer.accepted,
        "rounds": answer.rounds,
        "accepted_at": answer.accepted_at,
        "columns": {name: [_number(v) for v in values] for name, values in answer.columns.items()},
        "prompt_tokens": answer.prompt_tokens,
        "prefill_seconds": answer.prefill_seconds,
        "seconds": answer.seconds,
    }


def _number(value: float) -> float | int | None:
    """Whole numbers as such, what is no number (there was nothing to measure) as null, the rest with a float32's digits."""
    if not math.isfinite(value):
        return None
    return int(value) if value == int(value) else float(f"{value:.8g}")


if __name__ == "__main__":
    main()
