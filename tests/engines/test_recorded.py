"""Room: engines/recorded. Laws: answers are found by item or prompt, what is missing yields nothing."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from specsafe.engines import RecordedArm, Request, Sample, check_arm, open_session
from specsafe.engines.base import Failure
from specsafe.errors import UserError

REQUESTS = [Request("a", "How?"), Request("b", "Why?"), Request("c", "When?")]


def answers(folder: Path, *rows: object) -> RecordedArm:
    path = folder / "answers.jsonl"
    lines = (row if isinstance(row, str) else json.dumps(row) for row in rows)
    path.write_text("\n".join(lines), encoding="utf-8")
    return RecordedArm(path=str(path))


def generate(arm: RecordedArm, requests: list[Request] = REQUESTS) -> list[Sample]:
    session = open_session(arm)
    try:
        return list(session.generate(requests))
    finally:
        session.close()
        session.close()


def test_answers_are_found_by_item_and_by_prompt(tmp_path):
    arm = answers(tmp_path, {"item": "a", "text": "so"}, {"prompt": "Why?", "text": "because"})
    assert [(s.item, s.text) for s in generate(arm)] == [("a", "so"), ("b", "because")]


def test_items_without_an_answer_simply_yield_nothing(tmp_path):
    assert generate(answers(tmp_path, {"item": "z", "text": "x"})) == []


def test_a_prompt_must_match_exactly(tmp_path):
    assert generate(answers(tmp_path, {"prompt": "how?", "text": "x"})) == []


def test_an_answer_by_item_wins_over_one_by_prompt(tmp_path):
    arm = answers(tmp_path, {"prompt": "How?", "text": "by prompt"}, {"item": "a", "text": "by item"})
    assert [s.text for s in generate(arm)] == ["by item"]


def test_a_failure_keeps_its_reason(tmp_path):
    assert generate(answers(tmp_path, {"item": "a", "failed": "timeout"})) == [Failure("a", "timeout", 1)]


def test_a_line_that_no_request_gets_is_counted(tmp_path):
    shadowed = answers(tmp_path, {"prompt": "How?", "text": "by prompt"}, {"item": "a", "text": "by item"})
    assert open_session(shadowed).unmatched(iter(REQUESTS)) == 1
    assert open_session(shadowed).unmatched([*REQUESTS, Request("d", "How?")]) == 0
    assert open_session(answers(tmp_path, {"item": "z", "text": "x"})).unmatched(REQUESTS) == 1


def test_a_line_with_both_keys_is_known_by_its_item(tmp_path):
    arm = answers(tmp_path, {"item": "z", "prompt": "How?", "text": "x"})
    assert generate(arm) == []


def test_an_empty_answer_is_an_answer(tmp_path):
    assert [s.text for s in generate(answers(tmp_path, {"item": "a", "text": ""}))] == [""]


def test_what_is_not_said_is_none_and_not_zero(tmp_path):
    (sample,) = generate(answers(tmp_path, {"item": "a", "text": "x"}))
    assert sample == Sample(item="a", text="x", finish="stop")


def test_everything_that_is_said_arrives(tmp_path):
    row = {
        "item": "a",
        "text": "x y",
        "finish": "length",
        "token_ids": [5, 6],
        "logprobs": [-0.5, None],
        "top": [[[5, -0.5], [7, -1.5]], []],
        "drafted": 3,
        "accepted": 2,
        "prompt_tokens": 11,
        "prefill_seconds": 0.1,
        "seconds": 0.25,
    }
    (sample,) = generate(answers(tmp_path, row))
    assert sample == Sample(
        item="a",
        text="x y",
        finish="length",
        token_ids=(5, 6),
        logprobs=(-0.5, None),
        top=(((5, -0.5), (7, -1.5)), ()),
        drafted=3,
        accepted=2,
        prompt_tokens=11,
        prefill_seconds=0.1,
        seconds=0.25,
    )


def test_the_fingerprint_is_the_hash_of_the_file(tmp_path):
    arm = answers(tmp_path, {"item": "a", "text": "x"})
    digest = hashlib.sha256(Path(arm.path).read_bytes()).hexdigest()
    assert check_arm(arm) == {"answers": digest}
    assert digest in open_session(arm).fingerprint().values()


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"item": "b", "text": "x", "score": 1}, "line 2: unknown key 'score'"),
        ({"item": "a", "text": "y"}, "line 2: a second answer to item 'a'"),
        ({"item": "b"}, "line 2: row: Value error, exactly one of text and failed"),
        ({"item": "b", "text": "x", "failed": "no"}, "exactly one of text and failed"),
        ({"item": "b", "failed": ""}, "line 2: row: Value error, failed needs a reason"),
        ({"item": "b", "failed": " "}, "failed needs a reason"),
        ({"item": "b", "text": "x", "rounds": 2, "accepted_at": [3]}, "needs as many rounds"),
        ({"item": "b", "text": "x", "letters": [["Z", -1.0]]}, "letters"),
        ({"item": "b", "text": None}, "line 2: text: Input should be"),
        ({"item": "b", "text": 7}, "line 2: text: Input should be"),
        ({"text": "x"}, "line 2: neither item nor prompt"),
        ({"item": 7, "text": "x"}, "line 2: item: Input should be"),
        ("{", ":2 is not JSON"),
        ("[]", ":2 is not a JSON object"),
    ],
)
def test_a_broken_line_is_named(tmp_path, row, said):
    arm = answers(tmp_path, {"item": "a", "text": "x"}, row)
    with pytest.raises(UserError) as error:
        open_session(arm)
    assert arm.path in str(error.value)
    assert said in str(error.value)


def test_two_answers_to_one_prompt_are_refused(tmp_path):
    with pytest.raises(UserError, match="a second answer to prompt 'How"):
        open_session(answers(tmp_path, {"prompt": "How?", "text": "x"}, {"prompt": "How?", "text": "x"}))


def test_a_missing_or_empty_file_is_refused(tmp_path):
    with pytest.raises(UserError, match="no recorded answers"):
        open_session(RecordedArm(path=str(tmp_path / "none.jsonl")))
    with pytest.raises(UserError, match="holds no answers"):
        open_session(answers(tmp_path, "", "  "))


def test_bytes_that_are_not_utf_8_are_refused(tmp_path):
    path = tmp_path / "answers.jsonl"
    path.write_bytes(b'{"item": "a", "text": "\xff"}')
    with pytest.raises(UserError, match="utf-8"):
        open_session(RecordedArm(path=str(path)))


@pytest.mark.parametrize(
    "extra",
    [
        {"token_ids": 5},
        {"token_ids": ["x"]},
        {"logprobs": "abc"},
        {"top": [[1, 2]]},
        {"drafted": "many"},
        {"finish": "tired"},
    ],
    ids=lambda extra: next(iter(extra)),
)
def test_an_optional_field_of_the_wrong_type_is_an_error_at_once(tmp_path, extra):
    with pytest.raises(UserError, match="line 1"):
        generate(answers(tmp_path, {"item": "a", "text": "x", **extra}))
