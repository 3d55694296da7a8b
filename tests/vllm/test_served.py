"""Room: plugin, over HTTP: one command serves a rule, one field asks for another, and the check-up proves which is in force."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from dataclasses import dataclass

import httpx
import pytest
from running import DRAFT, HERE, MODELS, environment

from specsafe.engines import Request, openai, parse_arm
from specsafe.plugin.setting import setting
from specsafe.report.doctor import checkup_lines
from specsafe.screen.doctor import examine

pytestmark = pytest.mark.vllm
SAID = "typical:epsilon=0.09,delta=0.3"


@dataclass
class Server:
    """Its API."""

    url: str

    def post(self, **body) -> httpx.Response:
        plain = {
            "model": "target",
            "prompt": "The three primary colours are",
            "max_tokens": 16,
            "temperature": 0,
        }
        return httpx.post(
            f"{self.url}/completions", json=plain | {"return_token_ids": True} | body, timeout=120
        )


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The command of docs/vllm.md."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(MODELS / "target")]
    command += ["--served-model-name", "target", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--worker-cls", "specsafe.plugin.worker.Worker"]
    command += ["--additional-config", json.dumps({"specsafe_rule": SAID})]
    command += ["--speculative-config", json.dumps(DRAFT), "--per-request-spec-decode-metrics", "detailed"]
    command += ["--dtype", "float32", "--max-model-len", "512", "--enforce-eager"]
    command += ["--block-size", "32", "--kv-cache-memory-bytes", str(200 * 2**20)]
    log = tmp_path_factory.mktemp("served") / "log"
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, env=os.environ | environment(), cwd=HERE)
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            assert process.poll() is None, log.read_text()[-3000:]
            try:
                if httpx.get(f"{url}/health").status_code == 200:
                    break
            except httpx.TransportError:
                pass
            time.sleep(0.5)
        yield Server(f"{url}/v1")
    finally:
        process.terminate()
        process.wait(60)


def test_the_check_up_proves_the_rule_in_force(server):
    found = examine(parse_arm(f"kind=openai,url={server.url},max_tokens=8"))
    text = setting("rule", SAID).text
    assert (found.fingerprint["rule"], found.fingerprint["rule_proved"]) == (text, True)
    assert found.fingerprint["lossless"] is False
    said = " ".join(checkup_lines(found).split())
    assert f"{text} (in force, proved by specsafe" in said
    assert found.drafted and found.accepted


def test_one_field_of_a_request_chooses_another_rule(server):
    default = server.post().json()["choices"][0]["token_ids"]
    named = server.post(vllm_xargs={"specsafe_rule": SAID}).json()["choices"][0]["token_ids"]
    leak = server.post(vllm_xargs={"specsafe_rule": "leak:rate=1"}, ignore_eos=True).json()
    method = server.post(vllm_xargs={"specsafe_method": "ssd-crs:control.tau=0.1"})
    assert default == named
    told = leak["metrics"]["speculative_decoding"]
    assert told["num_accepted_draft_tokens"] == told["num_draft_tokens"] > 0
    assert method.status_code == 200
    workers = httpx.get(server.url.replace("/v1", "/specsafe")).json()["workers"]
    assert "method ssd-crs:control.tau=0.1" in workers[0]["decided"]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"specsafe_rule": "typicl"}, "unknown acceptance rule"),
        ({"specsafe_rule": "typical:epsilon=7"}, "above 0 and at most 1"),
        ({"specsafe_method": "ssd-steering"}, "cannot be had inside vLLM"),
        ({"specsafe_wish": "x"}, "unknown field"),
    ],
)
def test_a_wrong_field_is_a_400_of_that_request(server, fields, said):
    answer = server.post(vllm_xargs=fields)
    assert answer.status_code == 400 and said in answer.text
    assert server.post().status_code == 200


def test_a_claim_is_held_against_the_plugin(server):
    from specsafe.errors import UserError

    session = openai.open_session(parse_arm(f"kind=openai,url={server.url},rule=typical,max_tokens=8"))
    try:
        (sample,) = session.generate([Request("a", "Name a colour.")])
        assert sample.drafted and session.fingerprint()["rule_proof"]
    finally:
        session.close()
    with pytest.raises(UserError, match="which runs typical"):
        openai.open_session(parse_arm(f"kind=openai,url={server.url},rule=standard"))
