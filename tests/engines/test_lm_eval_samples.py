"""Room: engines/lm_eval_samples. Laws: the unfiltered answer arrives once, and nothing that was not generated is one."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "logs"))
from made_logs import SETTINGS, line, write_lines

from specsafe.engines import LmEvalArm, Request, Sample, open_session, parse_arm
from specsafe.engines.recorded import read_answers
from specsafe.errors import UserError

DOC = {"id": "kenya", "prompt": "What is the capital of Kenya?", "answer": "Nairobi"}
SUM = {"prompt": "What is 2+2?", "answer": "4"}
ASKED = Request("x", "What is 2+2?")


def arm(folder, *lines, name="samples_tiny_2026-11-26T02-34-04.455153.jsonl", **fields):
    return LmEvalArm(path=str(write_lines(folder / name, lines)), **fields)


def answers(arm, *requests):
    return list(open_session(arm).generate(requests))


def test_an_item_is_found_by_the_id_of_its_document_or_by_its_prompt(tmp_path):
    found = answers(arm(tmp_path, line(0, DOC, "Nairobi"), line(1, SUM, "4")), Request("kenya", "?"), ASKED)
    assert found == [
        Sample(item="kenya", text="Nairobi", finish="unknown"),
        Sample(item="x", text="4", finish="unknown"),
    ]


@pytest.mark.parametrize(
    "sent",
    [
        "Q: What is 1+1?\nA: 2\n\nQ: What is 2+2?\nA:",
        [
            json.dumps(
                [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is 2+2?"}]
            )
        ],
        [json.dumps([{"role": "user", "content": [{"type": "text", "text": "What is 2+2?"}]}])],
        "[not JSON",
    ],
)
def test_the_prompt_may_be_in_the_document_or_in_a_chat_request(tmp_path, sent):
    assert answers(arm(tmp_path, line(0, SUM, "4", asked=sent)), ASKED)[0].text == "4"
    asked_alone = {"q": 1} if isinstance(sent, list) else SUM
    assert answers(arm(tmp_path, line(0, asked_alone, "4", asked=sent)), ASKED)[0].text == "4"


def test_filters_of_one_answer_are_one_answer(tmp_path):
    both = (
        line(0, SUM, "It is 4.", filter=f, filtered_resps=[t])
        for f, t in (("none", "It is 4."), ("digits", "4"))
    )
    assert [s.text for s in answers(arm(tmp_path, *both), ASKED)] == ["It is 4."]


def test_several_repeats_need_one_named(tmp_path):
    samples = arm(tmp_path, line(0, SUM, ["4", "four"]))
    with pytest.raises(UserError, match="2 answers to one request") as error:
        open_session(samples)
    assert error.value.hint == "name one of them: repeat=1"
    assert answers(samples.model_copy(update={"repeat": 2}), ASKED)[0].text == "four"
    with pytest.raises(UserError, match="repeat=3"):
        open_session(samples.model_copy(update={"repeat": 3}))


@pytest.mark.parametrize(
    ("settings", "temperature"),
    [
        (SETTINGS, 0.0),
        ({"do_sample": False}, 0.0),
        ({"do_sample": True, "temperature": 0.7}, 0.7),
        ({"temperature": 1}, 1.0),
        ({"do_sample": True}, None),
        ({}, None),
        ({"do_sample": False, "temperature": 0.7}, None),
    ],
)
def test_the_temperature_is_what_the_settings_say_or_not_known(tmp_path, settings, temperature):
    facts = read_answers(arm(tmp_path, line(0, SUM, "4", settings=settings))).facts
    assert facts == {"tasks": ["tiny"], "settings": settings, "temperature": temperature}


def test_arguments_of_older_versions_are_lists(tmp_path):
    old = line(0, SUM, "4", arguments=[["What is 2+2?", SETTINGS]])
    assert answers(arm(tmp_path, old), ASKED)[0].text == "4"


def test_several_tasks_are_one_arm(tmp_path):
    arm(tmp_path, line(0, DOC, "Nairobi"), name="samples_a_2026.jsonl")
    arm(tmp_path, line(0, SUM, "4"), name="samples_b_2026.jsonl")
    both = LmEvalArm(path=str(tmp_path / "samples_*.jsonl"))
    assert len(answers(both, Request("kenya", "?"), ASKED)) == 2
    assert read_answers(both).facts["tasks"] == ["a", "b"]


CHOICES = {
    "arguments": {f"gen_args_{n}": {"arg_0": "What is 2+2?", "arg_1": f" {c}"} for n, c in enumerate("AB")},
    "resps": [[["-0.9", "False"]], [["-0.5", "True"]]],
}


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([line(0, SUM, "", **CHOICES)], "a likelihood was asked for: nothing is generated"),
        ([line(0, SUM, "", arguments={"gen_args_0": {"arg_0": "x"}})], "a likelihood was asked for"),
        ([line(0, SUM, "4"), line(0, SUM, "4")], "line 2: document 0 is answered a second time"),
        ([line(0, SUM, "4"), line(0, SUM, "5", filter="digits")], "another answer than before"),
        ([line(0, SUM, "4"), line(1, DOC, "N", settings={})], "line 2: asked with other settings"),
        ([line(0, SUM, "4", resps=[[["4"]]])], "resps: the answer is no text"),
        ([line(0, SUM, "4", resps=[[]])], "resps: the answer is no text"),
        ([line(0, SUM, "4", asked=["a", "b"])], "the prompt is no text"),
        ([{"item": "x", "text": "y"}], "doc_id: Field required"),
        ([], "holds no samples"),
    ],
)
def test_what_is_no_answer_is_one_line(tmp_path, lines, said):
    samples = arm(tmp_path, *lines)
    with pytest.raises(UserError, match=said) as error:
        open_session(samples)
    assert samples.path in error.value.message


def test_the_arm_is_read_from_text():
    assert parse_arm("kind=lm_eval,path=s.jsonl,repeat=1") == LmEvalArm(path="s.jsonl", repeat=1)
    with pytest.raises(UserError, match="unknown key 'epoch' for kind=lm_eval"):
        parse_arm("kind=lm_eval,path=s.jsonl,epoch=1")
