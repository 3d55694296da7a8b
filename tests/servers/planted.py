"""A small server of ours that speaks OpenAI's protocol with the extras of vLLM, llama-server or neither, and errs on demand.

It answers what it is told to answer (prompt -> text), so flips and leaks are planted; tokens are words. Faults are planted
by prompt: the first so many requests for it meet the fault, the next one is answered. Everything it was sent is kept.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from faults import FAULTS, WRONG

from specsafe.decoding.named import named
from specsafe.errors import UserError

VERSION = "0.32.0"
EVER = 10**9
ENDS = 0  # the token that ends an answer
MODEL = "planted"
WORDS = {ENDS: "<end>"}


@dataclass
class Plan:
    """What a server says, and how it errs. answers: prompt -> text. faults: prompt -> (kind, how often)."""

    answers: dict = field(default_factory=dict)
    otherwise: str = "I cannot say."
    led: str = "Sure, here is how."  # what follows where the answer was made to begin with something
    dialect: str = "vllm"  # or llamacpp, plain
    drafts: int = 0  # accepted tokens an answer, of twice as many drafted; 0: it does not draft
    limit: int = 4
    tells: str = "request"  # or counters, nothing
    token_ids: bool = True
    logprobs: bool = True
    gap: float = 0.01  # nats between a token and its runner-up
    fork: str = "other"  # the runner-up
    key: str = ""
    faults: dict = field(default_factory=dict)
    every: tuple = ()  # a fault that every request for an answer meets
    version: str = VERSION
    rule: str = ""  # told at /server_info
    plugin: str = ""  # the setting of specsafe's plugin, told at /specsafe
    plugin_idle: bool = False  # it decides nothing
    plugin_deaf: bool = False  # it decides all requests by its own setting, whatever they ask for
    refuses: str = ""  # what it says of every request that asks for something
    drafter: str = "draft_model"
    under: dict = field(default_factory=dict)  # setting that requests ask for -> what then answers them all
    counters_reset_after: int = EVER
    counter_names: tuple = ("num_drafts", "num_draft_tokens", "num_accepted_tokens")
    accepted_too_many: bool = False
    slow: float = 0.0
    later: dict = field(default_factory=dict)  # prompt -> text once it was answered before
    fickle: bool = False  # every answer is another one
    miscounts: int = 0  # the counters move by so much more
    own: dict = field(
        default_factory=dict
    )  # prompt -> what it says of it as a target, where that is not its answer
    audit: str = ""  # how prompt_logprobs are wrong
    moved: float = 0.0  # nats by which a log-probability differs between decoding and prefill
    room: int = 4096


class Planted(ThreadingHTTPServer):
    """The server; `url` is its API."""

    daemon_threads = True
    request_queue_size = 2048

    def __init__(self, plan, port=0, host="127.0.0.1"):
        super().__init__((host, port), _Handler)
        self.plan, self.lock = plan, threading.Lock()
        self.url = f"http://127.0.0.1:{self.server_address[1]}/v1"
        self.seen, self.asked, self.most, self.now = [], {}, 0, 0
        self.counted = [0, 0, 0]
        self.decided = {}  # setting -> draft tokens that the plugin decided by it
        self.answered = 0

    def handle_error(self, request, client_address):
        """A client that goes away is no news."""


@contextlib.contextmanager
def planted(plan, port=0):
    """The server, while the block runs."""
    server = Planted(plan, port)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Planted

    def log_message(self, *_):
        pass

    def do_GET(self):
        plan, server = self.server.plan, self.server
        if plan.key and self.path.startswith("/v1") and not self._allowed():
            return
        if self.path == "/v1/models":
            owner = {"vllm": "vllm", "llamacpp": "llamacpp"}.get(plan.dialect, "nobody")
            card = {"id": MODEL, "owned_by": owner, "root": "/models/planted", "created": int(time.time())}
            self._json({"object": "list", "data": [card]})
        elif self.path == "/version" and plan.dialect == "vllm":
            self._json({"version": plan.version})
        elif self.path == "/props" and plan.dialect == "llamacpp":
            self._json(
                {"build_info": "b1-planted", "model_path": "/models/planted", "chat_template": "{{ x }}"}
            )
        elif self.path.startswith("/server_info") and plan.rule:
            told = {
                "method": "ngram",
                "rejection_sample_method": plan.rule,
                "num_speculative_tokens": plan.limit,
            }
            self._json({"vllm_config": {"speculative_config": told}})
        elif self.path == "/specsafe" and plan.plugin:
            worker = {"specsafe": "0.1.0", "setting": plan.plugin, "lossless": plan.plugin == "standard"}
            decided = {setting: {"drafted": n} for setting, n in server.decided.items()}
            self._json({"workers": [worker | {"drafter": plan.drafter, "decided": decided}]})
        elif self.path == "/metrics" and plan.tells in ("counters", "request") and plan.drafts:
            with server.lock:
                values = dict(zip(plan.counter_names, server.counted, strict=False))
            prefix = {"vllm": "vllm", "llamacpp": "llamacpp"}[plan.dialect]
            lines = []
            for name, value in values.items():
                lines += [
                    f"# TYPE {prefix}:spec_decode_{name} counter",
                    f'{prefix}:spec_decode_{name}_total{{engine="0",model_name="{MODEL}"}} {float(value)}',
                    f'{prefix}:spec_decode_{name}_created{{engine="0",model_name="{MODEL}"}} 1.7e9',
                ]
            self.reply(200, ("\n".join(lines) + "\n").encode(), "text/plain")
        else:
            self._json({"error": {"message": "not found"}}, 404)

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server, plan = self.server, self.server.plan
        if plan.key and not self._allowed():
            return None
        if self.path in ("/tokenize", "/detokenize"):
            return self._json(self._tokenized(body))
        if isinstance(body.get("prompt"), list):
            with server.lock:
                server.seen.append(body)
            return self._read(body)
        prompt = body["prompt"] if "prompt" in body else body["messages"][-1]["content"]
        led = "messages" in body and body["messages"][-1]["role"] == "assistant"
        if led:
            prompt = body["messages"][-2]["content"]
        with server.lock:
            server.seen.append(body)
            server.asked[prompt] = time_asked = server.asked.get(prompt, 0) + 1
            server.now += 1
            server.most = max(server.most, server.now)
        try:
            kind, often = plan.every or plan.faults.get(prompt, ("", 0))
            if kind and time_asked <= often:
                return FAULTS[kind](self)
            if plan.slow:
                time.sleep(plan.slow)
            try:
                setting = self._decide(body)
            except UserError as error:
                return self._json({"error": {"message": f"specsafe: {error}"}}, 400)
            text = plan.under.get(setting, plan.answers.get(prompt, plan.otherwise))
            if time_asked > 1:
                text = plan.later.get(prompt, text)
            if plan.fickle:
                text = f"{text[:20]} {len(server.seen)}"
            self._json(self._answer(prompt, plan.led if led else text, body))
        finally:
            with server.lock:
                server.now -= 1

    def _decide(self, body):
        """The setting by which the plugin decides a request's draft tokens, which it counts; "" without a plugin."""
        plan, server = self.server.plan, self.server
        if not plan.plugin:
            return ""
        setting = plan.plugin
        for kind in ("rule", "method"):
            text = body.get("vllm_xargs", {}).get(f"specsafe_{kind}")
            if text is not None and plan.refuses:
                raise UserError(plan.refuses)
            if text is not None and not plan.plugin_deaf:
                setting = named(kind, text).text
        with server.lock:
            server.decided[setting] = server.decided.get(setting, 0) + (
                0 if plan.plugin_idle else 2 * plan.drafts
            )
        return setting

    def _answer(self, prompt, text, body):
        plan, server = self.server.plan, self.server
        words = text.split(" ")[: body["max_tokens"]]
        cut = len(text.split(" ")) > body["max_tokens"]
        text = " ".join(words)
        drafted, accepted, rounds = 2 * plan.drafts, plan.drafts, plan.drafts
        if plan.accepted_too_many:
            accepted = drafted + 1
        with server.lock:
            server.answered += 1
            if server.answered == plan.counters_reset_after:
                server.counted = [0, 0, 0]
            elif plan.drafts:
                server.counted = [
                    a + b
                    for a, b in zip(server.counted, (rounds, drafted + plan.miscounts, accepted), strict=True)
                ]
        ids = [token(w) for w in words] + ([] if cut else [ENDS])
        chat = "messages" in body
        choice = {"index": 0, "finish_reason": "length" if cut else "stop"}
        choice |= {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
        reply = {
            "object": "chat.completion",
            "choices": [choice],
            "usage": {"prompt_tokens": len(prompt.split())},
        }
        if plan.logprobs and body.get("logprobs"):
            choice["logprobs"] = self._logprobs([*words, "<end>"][: len(ids)], ids, chat)
        if plan.dialect == "vllm":
            if plan.token_ids:
                choice["token_ids"] = ids
            if plan.drafts and plan.tells == "request":
                histogram = [rounds - accepted if accepted <= rounds else 0, min(accepted, rounds)]
                reply["metrics"] = {
                    "speculative_decoding": {
                        "num_draft_tokens": drafted,
                        "num_accepted_draft_tokens": accepted,
                        "num_spec_steps": rounds,
                        "num_spec_tokens": plan.limit,
                        "acceptance_histogram": histogram,
                    }
                }
        if plan.dialect == "llamacpp":
            settings = {"speculative.types": "draft-simple" if plan.drafts else "none"}
            reply["__verbose"] = {"tokens": ids, "generation_settings": settings}
            reply["timings"] = {"prompt_ms": 1.0, "predicted_ms": 2.0}
            if plan.drafts and plan.tells == "request":
                reply["timings"] |= {"draft_n": drafted, "draft_n_accepted": accepted}
        return reply

    def _tokenized(self, body):
        if "tokens" in body:
            return {"prompt": " ".join(WORDS[t] for t in body["tokens"])}
        led = "messages" in body and body["messages"][-1]["role"] == "assistant"
        prompt = body["prompt"] if "prompt" in body else body["messages"][-2 if led else -1]["content"]
        marked = (
            [ANSWER] if body.get("add_special_tokens", True) and (" " in prompt or "messages" in body) else []
        )
        words = [prompt] if len(prompt.strip()) == 1 else prompt.split(" ")
        tokens = [token(w) for w in words] + marked
        return {"tokens": tokens, "count": len(tokens), "max_model_len": self.server.plan.room}

    def _read(self, body):
        """What the planted target says of given tokens: its own words have rank 1, others a worse one."""
        plan, tokens = self.server.plan, body["prompt"]
        prompt, said = tokens[: tokens.index(ANSWER)], tokens[tokens.index(ANSWER) + 1 :]
        asked = " ".join(WORDS[t] for t in prompt)
        kind, _ = plan.faults.get(asked, ("", 0))
        if kind in FAULTS:
            return FAULTS[kind](self)
        text = plan.own.get(asked, plan.answers.get(asked, plan.otherwise))
        own = [token(w) for w in text.split(" ")] + [ENDS]
        rows = [None, *({str(t): {"logprob": -0.5, "rank": 1}} for t in [*prompt[1:], ANSWER])]
        for n, given in enumerate(said):
            rank = 1 if n < len(own) and own[n] == given else 2
            row = {str(given): {"logprob": -0.1 - plan.moved - (rank - 1) * plan.gap, "rank": rank}}
            if body["prompt_logprobs"]:
                other = own[n] if rank == 2 and n < len(own) else token("else")
                row[str(other)] = {"logprob": -0.1 - plan.moved if rank == 2 else -9.0, "rank": 3 - rank}
            rows.append(row)
        rows = WRONG[plan.audit](rows)
        ends = said == own[:-1]
        choice = {
            "index": 0,
            "text": "",
            "finish_reason": "stop" if ends else "length",
            "prompt_logprobs": rows,
        }
        return self._json({"choices": [choice]})

    def _logprobs(self, words, ids, chat):
        plan = self.server.plan
        as_ids = plan.dialect == "vllm"

        def entry(word, number, logprob):
            named = {"id": number} if plan.dialect == "llamacpp" else {}
            return {"token": f"token_id:{number}" if as_ids else word, "logprob": logprob, **named}

        rows = [
            (entry(w, i, -0.1), entry(plan.fork, token(plan.fork), -0.1 - plan.gap))
            for w, i in zip(words, ids, strict=True)
        ]
        if chat or plan.dialect == "llamacpp":
            return {"content": [{**own, "top_logprobs": [own, other]} for own, other in rows]}
        return {
            "tokens": [own["token"] for own, _ in rows],
            "token_logprobs": [own["logprob"] for own, _ in rows],
            "top_logprobs": [{e["token"]: e["logprob"] for e in row} for row in rows],
        }

    def _allowed(self):
        sent = self.headers.get("Authorization", "")
        if sent == f"Bearer {self.server.plan.key}":
            return True
        self._json({"error": {"message": f"Incorrect API key provided: {sent}"}}, 401)
        return False

    def _json(self, value, status=200, **headers):
        self.reply(status, json.dumps(value).encode(), "application/json", **headers)

    def reply(self, status, content, kind, **headers):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(content)


def token(word):
    """The id of a word, the same in every process."""
    number = 1 + int.from_bytes(hashlib.sha256(word.encode()).digest()[:3], "big")
    WORDS[number] = word
    return number


ANSWER = token("<answer>")  # where a prompt ends
