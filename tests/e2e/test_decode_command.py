"""`specsafe decode` on the real model: answers, the trace, the file of columns, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from specsafe.cli.main import app
from specsafe.decoding.safety.methods import METHODS
from specsafe.errors import UserError

pytestmark = pytest.mark.model
ARM = "kind=native,draft=first:26,max_tokens=12,context=256,threads=1,slots=1"


def decode(*words: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["decode", *words])
    if isinstance(done.exception, UserError):
        raise done.exception
    return done.exit_code, done.output


def test_a_trace_tells_of_every_token_who_chose_it(tmp_path: Path) -> None:
    code, out = decode(
        *("--method", "ssd-crs", "--prompt", "Name three fruits.", "--arm", ARM, "--trace"),
        *("--out", str(tmp_path)),
    )
    assert code == 0
    (row,) = map(json.loads, (tmp_path / "columns.jsonl").read_text().splitlines())
    columns, count = row["columns"], len(row["token_ids"])
    assert count and all(len(values) == count for values in columns.values())
    assert f"{count} tokens" in out and f"union {sum(columns['mode'])}/{count}" in out
    lines = out.splitlines()
    assert [line.split()[0] for line in lines if line[:4].strip().isdigit() and line[4] == " "][-1] == str(
        count - 1
    )


def test_vanilla_says_what_the_target_alone_says(tmp_path: Path) -> None:
    """Invariant arithmetic: equal to the last token, whatever was drafted."""
    answers = []
    for method, arm in (("vanilla", ARM), ("safe-prompt", ARM.replace("first:26", "none"))):
        extra = ',draft_system="Be brief.",system="Be brief."'
        words = ("--method", method, "--prompt", "Why is the sky blue?", "--arm", arm + extra, "--trace")
        assert decode(*words, "--out", str(tmp_path / method))[0] == 0
        answers.append(json.loads((tmp_path / method / "columns.jsonl").read_text())["token_ids"])
    assert answers[0] == answers[1]


def test_answers_to_a_battery_are_shown_only_when_asked_for(tmp_path: Path) -> None:
    battery = tmp_path / "b.jsonl"
    item = {"prompt": "Say hello.", "axis": "over_refusal", "task": "t", "category": "c", "cluster": "c"}
    battery.write_text(json.dumps(item) + "\n")
    words = ("--method", "always-union", "--battery", str(battery), "--arm", ARM)
    hidden, shown = decode(*words), decode(*words, "--include-text")
    assert (hidden[0], shown[0]) == (0, 0)
    assert len(hidden[1].splitlines()) == 1
    assert len(shown[1].splitlines()) > 1


def test_the_list_names_every_method() -> None:
    code, out = decode("--method", "list")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()] == list(METHODS)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--method", "nope", "--prompt", "x"), "unknown method"),
        (("--method", "ssd"), "either --prompt or --battery"),
        (
            ("--method", "ssd", "--prompt", "x", "--arm", "kind=native,draft=ngram"),
            "needs a network that drafts",
        ),
        (("--method", "ssd", "--prompt", "x", "--arm", "kind=native,rule=typical"), "in a rule's place"),
        (("--method", "ssd", "--prompt", "x", "--arm", "kind=native,temperature=1"), "needs temperature=0"),
        (("--method", "ssd", "--prompt", "x", "--arm", "kind=llamacpp"), "kind=llamacpp"),
        (
            ("--method", "ssd", "--prompt", "x", "--arm", 'kind=native,changes="{\\"union.alpha\\": 99}"'),
            "alpha of its choice must be between 0 and 10",
        ),
        (("--method", "ssd", "--prompt", "x", "--arm", 'kind=native,changes="[1]"'), "must be a JSON object"),
    ],
)
def test_what_cannot_be_done_is_one_line(words: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        decode(*words)
