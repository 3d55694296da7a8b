"""The peers of `bench/decode.py`: transformers and vLLM on a CPU, each in a process of its own.

The same file is both ends. The host exports our weights (models.export) and starts `PYTHON decode_peers.py NAME`, with
whatever Python has that peer (nothing of specsafe is needed there); the peer loads the folder, says {"ready": …} and
answers each line {"prompts", "batch", "tokens"} with {"seconds", "outputs"}. Nothing ends an answer but the limit: both
peers are told to ignore end-of-text tokens. Greedy, no log-probabilities, no cache of prompts between requests. What a
peer cannot do is said; there is never a number from elsewhere in its place.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

START, ANSWER, LEAVE = 420.0, 300.0, 20.0  # seconds
VLLM_SEQUENCES = 32
Prompts = Sequence[Sequence[int]]
Continue = Callable[[list[list[int]], int], list[list[int]]]


class PeerError(Exception):
    """A peer that does not answer, and why: its row is not measured."""


class Reply(NamedTuple):
    """Seconds for all prompts, and the new tokens of each."""

    seconds: float
    outputs: list[list[int]]


class Peer:
    """A peer's process, from the host's side. Raises PeerError where it cannot start or answer."""

    def __init__(self, name: str, python: Path, folder: Path, threads: int) -> None:
        self.name, self._log = name, folder / f"{name}.log"
        environment = {**os.environ, **_environment(name, python, threads)}
        environment.pop("PYTHONPATH", None)
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [str(python), str(Path(__file__).resolve()), name, str(folder), str(threads)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=environment,
                cwd=folder,
                start_new_session=True,
            )
        try:
            self.facts: dict[str, str] = self._read(START)["ready"]
        except BaseException:  # an interrupt too: a peer that loads would go on for a minute
            self._end(within=0.0)
            raise

    def run(self, prompts: Prompts, batch: int, tokens: int) -> Reply:
        """Continue the prompts, `batch` at a time, by exactly so many tokens."""
        request = {"prompts": [list(p) for p in prompts], "batch": batch, "tokens": tokens}
        if self._process.stdin is None:
            raise PeerError("its input is closed")
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
        except OSError as error:
            raise PeerError(self._last_words()) from error
        reply = Reply(**self._read(ANSWER))
        if [len(o) for o in reply.outputs] != [tokens] * len(prompts):
            raise PeerError(f"answers of {[len(o) for o in reply.outputs]} tokens instead of {tokens}")
        return reply

    def close(self) -> None:
        """End the process and whatever it started."""
        if self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()
        self._end(within=LEAVE)

    def _end(self, within: float) -> None:
        from specsafe.engines.worker import end, ended

        until = time.monotonic() + within
        while not ended(self._process) and time.monotonic() < until:
            time.sleep(0.1)
        end(self._process)  # with all of its group: vLLM's engine may outlive its parent

    def _read(self, seconds: float) -> dict[str, Any]:
        out = self._process.stdout
        if out is None or not select.select([out], [], [], seconds)[0]:
            raise PeerError(f"silent for {seconds:.0f} s")
        line = out.readline()
        if not line:
            raise PeerError(self._last_words())
        message: dict[str, Any] = json.loads(line)
        return message

    def _last_words(self) -> str:
        lines = [x for x in self._log.read_text(errors="replace").splitlines() if x.strip()]
        telling = [x for x in lines if "Error" in x] or lines or ["it ended without a word"]
        return telling[-1].strip()[:200]


def _environment(name: str, python: Path, threads: int) -> dict[str, str]:
    """OMP_NUM_THREADS for both; for vLLM its cores, its memory, and Intel's OpenMP where its Python has it."""
    found = {"OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
    if name != "vllm":
        return found
    # left alone, vLLM keeps a core for its scheduler: on two cores it would compute with one thread
    allowed = sorted(os.sched_getaffinity(0))[:threads]
    library = python.parent.parent / "lib" / "libiomp5.so"
    preload = {"LD_PRELOAD": str(library)} if library.exists() else {}
    bind = os.environ.get("VLLM_CPU_OMP_THREADS_BIND", ",".join(map(str, allowed)))
    return {**found, **preload, "VLLM_CPU_KVCACHE_SPACE": "2", "VLLM_CPU_OMP_THREADS_BIND": bind}


def main() -> None:
    """The peer's end: serve requests until the input ends."""
    name, folder, threads = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a library prints goes to stderr

    def say(message: dict[str, object]) -> None:
        out.write(json.dumps(message) + "\n")
        out.flush()

    facts, go_on = {"transformers": _transformers, "vllm": _vllm}[name](folder, threads)
    say({"ready": facts})
    for line in sys.stdin:
        request = json.loads(line)
        prompts, batch = request["prompts"], request["batch"]
        started = time.perf_counter()
        outputs = [
            tokens
            for first in range(0, len(prompts), batch)
            for tokens in go_on(prompts[first : first + batch], request["tokens"])
        ]
        say({"seconds": time.perf_counter() - started, "outputs": outputs})


def _transformers(folder: Path, threads: int) -> tuple[dict[str, str], Continue]:
    import torch
    import transformers

    torch.set_num_threads(threads)
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    model.train(False)
    model.generation_config.eos_token_id = None
    pad = 0

    @torch.inference_mode()
    def go_on(prompts: list[list[int]], new: int) -> list[list[int]]:
        width = max(map(len, prompts))
        ids = torch.tensor([[pad] * (width - len(p)) + p for p in prompts])
        mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
        said = model.generate(ids, attention_mask=mask, max_new_tokens=new, do_sample=False, pad_token_id=pad)
        rows: list[list[int]] = said[:, width:].tolist()
        return rows

    facts = {"version": f"transformers {transformers.__version__}, torch {torch.__version__}"}
    return facts, go_on


def _vllm(folder: Path, threads: int) -> tuple[dict[str, str], Continue]:
    import torch
    import vllm

    engine = vllm.LLM(
        model=str(folder),
        skip_tokenizer_init=True,
        dtype="bfloat16",
        max_model_len=512,
        max_num_seqs=VLLM_SEQUENCES,
        enable_prefix_caching=False,
        enforce_eager=os.environ.get("SPECSAFE_BENCH_EAGER") == "1",
    )

    def go_on(prompts: list[list[int]], new: int) -> list[list[int]]:
        sampling = vllm.SamplingParams(temperature=0, max_tokens=new, ignore_eos=True, detokenize=False)
        asked = [{"prompt_token_ids": p} for p in prompts]
        return [list(o.outputs[0].token_ids) for o in engine.generate(asked, sampling, use_tqdm=False)]

    return {"version": f"vllm {vllm.__version__}, torch {torch.__version__}, {threads} threads"}, go_on


if __name__ == "__main__":
    main()
