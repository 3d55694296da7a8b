"""A real vLLM as engine and as servers: answers, drafting, audits, restarts, and a whole screen over HTTP.

Each start takes most of a minute on two cores, so each serves several claims. Prompts are harmless and of our own.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from specsafe.audit.run import run_audit, target_arm
from specsafe.engines import Request, Sample, auditing, open_session, openai, parse_arm, served, vllm
from specsafe.engines.base import Claim
from specsafe.engines.keeper import descendants
from specsafe.errors import UserError

pytestmark = pytest.mark.vllm
FOUND = importlib.util.find_spec("vllm")  # without it, this folder by the same name: one that has no origin
if not (os.environ.get("SPECSAFE_VLLM_PYTHON") or (FOUND is not None and FOUND.origin)):
    pytest.skip("needs vLLM: make test-vllm", allow_module_level=True)
HERE = Path(__file__).parent
MODELS = Path(os.environ.get("SPECSAFE_VLLM_MODELS", HERE.parents[1] / ".venv-vllm" / "models"))
PYTHON = os.environ.get("SPECSAFE_VLLM_PYTHON", sys.executable)
TARGET, DRAFT = MODELS / "target", MODELS / "draft"
KEYS = f"kind=vllm,model={TARGET},python={PYTHON},dtype=float32,max_tokens=20,context=512,kv_space=0.25,threads=1"
SERVE = (
    f"{PYTHON} -m vllm.entrypoints.openai.api_server --model {TARGET} --port {{port}} --dtype float32 --max-model-len 512 "
    "--enforce-eager --kv-cache-memory-bytes 268435456 --max-num-seqs 8 --no-enable-prefix-caching"
)
DRAFTS = (
    f" --speculative-config.method draft_model --speculative-config.model {DRAFT} "
    "--speculative-config.num_speculative_tokens 4 --per-request-spec-decode-metrics detailed"
)
SERVED = f"max_tokens=20,retries=1,concurrency=4,dialect=vllm,serve={json.dumps(SERVE)}"
PROMPTS = (
    "Name three fruits.",
    "What is the capital of France?",
    "Write one sentence about rain.",
    "How much is two plus two?",
    "Which animal says moo?",
    "Say hello.",
)


@pytest.fixture(autouse=True, scope="module")
def environment():
    """One thread each, and nothing left afterwards."""
    os.environ["OMP_NUM_THREADS"] = "1"
    yield
    served.stop_all()


def answers(session):
    """Prompt -> sample, all asked together."""
    found = {a.item: a for a in session.generate([Request(p, p) for p in PROMPTS])}
    assert all(isinstance(a, Sample) for a in found.values()), found
    return found


def claims(found, **changes):
    return [
        Claim(p, p, changes.get(p, s.text), s.token_ids if p not in changes else None, s.finish)
        for p, s in found.items()
    ]


@pytest.fixture(scope="module")
def said(tmp_path_factory):
    """What the target says alone in a worker, what runs there, and what it says of those answers and of changed ones."""
    log = tmp_path_factory.mktemp("logs") / "target.log"
    arm = parse_arm(KEYS)
    with closing(vllm.open_session(arm, log)) as session:
        found = answers(session)
        again = answers(session)
        audited = {a.item: a for a in auditing.audit(arm, session, claims(found))}
        changed = claims(found, **{PROMPTS[0]: "Zebra quilt.", PROMPTS[1]: found[PROMPTS[1]].text})
        other = {a.item: a for a in auditing.audit(arm, session, changed)}
        return found, again, session.fingerprint(), audited, other


def test_the_worker_answers_alike_when_asked_again_and_says_what_runs(said):
    found, again, fingerprint, _, _ = said
    assert {p: s.token_ids for p, s in found.items()} == {p: s.token_ids for p, s in again.items()}
    assert fingerprint["engine_version"].startswith("0.32.0")
    assert (fingerprint["engine"], fingerprint["weights"], fingerprint["rule"]) == ("vllm", "float32", "none")
    assert fingerprint["tested"]
    for s in found.values():
        assert len(s.token_ids) == len(s.logprobs) == len(s.top) <= 20
        assert (s.drafted, s.finish in ("stop", "length")) == (None, True)
        assert all(t[0][0] == i for t, i in zip(s.top, s.token_ids, strict=True))  # greedy


def test_the_targets_own_answers_are_exact_to_the_end_and_changed_ones_are_not(said):
    found, _, _, audited, other = said
    assert {(a.fork, a.retokenized, a.complete) for a in audited.values()} == {(None, False, True)}
    for p, s in found.items():
        assert audited[p].logprobs == pytest.approx(s.logprobs, abs=1e-3)
    assert (other[PROMPTS[0]].fork, other[PROMPTS[0]].retokenized) == (0, True)
    assert other[PROMPTS[0]].gap > 1
    assert other[PROMPTS[1]].retokenized
    assert other[PROMPTS[2]].fork is None


@pytest.mark.parametrize("draft", [str(DRAFT), "ngram"])
def test_speculation_says_the_same_and_tells_of_its_drafting(said, draft, tmp_path):
    arm = parse_arm(f"draft={draft},num_speculative_tokens=3", parse_arm(KEYS))
    with closing(open_session(arm, tmp_path / "log")) as session:
        found, fingerprint = answers(session), session.fingerprint()
    assert {p: s.token_ids for p, s in found.items()} == {p: s.token_ids for p, s in said[0].items()}
    drafted = sum(s.drafted for s in found.values())
    assert 0 <= sum(s.accepted for s in found.values()) <= drafted
    assert drafted > 0 or draft == "ngram"
    assert all(s.drafted <= 3 * s.rounds for s in found.values() if s.rounds is not None)
    assert (fingerprint["rule"], fingerprint["rule_proved"]) == ("standard", True)
    assert fingerprint["num_speculative_tokens"] == 3


def test_labels_that_this_build_cannot_produce_are_refused_before_anything_loads():
    base = parse_arm(KEYS)
    for rule, told in (("strict", "cannot produce"), ("synthetic", "without a GPU")):
        with pytest.raises(UserError, match=told):
            vllm.check(parse_arm(f"draft=self,rule={rule}", base))


def test_a_worker_that_cannot_load_is_quoted(tmp_path):
    with pytest.raises(UserError, match="vLLM cannot open"):
        open_session(parse_arm(f"{KEYS},context=100000"), tmp_path / "log")


def test_typical_acceptance_inside_vllm_is_lossy_to_the_audit(said, tmp_path):
    """The plugin's rule is in force by its own proof; the target alone would have said none of it to the end."""
    if not vllm.build_of(PYTHON).plugin:
        pytest.skip("specsafe's plugin is not installed beside vLLM")
    arm = parse_arm(f'draft={DRAFT},rule="typical:epsilon=0.09,delta=0.3"', parse_arm(KEYS))
    with closing(open_session(arm, tmp_path / "log")) as session:
        found, fingerprint = answers(session), session.fingerprint()
    assert fingerprint["rule"].startswith("typical:epsilon=0.09,delta=0.3")
    assert "decided" in fingerprint["rule_proof"]
    assert not fingerprint["lossless"]
    rows = [
        {"prompt": p, "text": s.text, "token_ids": s.token_ids, "finish": s.finish} for p, s in found.items()
    ]
    path = tmp_path / "answers.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    result = run_audit(path, KEYS, role=None, battery=None, out=tmp_path / "out", calibrate_on=3).result
    assert (result.exit_code, result.audited) == (3, len(PROMPTS))
    assert result.larger.k >= len(PROMPTS) - 2
    assert (result.calibration.forks, result.contradicts_itself) == (0, False)


# --- over HTTP --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def screened(tmp_path_factory):
    """A whole screen of two servers that specsafe starts, target and draft model: folder and document."""
    out = tmp_path_factory.mktemp("screen")
    battery = out / "small.jsonl"
    rows = [{"prompt": p, "axis": "over_refusal"} for p in PROMPTS]
    battery.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    command = [sys.executable, "-m", "specsafe", "screen", "--json", "--battery", str(battery)]
    command += ["--target", f"kind=openai,{SERVED}", "--share", "1", "--out", str(out / "out")]
    command += ["--speculative", f"serve={json.dumps(SERVE + DRAFTS)},num_speculative_tokens=4"]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "VLLM_SERVER_DEV_MODE": "1"}
    )
    assert done.stdout, done.stderr
    return out / "out", done, json.loads(done.stdout)


def test_a_screen_of_two_started_servers_ends_with_a_verdict_and_names_the_rule(screened):
    """Six items cannot pass: UNRESOLVED is the right end."""
    folder, done, document = screened
    result = document["result"]
    assert done.returncode == document["exit_code"] == 5, done.stderr
    assert result["verdict"] == "UNRESOLVED"
    roles = {a["role"]: a for a in result["arms"]}
    assert {r: a["answered"] for r, a in roles.items()}.items() >= {
        "target": 6,
        "speculative": 6,
        "replicate": 6,
    }.items()
    acceptance = roles["speculative"]["acceptance"]["all"]
    assert acceptance["n"] > acceptance["k"] > 0
    assert result["exactness"]["verdict"] == "EXACT"
    said = " ".join(result["events"])
    assert "the speculative server names its acceptance rule: standard" in said
    assert "started again" in said
    assert (folder / "logs" / "target.log").stat().st_size > 0
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "names its acceptance rule: standard" in page


def test_the_server_audits_what_the_screen_recorded_and_leaves_no_process(screened, said, tmp_path):
    """Calibrated by its own answers; then a text that it would not say is found."""
    folder, _, _ = screened
    target = f"kind=openai,{SERVED}"
    result = run_audit(folder, target, role=None, battery=None, out=tmp_path / "audit", calibrate_on=4).result
    assert (result.exit_code, result.exact.k, result.exact.n) == (0, 6, 6)
    assert result.calibration.answers == 4
    assert result.calibration.moved < 0.01  # float32
    arm = target_arm(target, {})
    session = openai.open_session(arm)
    pids = descendants(session._running.pid) | {session._running.pid}
    assert len(pids) >= 2
    try:
        other = [Claim("a", PROMPTS[0], "Zebra quilt.", None, "stop")]
        (found,) = auditing.audit(arm, session, other)
        over_http = answers(session)
    finally:
        session.close()
        served.stop_all()
    assert found.fork == 0
    assert found.gap > 1
    assert {p: s.token_ids for p, s in over_http.items()} == {p: s.token_ids for p, s in said[0].items()}
    time.sleep(0.5)
    assert not [p for p in pids if Path(f"/proc/{p}").exists()]


def test_a_server_that_cannot_load_is_quoted():
    broken = SERVE.replace("--max-model-len 512", "--max-model-len 100000")
    with pytest.raises(UserError, match=r"died as it started, exit code 1; last line of its log: .+"):
        openai.open_session(parse_arm(f"kind=openai,dialect=vllm,serve={json.dumps(broken)}"))
