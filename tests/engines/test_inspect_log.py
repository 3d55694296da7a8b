"""Room: engines/inspect_log. Laws: what the log says arrives, what it does not say stays unknown, one line for the rest."""

from __future__ import annotations

import importlib.util
import json
import sys
import zipfile
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "logs"))
from made_logs import CONFIG, header, sample, write_eval, write_json

from specsafe.engines import Failure, InspectArm, Request, Sample, open_session, parse_arm
from specsafe.engines.recorded import read_answers
from specsafe.errors import UserError

ZSTD = importlib.util.find_spec("zstandard") is not None
KENYA = sample("kenya", "What is the capital of Kenya?", "Nairobi")
SUM = sample(2, "What is 2+2?", "4", stop="max_tokens")
LONG = "A long harmless sentence about the garden. " * 20


def arm(path, *samples, **changes):
    return InspectArm(path=str(write_json(path / "log.json", samples, **changes)))


def answers(arm, *requests):
    session = open_session(arm)
    try:
        return list(session.generate(requests))
    finally:
        session.close()


def only(arm, prompt="What is 2+2?"):
    (answer,) = answers(arm, Request("x", prompt))
    return answer


@pytest.mark.parametrize(
    "form",
    [
        "json",
        "stored",
        "deflated",
        *(
            pytest.param(f, marks=pytest.mark.skipif(not ZSTD, reason="needs the extra inspect"))
            for f in ("zstd", "frames")
        ),
    ],
)
def test_every_form_of_a_log_says_the_same(tmp_path, form):
    path = tmp_path / "log"
    write = {
        "json": lambda: write_json(path, [KENYA, SUM]),
        "stored": lambda: write_eval(path, [KENYA, SUM], zipfile.ZIP_STORED),
        "deflated": lambda: write_eval(path, [KENYA, SUM]),
        "zstd": lambda: write_eval(path, [KENYA, SUM], 93),
        "frames": lambda: write_eval(path, [KENYA, SUM], 93, frames=3),
    }
    write[form]()
    found = answers(InspectArm(path=str(path)), Request("kenya", "?"), Request("x", "What is 2+2?"))
    assert found == [
        Sample(item="kenya", text="Nairobi", finish="stop", prompt_tokens=9),
        Sample(item="x", text="4", finish="length", prompt_tokens=9),
    ]


@pytest.mark.skipif(ZSTD or sys.version_info >= (3, 14), reason="zstd can be read here")
def test_without_the_extra_zstd_is_refused_with_the_cure(tmp_path):
    path = write_eval(tmp_path / "log.eval", [KENYA])
    raw = bytearray(path.read_bytes())
    for head, method in (
        (b"PK\x03\x04", 8),
        (b"PK\x01\x02", 10),
    ):  # the method stands in both headers of a member
        place = -1
        while (place := raw.find(head, place + 1)) >= 0:
            raw[place + method : place + method + 2] = (93).to_bytes(2, "little")
    path.write_bytes(bytes(raw))
    with pytest.raises(UserError, match="zstd, which this Python cannot read") as error:
        open_session(InspectArm(path=str(path)))
    assert "specsafe[inspect]" in error.value.hint


@pytest.mark.skipif(not ZSTD, reason="needs the extra inspect")
def test_a_member_that_is_not_whole_is_refused(tmp_path):
    path = write_eval(tmp_path / "log.eval", [KENYA], 93)
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo("samples/kenya_epoch_1.json")
    raw = bytearray(path.read_bytes())
    raw[info.header_offset + 30 + len(info.filename) + 20] ^= 0xFF
    path.write_bytes(bytes(raw))
    with pytest.raises(UserError, match="kenya_epoch_1"):
        open_session(InspectArm(path=str(path)))


def test_an_item_is_found_by_metadata_then_by_id_then_by_prompt(tmp_path):
    named = sample("other", "Say hello.", "hello", metadata={"item": "greeting"})
    log = arm(tmp_path, named, KENYA, SUM)
    assert [s.text for s in answers(log, Request("greeting", "?"))] == ["hello"]
    assert answers(log, Request("other", "?")) == []
    assert [s.text for s in answers(log, Request("kenya", "?"))] == ["Nairobi"]
    assert only(log).text == "4"


def test_the_number_of_a_sample_names_no_item(tmp_path):
    assert answers(arm(tmp_path, SUM), Request("2", "?")) == []


def test_two_samples_for_one_item_are_refused(tmp_path):
    log = arm(tmp_path, SUM, sample(3, "What is 2+2?", "four"))
    with pytest.raises(UserError, match=r"two answers to item 'x': .*sample 2.*sample 3"):
        only(log)


def test_several_epochs_need_one_named(tmp_path):
    twice = [sample("a", "?", f"answer {n}", epoch=n) for n in (1, 2)]
    log = arm(tmp_path, *twice)
    with pytest.raises(UserError, match="epochs 1, 2") as error:
        open_session(log)
    assert error.value.hint == "name one of them: epoch=1"
    assert answers(log.model_copy(update={"epoch": 2}), Request("a", "?"))[0].text == "answer 2"
    with pytest.raises(UserError, match="no samples of epoch 3"):
        open_session(log.model_copy(update={"epoch": 3}))


def test_several_choices_need_one_named(tmp_path):
    several = json.loads(json.dumps(SUM))
    several["output"]["choices"] += [
        {"message": {"role": "assistant", "content": "four"}, "stop_reason": "stop"}
    ]
    log = arm(tmp_path, several)
    with pytest.raises(UserError, match="2 answers to one request"):
        open_session(log)
    assert only(log.model_copy(update={"choice": 2})).text == "four"
    with pytest.raises(UserError, match="choice=3"):
        open_session(log.model_copy(update={"choice": 3}))


def test_text_parts_are_joined_and_reasoning_is_left_out_and_told(tmp_path):
    parts = [
        {"type": "reasoning", "reasoning": "hm"},
        {"type": "text", "text": "four"},
        {"type": "text", "text": "!"},
    ]
    log = arm(tmp_path, sample(2, "What is 2+2?", parts))
    assert only(log).text == "four\n!"
    assert "1 of 1 answers have reasoning apart: it is not scored" in read_answers(log).remarks


def test_a_text_that_is_kept_apart_is_fetched(tmp_path):
    log = arm(tmp_path, sample(2, "What is 2+2?", "attachment://f00", attachments={"f00": LONG}))
    assert only(log).text == LONG
    with pytest.raises(UserError, match="is not in the log"):
        open_session(arm(tmp_path, sample(2, "?", "attachment://f00")))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (
            {"error": {"message": "ConnectionError('gone')\nat line 3"}},
            "Inspect: ConnectionError('gone') at line 3",
        ),
        ({"invalidation": {"author": "me"}}, "the log calls this sample invalid"),
        ({"output": {"model": "m", "choices": [], "completion": ""}}, "the log holds no answer"),
        (
            {"output": {"choices": []}, "limit": {"type": "time", "limit": 1.0}},
            "halted by the time limit of Inspect",
        ),
        ({"output": {"choices": [], "error": "filtered"}}, "filtered"),
    ],
)
def test_a_sample_without_an_answer_is_a_failure_with_its_reason(tmp_path, changes, reason):
    assert only(arm(tmp_path, sample(2, "What is 2+2?", "4", **changes))) == Failure("x", reason, 1)


@pytest.mark.parametrize("stop", ["content_filter", "tool_calls"])
def test_an_end_that_is_no_end_of_an_answer_is_a_failure(tmp_path, stop):
    failure = only(arm(tmp_path, sample(2, "What is 2+2?", "4", stop=stop)))
    assert failure == Failure("x", f"the answer ended with stop_reason {stop!r}", 1)


def test_an_end_that_is_not_told_is_not_taken_for_a_stop(tmp_path):
    log = arm(tmp_path, sample(2, "What is 2+2?", "4", stop="unknown"))
    assert only(log).finish == "unknown"
    assert any("whether they were cut is not known" in r for r in read_answers(log).remarks)


def test_attempts_that_failed_before_are_kept(tmp_path):
    log = arm(tmp_path, sample(2, "What is 2+2?", "4", error_retries=[{"message": "timeout"}]))
    assert only(log).failed_attempts == ("timeout",)


def test_what_the_log_says_of_the_request_is_the_fingerprint(tmp_path):
    facts = open_session(arm(tmp_path, SUM)).fingerprint()
    assert facts["engine"] == "inspect"
    assert (facts["model"], facts["inspect_ai"], facts["tasks"]) == ("mockllm/model", "0.3.285", ["tiny"])
    assert (facts["settings"], facts["temperature"]) == (CONFIG, 0.0)


def test_without_the_events_the_settings_are_those_of_the_head(tmp_path):
    log = arm(tmp_path, {**SUM, "events": []}, plan={"config": {"temperature": 0.5, "max_retries": 3}})
    assert read_answers(log).facts["settings"] == {"temperature": 0.5}


def test_a_temperature_that_is_not_said_is_not_known_and_may_be_given(tmp_path):
    log = arm(tmp_path, sample(2, "What is 2+2?", "4", config={}), plan={"config": {}})
    assert read_answers(log).facts["temperature"] is None
    assert read_answers(log.model_copy(update={"temperature": 0.0})).facts["temperature"] == 0.0
    with pytest.raises(UserError, match="but the file says 0"):
        open_session(arm(tmp_path, SUM).model_copy(update={"temperature": 0.7}))


def test_settings_of_a_grader_are_not_those_of_the_answer(tmp_path):
    grade = {
        "event": "model",
        "config": {"temperature": 1.0},
        "output": {"choices": [{"message": {"id": "other", "role": "assistant", "content": "C"}}]},
    }
    graded = {**SUM, "events": [*SUM["events"], grade]}
    assert read_answers(arm(tmp_path, graded)).facts["temperature"] == 0.0


def test_samples_asked_with_different_settings_are_no_arm(tmp_path):
    warm = sample(3, "Say hello.", "hello", config={**CONFIG, "temperature": 0.7})
    with pytest.raises(UserError, match=r"different settings \(temperature\)"):
        open_session(arm(tmp_path, SUM, warm))


def test_what_weakens_a_comparison_is_counted(tmp_path):
    turns = json.loads(json.dumps(SUM))
    answer = turns["messages"][-1]
    call = {**answer, "id": "call", "tool_calls": [{"id": "1", "function": "bash"}]}
    turns["messages"][-1:] = [call, {"role": "tool", "content": "ok"}, answer]
    turns["events"][1]["cache"] = "read"
    turns["output"]["fallback"] = {"model": "a", "fallback_model": "b"}
    turns["limit"] = {"type": "token", "limit": 10}
    said = read_answers(arm(tmp_path, turns, KENYA, status="error")).remarks
    assert said[0] == "log.json: the log's status is 'error': what it does not hold counts as missing"
    words = [
        "took several turns",
        "used tools",
        "came from Inspect's cache",
        "came from another model",
        "were halted by a limit",
    ]
    assert [r.startswith(f"1 of 2 answers {w}") for r, w in zip(said[1:], words, strict=True)] == [True] * 5


def test_the_last_of_a_name_is_read_for_a_log_is_appended_to(tmp_path):
    path = write_eval(tmp_path / "log.eval", [KENYA])
    later = sample("kenya", "What is the capital of Kenya?", "Nairobi, again")
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("samples/kenya_epoch_1.json", json.dumps(later))
    assert answers(InspectArm(path=str(path)), Request("kenya", "?"))[0].text == "Nairobi, again"


def test_a_log_that_did_not_end_is_read_from_its_journal(tmp_path):
    path = tmp_path / "log.eval"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(
            "_journal/start.json", json.dumps({k: header()[k] for k in ("version", "eval", "plan")})
        )
        archive.writestr("samples/kenya_epoch_1.json", json.dumps(KENYA))
    log = InspectArm(path=str(path))
    assert answers(log, Request("kenya", "?"))[0].text == "Nairobi"
    assert "status is 'started'" in read_answers(log).remarks[0]


def test_several_logs_are_one_arm_if_they_were_asked_alike(tmp_path):
    write_eval(tmp_path / "a.eval", [KENYA])
    write_eval(tmp_path / "b.eval", [SUM])
    log = InspectArm(path=str(tmp_path / "*.eval"))
    assert len(answers(log, Request("kenya", "?"), Request("x", "What is 2+2?"))) == 2
    write_eval(tmp_path / "b.eval", [sample(2, "?", "4", config={"temperature": 1.0})])
    with pytest.raises(UserError, match="differ in settings, temperature: they are not one arm"):
        open_session(log)


def broken(path, kind):
    """A file that is no log, each in its own way."""
    if kind == "chunked":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("header.json", json.dumps(header()))
            archive.writestr("samples/a_epoch_1/sample.json", "{}")
    elif kind == "other zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("readme.txt", "no log")
    elif kind == "cut":
        path.write_bytes(write_eval(path, [KENYA]).read_bytes()[:-40])
    else:
        made = {
            "no json": "{",
            "deep": "[" * 100_000,
            "list": "[]",
            "no head": "{}",
            "empty": json.dumps({**header(), "samples": []}),
            "newer": json.dumps({**header(version=3), "samples": [KENYA]}),
            "no epoch": json.dumps(
                {**header(), "samples": [{k: v for k, v in KENYA.items() if k != "epoch"}]}
            ),
            "twice": json.dumps({**header(), "samples": [KENYA, KENYA]}),
        }
        path.write_text(made[kind], encoding="utf-8")


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("chunked", "samples in chunks cannot be read yet"),
        ("other zip", "no log of Inspect: no header.json"),
        ("cut", "no whole ZIP file"),
        ("no json", "is not JSON"),
        ("deep", "is not JSON"),
        ("list", "is no log of Inspect"),
        ("no head", "eval: Field required"),
        ("empty", "holds no samples"),
        ("newer", "log format 3; known up to 2"),
        ("no epoch", "sample 1: epoch: Field required"),
        ("twice", "sample 'kenya' occurs twice"),
    ],
)
def test_a_file_that_is_no_log_is_one_line(tmp_path, kind, said):
    path = tmp_path / "log"
    broken(path, kind)
    with pytest.raises(UserError, match=said) as error:
        open_session(InspectArm(path=str(path)))
    assert str(path) in error.value.message


def test_half_a_surrogate_pair_becomes_a_replacement_character(tmp_path):
    assert only(arm(tmp_path, sample(2, "What is 2+2?", "\ud83d 4"))).text == "\ufffd 4"


def test_the_arm_is_read_from_text():
    arm = parse_arm("kind=inspect,path=a.eval,epoch=1,choice=2")
    assert arm == InspectArm(path="a.eval", epoch=1, choice=2)
    assert parse_arm("path=b.eval", inherit=arm) == InspectArm(path="b.eval")
    with pytest.raises(UserError, match="epoch"):
        parse_arm("kind=inspect,path=a.eval,epoch=0")
