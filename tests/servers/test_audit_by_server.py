"""Audits by a planted server: forks, gaps, near ties, ends, and replies that must never pass for an exact answer."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from specsafe.audit.calibrate import threshold
from specsafe.audit.run import run_audit, target_arm
from specsafe.engines import auditing
from specsafe.engines.base import Audited, Claim, Failure
from specsafe.engines.prefill import Given, Unfit, first_fork, require_numbers
from specsafe.errors import UserError
from specsafe.report.audit import audit_summary

sys.path.insert(0, str(Path(__file__).parent))
from planted import ENDS, EVER, Plan, planted, token

ROOT = Path(__file__).parents[2]
SAID = {
    "Name a fruit.": "An apple is one",
    "Name a river.": "The Rhine is long",
    "Name a tree.": "An oak is one",
    "Name a bird.": "A wren is small",
}
FRUIT, RIVER, TREE, BIRD = SAID
ONCE = "retries=0,patience=1"


def ids(text, ended=True):
    return (*(token(w) for w in text.split(" ")), *([ENDS] if ended else []))


def claim(prompt, text=None, *, tokens=True, finish="stop"):
    text = SAID[prompt] if text is None else text
    return Claim(prompt, prompt, text, ids(text, finish == "stop") if tokens else None, finish)


def audit(plan, claims, more=""):
    """Item (its prompt) -> what was found, and what the server was asked."""
    plan.answers = plan.answers or SAID
    with planted(plan) as server:
        arm = target_arm(f"kind=openai,url={server.url},{more or ONCE}", {})
        session = auditing.open_audit(arm)
        try:
            server.seen.clear()
            return {a.item: a for a in auditing.audit(arm, session, claims)}, server.seen
        finally:
            session.close()


def test_what_the_target_says_itself_is_exact_and_only_the_given_tokens_are_asked_for():
    found, seen = audit(Plan(), [claim(p) for p in SAID])
    assert {(a.fork, a.tokens, a.retokenized, a.complete) for a in found.values()} == {(None, 5, False, True)}
    assert {a.logprobs for a in found.values()} == {(-0.1,) * 5}
    assert [(b["prompt_logprobs"], b["max_tokens"], b["temperature"]) for b in seen] == [(0, 1, 0.0)] * 4


def test_a_fork_has_its_place_gap_and_rank_and_only_that_answer_is_asked_for_more():
    claims = [claim(FRUIT, "An apple was one"), claim(RIVER), claim(TREE, "No oak is one")]
    found, seen = audit(Plan(gap=0.75), claims)
    assert [(found[p].fork, found[p].rank) for p in (FRUIT, RIVER, TREE)] == [(2, 1), (None, None), (0, 1)]
    assert found[FRUIT].gap == pytest.approx(0.75)
    assert not found[FRUIT].complete
    assert sorted(b["prompt_logprobs"] for b in seen) == [0, 0, 0, 2, 2]


def test_ids_that_do_not_spell_the_text_are_dropped_and_the_answer_is_marked():
    other = Claim(FRUIT, FRUIT, SAID[FRUIT], ids("An orange is one"), "stop")
    found, _ = audit(Plan(), [other, claim(RIVER, tokens=False), claim(BIRD)])
    assert {p: a.retokenized for p, a in found.items()} == {FRUIT: True, RIVER: True, BIRD: False}
    assert {a.fork for a in found.values()} == {None}
    # the end that the ids do not hold is the target's own: the one token that it generates says so
    assert {a.tokens for a in found.values()} == {5}


def test_an_answer_that_ended_where_the_target_goes_on_forks_at_its_end():
    """The end token is learned from a plain answer; where nothing ended, the answer is not audited."""
    short = [claim(FRUIT, "An apple", tokens=False), claim(RIVER, "The Rhine", finish="length")]
    found, _ = audit(Plan(gap=2.0), short)
    assert (found[FRUIT].fork, found[FRUIT].gap) == (2, pytest.approx(2.0))
    assert found[RIVER].fork is None
    endless = "word " * 400
    found, _ = audit(Plan(otherwise=endless), short[:1])
    assert "no end token is known" in found[FRUIT].reason


@pytest.mark.parametrize("stops", [("stop=wren",), ()])
def test_an_answer_that_a_stop_string_ended_needs_no_end_token(stops):
    """Its ids go on to the stop string, its text does not."""
    cut = Claim(BIRD, BIRD, "A ", ids("A wren", ended=False), "stop")
    found, _ = audit(Plan(), [cut], ",".join((ONCE, *stops)))
    if stops:
        assert (found[BIRD].fork, found[BIRD].tokens, found[BIRD].retokenized) == (None, 2, False)
    else:
        assert found[BIRD].retokenized


@pytest.mark.parametrize(
    "wrong",
    [
        *("none", "short", "long", "other token", "no rank", "rank 0", "text", "null", "nan"),
        *("positive", "contradiction"),
    ],
)
def test_log_probabilities_that_cannot_be_are_never_exact(wrong):
    """Claims that leave the target, so that what the server says beside a token is read too."""
    plan = Plan(answers=SAID)
    with planted(plan) as server:
        arm = target_arm(f"kind=openai,url={server.url},{ONCE}", {})
        session = auditing.open_audit(arm)
        try:
            plan.audit = wrong
            found = list(auditing.audit(arm, session, [claim(p) for p in SAID]))
        finally:
            session.close()
    assert {type(f) for f in found} == {Failure}
    assert not any("\x1b" in f.reason for f in found)


@pytest.mark.parametrize(
    ("plan", "told"),
    [
        (Plan(dialect="llamacpp"), "llama-server tells no log-probabilities of a prompt"),
        (Plan(dialect="plain"), "nothing says that it tells"),
        (Plan(audit="none"), "no log-probabilities of a prompt"),
        (Plan(audit="short"), "entries for"),
    ],
)
def test_a_server_that_cannot_audit_is_refused_before_anything_is_asked(plan, told):
    with pytest.raises(UserError, match=told) as raised:
        audit(plan, [claim(FRUIT)], ONCE + (",model=planted" if plan.dialect == "plain" else ""))
    assert "vLLM" in raised.value.hint


def test_what_does_not_fit_or_fails_is_named_and_the_rest_is_audited():
    empty = Claim(TREE, TREE, "", None, "stop")
    plan = Plan(room=40, faults={RIVER: ("broken", EVER)})
    found, _ = audit(plan, [claim(FRUIT), claim(RIVER), empty, claim(BIRD, "word " * 40)])
    assert isinstance(found[FRUIT], Audited)
    assert {p: f.reason for p, f in found.items() if isinstance(f, Failure)} == {
        RIVER: "500 it broke",
        TREE: "nothing to audit: the answer is empty and has no tokens",
        BIRD: "4 prompt tokens and 42 of answer pass the context of 40",
    }


def test_a_server_that_is_gone_ends_the_audit_and_costs_no_answer():
    plan = Plan(answers=SAID)
    with planted(plan) as server:
        arm = target_arm(f"kind=openai,url={server.url},{ONCE}", {})
        session = auditing.open_audit(arm)
        plan.every = ("reset", EVER)
        plan.faults = {FRUIT: ("reset", EVER)}
        with pytest.raises(UserError, match="does not answer"):
            list(auditing.audit(arm, session, [claim(FRUIT)]))
        session.close()


# --- ties, numbers, thresholds ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "fork"),
    [
        (Given(7, -0.5, 1), None),
        (Given(7, -0.5, 2, (9, -0.5)), None),  # equally likely, and the lower id: greedy decoding takes it
        (Given(9, -0.5, 2, (7, -0.5)), (1, 0.0, 1)),
        (Given(7, -0.5, 3, (9, -0.5)), (1, 0.0, 2)),  # a third one is as likely, and nobody told its id
        (Given(7, -0.75, 4, (9, -0.5)), (1, 0.25, 3)),
    ],
)
def test_of_equal_tokens_the_lower_is_the_targets_own(given, fork):
    assert first_fork([Given(1, -0.1, 1), given]) == fork
    assert first_fork([]) is None


def test_a_gap_that_was_not_asked_for_is_no_number():
    with pytest.raises(ValueError, match="most likely"):
        first_fork([Given(7, -0.5, 2)])
    with pytest.raises(Unfit, match="after 1 tokens"):
        require_numbers([Given(1, -0.1, 1), Given(7, float("-inf"), 1)])


@pytest.mark.parametrize(
    ("largest", "moved", "found"),
    [
        (0.0, 0.0, 0.1),
        (0.0, 0.05, 0.2),
        (0.2, 0.05, 0.4),
        (0.3, 0.24, 0.96),
        (3.0, 0.1, 1.0),
        (0.0, None, 1.0),
    ],
)
def test_the_threshold_follows_what_rounding_was_seen_to_do_and_never_passes_a_nat(largest, moved, found):
    assert threshold(largest, moved) == pytest.approx(found)


# --- the whole audit --------------------------------------------------------------------------------------


def lines(tmp_path, changed=()):
    """Answers of four prompts, some of them changed to what the target would not say."""
    path = tmp_path / "answers.jsonl"
    rows = [
        {
            "prompt": p,
            "text": SAID[p] if p not in changed else "Nothing " + SAID[p],
            "token_ids": ids(SAID[p] if p not in changed else "Nothing " + SAID[p]),
        }
        for p in SAID
    ]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


def whole(tmp_path, server, changed=(), more="", **options):
    given = {"role": None, "battery": None, "out": tmp_path / "out"} | options
    return run_audit(lines(tmp_path, changed), f"kind=openai,url={server.url},{ONCE}{more}", **given).result


def test_the_target_calibrates_its_own_near_ties(tmp_path):
    """Rounding moves a log-probability by 0.03 nat here: gaps of 0.2 are then no near ties."""
    with planted(Plan(answers=SAID, gap=0.2, moved=0.03)) as server:
        result = whole(tmp_path, server, changed=(FRUIT, TREE))
    assert result.calibration.model_dump() == {
        "answers": 4,
        "tokens": 20,
        "forks": 0,
        "largest_gap": 0.0,
        "moved": pytest.approx(0.03),
        "threshold": pytest.approx(0.12),
    }
    assert (result.exit_code, result.larger.k, result.exact.k) == (3, 2, 2)
    assert result.more_forks_p == pytest.approx(3 / 14)  # 2 of 4 against 0 of 4
    summary = " ".join(audit_summary(result, 1.0).split())
    assert "from 4 answers of the target alone (20 tokens)" in summary
    assert "NOT THE TARGET'S: 2 of 4" in summary


def test_the_same_gaps_are_near_ties_where_rounding_moves_more(tmp_path):
    with planted(Plan(answers=SAID, gap=0.2, moved=0.1)) as server:
        result = whole(tmp_path, server, changed=(FRUIT, TREE))
        assert (result.exit_code, result.near_ties.k, result.threshold) == (0, 2, pytest.approx(0.4))
        bare = whole(tmp_path, server, changed=(FRUIT, TREE), calibrate_on=0)
    assert (bare.calibration, bare.more_forks_p, bare.threshold) == (None, None, 1.0)
    assert "no calibration" in audit_summary(bare, 1.0)


def test_a_target_that_contradicts_itself_says_nothing_of_others(tmp_path):
    """As a target it says one thing of its prompts, asked for answers another."""
    own = {p: f"Other {text}" for p, text in SAID.items()}
    with planted(Plan(answers=SAID, own=own, gap=5.0)) as server:
        result = whole(tmp_path, server)
    assert (result.exit_code, result.contradicts_itself) == (6, True)
    assert audit_summary(result, 1.0).startswith("THE TARGET CONTRADICTS ITSELF")


def test_clearly_more_forks_than_its_own_are_not_passed(tmp_path):
    many = {f"Name number {n}.": f"It is {n}" for n in range(12)}
    path = tmp_path / "many.jsonl"
    rows = [{"prompt": p, "text": f"So {t}", "token_ids": ids(f"So {t}")} for p, t in many.items()]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    with planted(Plan(answers=many, gap=0.05, moved=0.02)) as server:
        target = f"kind=openai,url={server.url},{ONCE}"
        result = run_audit(path, target, role=None, battery=None, out=tmp_path / "out").result
    assert (result.larger.k, result.near_ties.k, result.exit_code) == (0, 12, 5)
    assert audit_summary(result, 1.0).startswith("UNRESOLVED: 12 of 12 audited answers leave the target")


def test_a_server_that_drafts_audits_without_a_calibration(tmp_path):
    told = []
    with planted(Plan(answers=SAID, drafts=2)) as server:
        result = whole(tmp_path, server, more=",draft=served", notice=told.append)
        assert (result.exit_code, result.exact.k, result.calibration) == (0, 4, None)
        assert any("no calibration" in t for t in told)
        with pytest.raises(UserError, match="answers of the target alone"):
            whole(tmp_path, server, more=",draft=served", calibrate_on=4)
        with pytest.raises(UserError, match="is to be the target alone"):
            whole(tmp_path, server)


def test_a_finished_audit_asks_nothing_again(tmp_path):
    with planted(Plan(answers=SAID)) as server:
        first = whole(tmp_path, server)
        asked = len(server.seen)
        assert whole(tmp_path, server) == first
        assert len(server.seen) == asked


def test_an_audit_by_the_command_line_says_nothing_of_what_was_said(tmp_path):
    hostile = "\x1b]0;owned\x07 <script>"
    with planted(Plan(answers=SAID | {FRUIT: hostile}, faults={RIVER: ("hostile", EVER)})) as server:
        command = [sys.executable, "-m", "specsafe", "audit", str(lines(tmp_path)), "--json"]
        done = subprocess.run(
            [*command, "--engine", f"kind=openai,url={server.url},{ONCE}", "--calibrate", "0"],
            capture_output=True,
            text=True,
            check=False,
        )
    document = json.loads(done.stdout)
    assert done.returncode == document["exit_code"] == 5, done.stderr
    assert [f["reason"][:21] for f in document["result"]["not_audited"]] == ["the server refused it"]
    for told in (done.stdout, done.stderr):
        assert "\x1b" not in told
        assert "apple" not in told
