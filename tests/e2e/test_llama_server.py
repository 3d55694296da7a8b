"""A real pair of llama.cpp servers over HTTP: a check-up, a screen, and the same answers as in process."""

import json
import sys
from pathlib import Path

import pytest
from live import write_battery

from specsafe.drafts import DEFAULT_KEEP, draft_file
from specsafe.models.store import resolve

sys.path.insert(0, str(Path(__file__).parents[1] / "servers"))
from llama import llama_server

pytestmark = pytest.mark.model
MODEL = "smollm2-135m-instruct-q4_1"


@pytest.fixture(scope="module")
def servers():
    """Addresses of a server with the target alone and of one with a layer-dropped draft."""
    model = resolve(MODEL)
    with llama_server(model) as target, llama_server(model, draft_file(model, DEFAULT_KEEP)) as fast:
        yield target, fast


def test_a_check_up_tells_the_two_apart(servers, run):
    for url, plays, moved in zip(servers, ("target", "speculative"), (False, True), strict=True):
        done = run("doctor", "--engine", f"kind=openai,url={url},max_tokens=6", "--json")
        found = json.loads(done.stdout)["result"]
        assert done.returncode == 0, found
        assert (found["plays"], found["counters_moved"]) == (plays, moved)
        assert found["fingerprint"]["engine"] == "server (llamacpp)"
        assert not [lack for lack in found["lacks"] if "token" in lack or "counts" in lack]
    assert found["drafted"] >= found["accepted"] > 0


def test_a_real_pair_is_screened_and_answers_as_it_does_in_process(servers, run, tmp_path):
    battery, (target, fast) = write_battery(tmp_path / "small.jsonl", 2), servers
    done = run(
        *("screen", "--battery", battery, "--out", "out", "--json"),
        *("--target", f"kind=openai,url={target},max_tokens=10,concurrency=1"),
        *("--speculative", f"url={fast},rule=greedy,num_speculative_tokens=3"),
    )
    result = json.loads(done.stdout)["result"]
    assert done.returncode == 4, done.stderr
    assert result["exactness"]["verdict"] == "EXACT"
    assert {a["role"]: a["answered"] for a in result["arms"]}.items() >= {
        "target": 6,
        "speculative": 6,
    }.items()
    acceptance = next(a for a in result["arms"] if a["role"] == "speculative")["acceptance"]["all"]
    assert acceptance["n"] > acceptance["k"] > 0
    inside = run(
        *(
            "screen",
            "--battery",
            battery,
            "--out",
            "inside",
            "--json",
            "--target",
            "threads=1,slots=1,max_tokens=10",
        )
    )
    assert inside.returncode == 4, inside.stderr
    a, b = (texts(tmp_path / out / "ledger.sqlite") for out in ("out", "inside"))
    assert a == b


def texts(path):
    """Item -> text and token ids of the target arm."""
    from specsafe.study.ledger import read_ledger

    with read_ledger(path) as ledger:
        arm = ledger.arms()["target"]
        answers = ledger.answers(arm["id"], arm["replicate"])
        tokens = answers.tokens(set(answers))
        return {i: (text, tokens[i].ids) for i, text in answers.texts(set(answers)).items()}
