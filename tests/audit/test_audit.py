"""Answers in, counts out: what is read, what is trusted, what is kept, and the exit code. No model runs here."""

from __future__ import annotations

import json

import pytest

from specsafe.audit import run as room
from specsafe.audit.answers import beside, read_answers, with_known_tokens
from specsafe.audit.result import THRESHOLD
from specsafe.audit.run import differing, run_audit, target_arm
from specsafe.battery import Battery, Item
from specsafe.engines import Failure, Sample, native, parse_arm
from specsafe.engines.base import Claim
from specsafe.errors import UserError
from specsafe.report.audit import audit_summary
from specsafe.screen import forks
from specsafe.screen.config import make_config
from specsafe.study.ledger import open_ledger

ITEMS = tuple(Item(p, "over_refusal", "comply") for p in ("Say one.", "Say two.", "Say three."))
ONE, TWO, THREE = (i.id for i in ITEMS)
MADE = {
    "kind": "native",
    "model": "some.gguf",
    "system": "Be brief.",
    "chat_template": "on",
    "prefill": "",
    "max_tokens": 9,
    "context": 256,
    "temperature": 0.0,
}


@pytest.fixture
def lines(tmp_path):
    def write(*rows):
        path = tmp_path / "answers.jsonl"
        path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
        return path

    return write


@pytest.fixture
def battery(tmp_path):
    path = tmp_path / "battery.jsonl"
    rows = [{"prompt": i.prompt, "axis": i.axis, "id": i.id} for i in ITEMS]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return str(path)


@pytest.fixture
def folder(tmp_path):
    """A ledger with a speculative arm (one answer failed), a recorded one and one that was sampled."""
    arms = {"speculative": MADE, "target": {"kind": "recorded"}, "hot": {**MADE, "temperature": 0.7}}
    with open_ledger(tmp_path / "ledger.sqlite", {}, {}, Battery("b", "1", "none", ITEMS), "0") as ledger:
        for role, config in arms.items():
            ledger.describe_arm(role, role, 0, config, 3)
        ledger.set_fingerprint("speculative", {"model_sha256": "m"})
        ledger.add("speculative", 0, Sample(TWO, "two", "stop", (2, 9)))
        ledger.add("speculative", 0, Sample(ONE, "one", "length", (1,)))
        ledger.add("speculative", 0, Failure(THREE, "it was too long", 3))
        ledger.commit()
    return tmp_path


def test_a_ledger_gives_the_answers_of_a_role_with_their_prompts(folder):
    found = read_answers(folder, None, None)
    expected = [Claim(ONE, "Say one.", "one", (1,), "length"), Claim(TWO, "Say two.", "two", (2, 9), "stop")]
    assert list(found.claims) == sorted(expected, key=lambda c: c.item)
    assert [(f.item, f.reason) for f in found.failed] == [(THREE, "it was never answered: it was too long")]
    assert (found.arm, found.fingerprint) == (MADE, {"model_sha256": "m"})
    assert read_answers(folder / "ledger.sqlite", "speculative", None) == found


def test_lines_have_prompts_of_their_own_or_of_a_battery(lines, battery):
    path = lines(
        {"item": ONE, "text": "one", "finish": "length"},
        {"prompt": "Say two.", "text": "two", "token_ids": [2]},
        {"prompt": "Say four.", "text": "four"},
        {"item": "five", "prompt": "Say five.", "text": "five"},
        {"item": "six", "text": "six"},
        {"item": THREE, "failed": "no answer"},
        {"prompt": "Say one.", "text": "eins"},
    )
    found = read_answers(path, None, battery)
    by_item = {c.item: c for c in found.claims}
    assert by_item[ONE] == Claim(ONE, "Say one.", "one", None, "length")
    assert by_item[TWO] == Claim(TWO, "Say two.", "two", (2,), "stop")
    assert by_item["five"].prompt == "Say five."
    assert {c.prompt for c in found.claims} == {"Say one.", "Say two.", "Say four.", "Say five."}
    assert [c.item for c in found.claims] == sorted(by_item)
    assert {f.item: f.reason for f in found.failed} == {
        "six": "its prompt is not known",
        THREE: "it was never answered: no answer",
        f"line 7 ({ONE})": "another line answers this item by its id",
    }


def test_lines_with_prompts_need_no_battery(lines):
    found = read_answers(lines({"prompt": "Say one.", "text": "one"}), None, None)
    assert [c.prompt for c in found.claims] == ["Say one."]


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"item": ONE, "text": "one"}, "its prompt is not known (add a prompt to it, or --battery)"),
        ({"prompt": "Say one.", "tekst": "one"}, "unknown key 'tekst'"),
        ({"text": "one"}, "neither item nor prompt"),
    ],
)
def test_bad_lines_are_named(lines, row, told):
    with pytest.raises(UserError) as raised:
        read_answers(lines(row), None, None)
    assert told in str(raised.value)


def test_a_prompt_that_contradicts_the_battery_is_an_error(lines, battery):
    path = lines({"item": ONE, "prompt": "Say nothing.", "text": "one"})
    with pytest.raises(UserError, match="another prompt"):
        read_answers(path, None, battery)


def test_what_does_not_fit_the_kind_of_input_is_refused(folder, lines, battery, tmp_path):
    path = lines({"prompt": "Say one.", "text": "one"})
    for given, told in (
        ((folder, "nobody", None), "no nobody arm"),
        ((folder, "target", None), "no answers to audit"),
        ((folder, "hot", None), "temperature 0.7"),
        ((folder, None, battery), "its own prompts"),
        ((path, "speculative", None), "no roles"),
        ((tmp_path / "nothing", None, None), "no answers at"),
    ):
        with pytest.raises(UserError, match=told):
            read_answers(*given)


def test_results_go_beside_the_answers(folder, lines):
    path = lines({"prompt": "Say one.", "text": "one"})
    assert beside(folder, None) == folder / "audit-speculative"
    assert beside(folder / "ledger.sqlite", "leak") == folder / "audit-leak"
    assert beside(path, None) == folder / "answers-audit"


@pytest.mark.parametrize(
    ("made", "kept"),
    [
        ({"model_sha256": "m"}, True),
        ({"model_sha256": "other", "tokenizer_sha256": "t"}, True),
        ({"model_sha256": "other", "tokenizer_sha256": "u"}, False),
        ({"model_sha256": "other"}, False),
        ({"engine": "recorded"}, True),
        ({}, True),
    ],
)
def test_token_ids_of_another_tokenizer_are_dropped(made, kept):
    claims = (Claim("a", "p", "t", (1,), "stop"),)
    found, decided = with_known_tokens(claims, made, {"model_sha256": "m", "tokenizer_sha256": "t"})
    assert (found == claims) is kept
    assert found[0].token_ids == ((1,) if kept else None)
    assert ("tokenized again" in decided) is not kept


def test_the_target_takes_over_how_the_answers_were_prompted():
    arm = target_arm("kind=native", MADE)
    assert (arm.model, arm.system, arm.max_tokens, arm.context) == ("some.gguf", "Be brief.", 9, 256)
    assert (arm.slots, arm.top) == (1, 0)
    said = target_arm('kind=native,system="Be long.",top=2', MADE)
    assert (said.system, said.model, said.top) == ("Be long.", "some.gguf", 2)
    assert differing(said, MADE) == [("system", "Be brief.", "Be long.")]
    assert differing(arm, MADE) == []
    assert target_arm("kind=native", {"kind": "recorded"}).system == parse_arm("kind=native").system
    assert target_arm("kind=native,chat_template=off", MADE).system == ""


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("kind=llamacpp", "this engine cannot audit"),
        ("kind=recorded,path=x", "this engine cannot audit"),
        ("kind=native,temperature=1", "greedily"),
        ("kind=openai,url=http://127.0.0.1/v1,temperature=1", "greedily"),
        ("kind=native,draft=self", "drafts nothing"),
    ],
)
def test_only_a_greedy_target_audits(text, told):
    with pytest.raises(UserError, match=told):
        target_arm(text, {})


def message(item, fork=None, gap=None):
    """What a worker says of an answer of two tokens."""
    found = {"fork": fork, "gap": gap, "rank": None if fork is None else 1, "complete": fork is None}
    rest = {"logprobs": [-0.1, -0.2], "top": [], "letters": [], "prompt_tokens": 5, "seconds": 0.5}
    return {"item": item, "tokens": 2, "retokenized": item == TWO, **found, **rest}


class Asked:
    """A session that says what is in a table; `dies_after` so many answers."""

    def __init__(self, told, dies_after=None):
        self.told, self.dies_after, self.asked = told, dies_after, []

    def fingerprint(self):
        return {"engine": "told", "model_sha256": "m"}

    def ask(self, asked):
        for n, item in enumerate(asked):
            if n == self.dies_after:
                raise KeyboardInterrupt
            self.asked.append(item)
            yield self.told[item]

    def close(self):
        pass


@pytest.fixture
def audit(monkeypatch, tmp_path, lines):
    """Audit three lines with an engine that says what it is told -> Audit."""
    monkeypatch.setattr(native, "check", lambda arm: {"model": "m"})
    path = lines(*({"item": i.id, "prompt": i.prompt, "text": "x"} for i in ITEMS))

    def start(session, out=tmp_path / "out"):
        monkeypatch.setattr(room.native, "open_session", lambda arm, log: session)
        return run_audit(path, "kind=native", role=None, battery=None, out=out)

    return start


@pytest.mark.parametrize(
    ("told", "code", "counts"),
    [
        ({}, 0, (3, 0, 0)),
        ({ONE: (1, 1.0)}, 0, (2, 1, 0)),
        ({ONE: (1, 1.01), TWO: (0, 0.5)}, 3, (1, 1, 1)),
        ({ONE: "sick"}, 5, (2, 0, 0)),
        ({ONE: "sick", TWO: (0, 3.0)}, 3, (1, 0, 1)),
        ({ONE: "sick", TWO: "sick", THREE: "sick"}, 4, (0, 0, 0)),
    ],
)
def test_the_exit_code_says_what_was_found(audit, told, code, counts):
    said = {i.id: message(i.id) for i in ITEMS}
    for item, what in told.items():
        said[item] = Failure(item, what, 1) if isinstance(what, str) else message(item, *what)
    result, seconds = audit(Asked(said))
    assert result.exit_code == code
    assert (result.exact.k, result.near_ties.k, result.larger.k) == counts
    assert {result.exact.n, result.near_ties.n, result.larger.n} == {sum(counts)}
    assert (result.answers, result.audited) == (3, sum(counts))
    assert result.tokens == 2 * sum(counts)
    assert seconds == sum(counts) / 2
    assert [f.item for f in result.forks] == sorted(f.item for f in result.forks)
    summary = audit_summary(result, seconds, ["result there"])
    assert "near ties are counted, not judged" in " ".join(summary.split())
    assert ("sick" in summary) == any(isinstance(w, str) for w in told.values())


def test_the_threshold_is_that_of_the_screen():
    assert THRESHOLD == forks.THRESHOLD


def test_an_interrupted_audit_goes_on_and_ends_with_the_same_result(audit, tmp_path):
    said = {i.id: message(i.id) for i in ITEMS} | {TWO: message(TWO, 1, 0.25), ONE: Failure(ONE, "sick", 1)}
    whole = audit(Asked(said)).result
    with pytest.raises(KeyboardInterrupt):
        audit(Asked(said, dies_after=2), tmp_path / "again")
    rest = Asked(said)
    assert audit(rest, tmp_path / "again").result == whole
    assert len(rest.asked) == 1
    assert audit(None, tmp_path / "again").result == whole  # nothing is left to ask: no session is opened


def test_a_target_that_changed_is_named(audit, tmp_path):
    said = {i.id: message(i.id) for i in ITEMS}
    with pytest.raises(KeyboardInterrupt):
        audit(Asked(said, dies_after=1))
    other = Asked(said)
    other.fingerprint = lambda: {"engine": "another", "model_sha256": "m"}
    with pytest.raises(UserError, match="not what this audit began with: engine"):
        audit(other)


@pytest.mark.parametrize(
    ("target", "baseline", "told"),
    [
        ("kind=llamacpp", "audit", "kind=llamacpp cannot audit yet"),
        ("kind=recorded,path=x", "audit", "kind=recorded cannot audit yet"),
        ("kind=native,arithmetic=fast", "audit", "needs temperature=0 and arithmetic=invariant"),
        ("kind=native,temperature=0.5", "audit", "needs temperature=0 and arithmetic=invariant"),
        ("kind=native", "skip", "must be decode or audit"),
    ],
)
def test_a_baseline_is_proved_only_where_the_arithmetic_proves_it(target, baseline, told):
    speculative = "kind=recorded,path=y" if "recorded" in target else "draft=self"
    rest = {"battery": "starter", "margin": 0.03, "alpha": 0.05, "share": 0.5, "quick": True}
    with pytest.raises(UserError, match=told):
        make_config(target, speculative, baseline=baseline, **rest)
    if baseline == "audit" and "fast" in target:
        assert make_config("kind=native", speculative, baseline="audit", **rest).baseline == "audit"
        assert make_config(target, speculative, **rest).baseline == "decode"
