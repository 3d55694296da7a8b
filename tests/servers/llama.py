"""llama.cpp's own HTTP server on loopback, in a process of its own: the listener of xllamacpp is llama-server's.

`python llama.py MODEL [DRAFT]` prints its address and serves until its input ends.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys


@contextlib.contextmanager
def llama_server(model, draft=None):
    """Address of the API of a running server."""
    line = [sys.executable, __file__, str(model), *([str(draft)] if draft else [])]
    process = subprocess.Popen(
        line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        yield f"{process.stdout.readline().strip()}/v1"
    finally:
        process.kill()
        process.communicate()


def main():
    """Serve until the input ends."""
    import xllamacpp

    p = xllamacpp.CommonParams()
    p.model.path = sys.argv[1]
    p.n_parallel, p.n_ctx = 2, 2048
    p.cpuparams.n_threads = p.cpuparams_batch.n_threads = 1
    p.speculative.draft.cpuparams.n_threads = p.speculative.draft.cpuparams_batch.n_threads = 1
    p.cache_prompt, p.cache_ram_mib, p.fit_params, p.ui = False, 0, False, False
    p.endpoint_metrics = True
    if len(sys.argv) > 2:
        p.speculative.types = [
            xllamacpp.common_speculative_type.COMMON_SPECULATIVE_TYPE_DRAFT_SIMPLE,
        ]
        p.speculative.draft.n_max, p.speculative.draft.p_min = 3, 0.4
        p.speculative.draft.mparams.path = sys.argv[2]
    server = xllamacpp.Server(p)
    print(server.listening_address, flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
