"""The worker process of one vLLM arm: JSON lines in, JSON lines out (see engines.worker).

It runs in the Python that has vLLM, which may know nothing of specsafe: it imports the standard library and vLLM alone.
A line {"item", "prompt", "replicate"} is decoded; one with "read" is tokenized, one with "look" prefilled (see
engines.prefill). When its input ends the whole process group ends, so nothing outlives a killed parent.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import queue
import signal
import sys
import threading
import time
import traceback
from typing import IO, Any

# beside this file lie modules named as packages are: vLLM must not find them
sys.path[:] = [p for p in sys.path if os.path.abspath(p) != os.path.dirname(os.path.abspath(__file__))]  # noqa: PTH100, PTH120

Json = dict[str, Any]
LETTERS = "ABCDEFGHIJ"
REPEATS = (
    "one two three one two three one two three one two"  # so that a prompt lookup has something to draft
)


def main() -> None:
    """Serve one arm on stdin and stdout; whatever prints goes to stderr."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def say(message: Json) -> None:
        out.write(json.dumps(message, allow_nan=False) + "\n")
        out.flush()

    config = json.loads(sys.stdin.readline())
    inbox: queue.Queue[Json] = queue.Queue()
    threading.Thread(target=listen, args=(sys.stdin, inbox), daemon=True).start()
    try:
        stack = Stack(config)
        say({"ready": {**stack.facts(), **stack.rule()}})
    except (
        Exception
    ) as error:  # reported to the parent, which turns it into one line for the user and ends this process
        traceback.print_exc()
        say({"failed": said(error)})
        raise
    stack.serve(inbox, say)


def listen(source: IO[str], inbox: queue.Queue[Json]) -> None:
    """Lines of the parent, until it is gone; then nothing of this worker stays."""
    for line in source:
        inbox.put(json.loads(line))
    os.killpg(0, signal.SIGKILL)


class Stack:
    """A vLLM and what is in flight in it."""

    def __init__(self, config: Json) -> None:
        from vllm import LLM, EngineArgs

        self.config = config
        known = {f.name for f in dataclasses.fields(EngineArgs)}
        optional = set(config["optional"]) - known  # what an older version has not
        self.llm = LLM(**{k: v for k, v in config["engine"].items() if k not in optional})
        self.engine = self.llm.llm_engine
        self.tokenizer = self.llm.get_tokenizer()
        self.letters = self._letters()
        self.in_flight: dict[str, tuple[Json, float]] = {}
        self.count = 0

    def facts(self) -> Json:
        """What really runs."""
        import torch
        import vllm

        held = self.engine.vllm_config
        spec = held.speculative_config
        names = ("method", "rejection_sample_method", "draft_sample_method", "num_speculative_tokens")
        told = {n: getattr(spec, n, None) for n in names} if spec is not None else {}
        template = getattr(self.tokenizer, "chat_template", None)
        return {
            "engine": "vllm",
            "engine_version": vllm.__version__,
            "build": f"torch {torch.__version__}, python {sys.version.split()[0]}",
            "device": str(held.device_config.device_type),
            "weights": str(held.model_config.dtype).removeprefix("torch."),
            "chat_template_sha256": hashlib.sha256(template.encode()).hexdigest()
            if isinstance(template, str)
            else None,
            "slots": held.scheduler_config.max_num_seqs,
            "context_per_slot": held.model_config.max_model_len,
            "scheduled_ahead": bool(held.scheduler_config.async_scheduling),
            **{n: v for n, v in told.items() if isinstance(v, str | int)},
        }

    def rule(self) -> Json:
        """What decides on draft tokens, and what shows it. Raises RuntimeError where the plugin's rule decides nothing."""
        spec = self.engine.vllm_config.speculative_config
        if spec is None:
            return {}
        if not self.config["plugin"]:
            told = getattr(spec, "rejection_sample_method", None)
            return {"rule": told, "rule_proved": True} if told else {}
        before = self.decided()
        self.llm.generate([{"prompt_token_ids": self.tokenizer.encode(REPEATS)}], self.sampling({}))
        after = self.decided()
        if after["drafted"] <= before["drafted"]:
            raise RuntimeError(f"the rule {after['setting']} decided no draft token of a plain prompt")
        proof = f"specsafe {after['specsafe']} in the worker, whose sampler decided {after['drafted']} draft tokens by it"
        return {"rule": after["setting"], "rule_proved": True, "rule_proof": proof}

    def decided(self) -> Json:
        """What the plugin's sampler decides by, and how many draft tokens it decided so."""
        (told, *_) = self.llm.collective_rpc("specsafe_report")
        counts = told["decided"].get(told["setting"], {})
        return {**told, "drafted": int(counts.get("drafted", 0))}

    def serve(self, inbox: queue.Queue[Json], say: Any) -> None:
        """Answer lines as they come, as many at a time as the engine has slots; ends with the process."""
        while True:
            while not self.in_flight or not inbox.empty():
                line = inbox.get()
                try:
                    answer = self.take(line)
                except Exception as error:
                    answer = {"item": line["item"], "error": said(error)}
                if answer is not None:
                    say(answer)
            for output in self.engine.step():
                if output.finished:
                    line, began = self.in_flight.pop(output.request_id)
                    say(self.told(line, output, time.perf_counter() - began))

    def take(self, line: Json) -> Json | None:
        """What is answered at once; None for what was handed to the engine."""
        if "read" in line:
            return {"item": line["item"], **self.read(line["read"])}
        tokens = line["look"]["tokens"] if "look" in line else self.prompt(line["prompt"])
        self.count += 1
        request = str(self.count)
        params = self.looking(line["look"]) if "look" in line else self.sampling(line)
        self.engine.add_request(request, {"prompt_token_ids": tokens}, params)
        self.in_flight[request] = (line, time.perf_counter())
        return None

    def sampling(self, line: Json) -> Any:
        """How an answer is drawn; everything that changes it is said."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        config = self.config
        return SamplingParams(
            output_kind=RequestOutputKind.FINAL_ONLY,
            temperature=config["temperature"],
            top_p=1.0,
            top_k=0,
            min_p=0.0,
            seed=config["seed"] + line.get("replicate", 0) if config["temperature"] else None,
            max_tokens=config["max_tokens"],
            stop=config["stops"] or None,
            logprobs=config["top"] or None,
            extra_args=config["extra_args"] or None,
        )

    def looking(self, look: Json) -> Any:
        """One prefill; one token is generated, for less is refused."""
        from vllm import SamplingParams

        return SamplingParams(temperature=0.0, max_tokens=1, prompt_logprobs=2 if look["best"] else 0)

    def prompt(self, text: str) -> list[int]:
        """Token ids of a prompt, by the model's chat template or raw."""
        config = self.config
        if config["chat_template"] == "off":
            raw = text + (f" {config['prefill']}" if config["prefill"] else "")
            return list(self.tokenizer.encode(raw))
        roles = [("system", config["system"]), ("user", text), ("assistant", config["prefill"])]
        messages = [{"role": r, "content": c} for r, c in roles if c or r == "user"]
        led = bool(config["prefill"])
        return list(
            self.tokenizer.apply_chat_template(
                messages,
                tokenize=True,
                return_dict=False,
                add_generation_prompt=not led,
                continue_final_message=led,
            )
        )

    def read(self, claim: Json) -> Json:
        """A claim as the tokenizer reads it: the fields of prefill.Reading."""
        own = claim["token_ids"]
        again = self.tokenizer.encode(claim["text"], add_special_tokens=False) if claim["text"] else []
        return {
            "prompt": self.prompt(claim["prompt"]),
            "spelled": self.tokenizer.decode(own) if own else None,
            "but_last": self.tokenizer.decode(own[:-1]) if own else None,
            "again": again,
            "respelled": self.tokenizer.decode(again),
            "room": self.engine.vllm_config.model_config.max_model_len,
            "ends": self.ends(),
        }

    def ends(self) -> list[int]:
        """Token ids that end an answer: the tokenizer's, and those of the model's generation settings."""
        config = self.engine.vllm_config.model_config
        told = (config.try_get_generation_config() or {}).get("eos_token_id")
        listed = told if isinstance(told, list) else [told]
        return sorted({t for t in (*listed, self.tokenizer.eos_token_id) if isinstance(t, int)})

    def told(self, line: Json, output: Any, seconds: float) -> Json:
        """A finished request as an answer line."""
        found = output.outputs[0]
        if found.finish_reason not in ("stop", "length"):
            return {"item": line["item"], "error": f"it ended with finish_reason {found.finish_reason!r}"}
        if "look" in line:
            return {"item": line["item"], "seconds": seconds, **looked(line["look"], output)}
        rows = found.logprobs or []
        ids = list(found.token_ids)
        spec = getattr(found, "spec_decode_metrics", None)
        return {
            "item": line["item"],
            "text": found.text,
            "finish": found.finish_reason,
            "token_ids": ids,
            "logprobs": [number(r[t].logprob) for r, t in zip(rows, ids, strict=True)] if rows else None,
            "top": [self.most(r) for r in rows] if rows else None,
            "letters": self.of_letters(rows[0]) if rows else [],
            "drafting": spec.to_dict() if spec is not None else None,
            "prompt_tokens": len(output.prompt_token_ids),
            "seconds": seconds,
        }

    def most(self, row: Any) -> list[tuple[int, float]]:
        """The likeliest tokens of a position, as many as were asked for."""
        ranked = sorted(row.items(), key=lambda pair: pair[1].rank)[: self.config["top"]]
        return [(t, p) for t, told in ranked if (p := number(told.logprob)) is not None]

    def of_letters(self, row: Any) -> list[tuple[str, float]]:
        """Log-probability of each option letter as first token, best spelling first."""
        found: dict[str, float] = {}
        for token, told in row.items():
            letter, p = self.letters.get(token), number(told.logprob)
            if letter is not None and p is not None:
                found[letter] = max(p, found.get(letter, p))
        return sorted(found.items())

    def _letters(self) -> dict[int, str]:
        spelled = [(a, s) for a in LETTERS for s in (a, f" {a}")]
        tokens = [(self.tokenizer.encode(s, add_special_tokens=False), a) for a, s in spelled]
        return {ids[0]: a for ids, a in tokens if len(ids) == 1}


def looked(look: Json, output: Any) -> Json:
    """Of each given token: id, log-probability, rank, and the likeliest other token where that was asked for."""
    rows = list(output.prompt_logprobs or [])[look["first"] :]
    tokens = look["tokens"][look["first"] :]
    given = []
    for token, row in zip(tokens, rows, strict=True):
        others = [(t, told.logprob) for t, told in row.items() if t != token]
        best = max(others, key=lambda o: (o[1], -o[0])) if look["best"] and others else None
        own = row[token]
        given.append([token, number(own.logprob), own.rank, best])
    return {"given": given, "ends": output.outputs[0].finish_reason == "stop"}


def number(value: float) -> float | None:
    """None for what JSON has no word for: not a number, or infinite."""
    return float(value) if math.isfinite(value) else None


def said(error: Exception) -> str:
    """An error in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


if __name__ == "__main__":
    main()
