"""The worker process of one llama.cpp arm: JSON lines in, JSON lines out.

First line in: the resolved configuration. First line out: {"ready": facts} or {"failed": reason}.
Then each line in is a request and each line out its answer, in order of completion. The worker ends when
its input ends, so it cannot outlive a killed parent.
"""

from __future__ import annotations

import json
import os
import secrets
import sys
import threading
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from typing import IO, Any

Json = dict[str, Any]
NGRAM = {"ngram-cache", "ngram-simple", "ngram-map-k", "ngram-mod"}


def main() -> None:
    """Serve one arm on stdin and stdout; the engine's own prints go to stderr."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    lock = threading.Lock()

    def say(message: Json) -> None:
        with lock:
            out.write(json.dumps(message) + "\n")
            out.flush()

    config = json.loads(sys.stdin.readline())
    try:
        server, key = open_server(config)
        say({"ready": server_facts(server, key)})
    except Exception as error:  # reported to the parent, which turns it into one line for the user
        say({"failed": f"{type(error).__name__}: {error}"})
        os._exit(1)
    serve(server, config, sys.stdin, say)
    os._exit(0)  # the engine's destructors may wait for requests nobody wants any more


def serve(server: Any, config: Json, source: IO[str], say: Any) -> None:
    """Answer requests with as many threads as the engine has slots, until the input ends."""

    def one(request: Json) -> None:
        try:
            say(answer(server, config, request))
        except Exception as error:
            say({"item": request["item"], "error": f"{type(error).__name__}: {error}"})

    pool = ThreadPoolExecutor(config["slots"])
    for line in source:
        pool.submit(one, json.loads(line))


def open_server(config: Json) -> tuple[Any, str]:
    """Configuration (see arms.LlamaCppArm; paths already resolved) -> xllamacpp server and its API key."""
    import xllamacpp

    p = xllamacpp.CommonParams()
    p.model.path = config["model_path"]
    for cpu in (
        p.cpuparams,
        p.cpuparams_batch,
        p.speculative.draft.cpuparams,
        p.speculative.draft.cpuparams_batch,
    ):
        cpu.n_threads = config["threads"]
    p.n_parallel = config["slots"]
    p.n_ctx = config["context"] * config["slots"]
    p.n_threads_http = config["slots"] + 2
    p.cache_prompt = config["prompt_cache"]
    p.cache_ram_mib = 0  # answers must not depend on what an idle slot's prompt left behind
    p.fit_params = False
    p.api_keys = [secrets.token_hex(16)]  # the loopback listener is for this process alone
    p.ui = False
    p.verbosity = 2
    draft = config["draft"]
    if draft != "none":
        kind = draft.upper().replace("-", "_") if draft in NGRAM else "DRAFT_SIMPLE"
        p.speculative.types = [getattr(xllamacpp.common_speculative_type, f"COMMON_SPECULATIVE_TYPE_{kind}")]
        p.speculative.draft.n_max = config["n_max"]
        p.speculative.draft.p_min = config["p_min"]
        if kind == "DRAFT_SIMPLE":
            p.speculative.draft.mparams.path = config["draft_path"]
        if config["rule"] == "synthetic":
            p.speculative.synth_rates = [config["leak"]] * config["n_max"]
    return xllamacpp.Server(p), p.api_keys[0]


def server_facts(server: Any, key: str) -> Json:
    """What the running server says of itself on its loopback address."""
    import xllamacpp

    request = urllib.request.Request(
        f"{server.listening_address}/props", headers={"Authorization": f"Bearer {key}"}
    )
    with urllib.request.urlopen(request, timeout=30) as response:
        props = json.load(response)
    return {
        "engine": "llama.cpp (xllamacpp)",
        "engine_version": xllamacpp.__version__,
        "build": " ".join(str(xllamacpp.get_system_info()).split()),
        "weights": props.get("model_ftype"),
        "slots": props.get("total_slots"),
        "context_per_slot": props["default_generation_settings"]["n_ctx"],
    }


def answer(server: Any, config: Json, request: Json) -> Json:
    """One completion, chat or raw, as a flat record (see engines.base.Sample)."""
    raw = config["chat_template"] == "off"
    body = {
        **prompt_of(config, request["prompt"]),
        "max_tokens": request.get("max_tokens", config["max_tokens"]),
        "temperature": config["temperature"],
        "top_k": 0 if config["temperature"] else 40,
        "top_p": 1.0,
        "min_p": 0.0,
        "seed": config["seed"],
        "cache_prompt": config["prompt_cache"],
        "return_tokens": True,
        "verbose": True,
    }
    if config["top"]:
        body |= {"logprobs": config["top"]} if raw else {"logprobs": True, "top_logprobs": config["top"]}
    reply = server.handle_completions(body) if raw else server.handle_chat_completions(body)
    if "error" in reply:
        raise RuntimeError(reply["error"].get("message", str(reply["error"])))
    return {"item": request["item"], **flatten(reply, config["prefill"], config["draft"] != "none")}


def prompt_of(config: Json, prompt: str) -> Json:
    """What is asked: messages for the chat template, or the bare text of a raw completion."""
    if config["chat_template"] == "off":
        return {"prompt": prompt + (f" {config['prefill']}" if config["prefill"] else "")}
    roles = [("system", config["system"]), ("user", prompt), ("assistant", config["prefill"])]
    return {"messages": [{"role": role, "content": text} for role, text in roles if text or role == "user"]}


def letters_of(content: list[Json], has_draft: bool) -> list[tuple[str, float]] | None:
    """Log-probability of each single capital letter among the most likely first tokens, best spelling first.

    Exactly 0.0 is a certain token, but with a draft also what stands for a token that was accepted unmeasured:
    then None, for nothing is known of the letters.
    """
    if not content or (has_draft and content[0]["logprob"] == 0.0):
        return None
    found: dict[str, float] = {}
    for token in content[0]["top_logprobs"]:
        letter = token["token"].strip()
        if len(letter) == 1 and "A" <= letter <= "J":
            found[letter] = max(token["logprob"], found.get(letter, token["logprob"]))
    return sorted(found.items())


def flatten(reply: Json, prefill: str, has_draft: bool) -> Json:
    """An OpenAI-shaped reply with llama.cpp's extras -> the fields of a Sample."""
    choice, raw, timings = reply["choices"][0], reply["__verbose"], reply["timings"]
    text = (choice["message"]["content"] if "message" in choice else choice["text"]) or ""
    content = (choice.get("logprobs") or {}).get("content")
    return {
        "text": text.removeprefix(prefill),
        "finish": choice["finish_reason"],
        "token_ids": raw["tokens"],
        "logprobs": content and [c["logprob"] for c in content],
        "top": content and [[[t["id"], t["logprob"]] for t in c["top_logprobs"]] for c in content],
        "letters": letters_of(content, has_draft) if content else None,
        "drafted": timings.get("draft_n"),
        "accepted": timings.get("draft_n_accepted"),
        "prompt_tokens": raw["tokens_evaluated"],
        "prefill_seconds": timings["prompt_ms"] / 1000,
        "seconds": timings["predicted_ms"] / 1000,
    }


if __name__ == "__main__":
    main()
