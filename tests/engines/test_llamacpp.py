"""llama.cpp for real: identity, telemetry, missing data, refusals to start, and a worker that is killed."""

import itertools
import os
import signal
import threading
import time

import pytest

from specsafe.battery import load_battery
from specsafe.drafts import DEFAULT_KEEP, drop_layers
from specsafe.engines import Failure, Request, check_arm, open_session, parse_arm
from specsafe.errors import UserError
from specsafe.models.catalogue import DEFAULT_MODEL
from specsafe.models.store import resolve

pytestmark = pytest.mark.model
BASE = parse_arm("threads=1,slots=1,max_tokens=12")
ITEMS = load_battery("starter").limit(2).items


def answers(text, items=ITEMS):
    session = open_session(parse_arm(text, BASE))
    try:
        return {
            s.item: s for s in session.generate([Request(i.id, i.prompt) for i in items])
        }, session.fingerprint()
    finally:
        session.close()


@pytest.fixture(scope="module")
def target():
    return answers("draft=none")[0]


def test_the_target_reports_tokens_and_log_probabilities(target):
    for s in target.values():
        assert len(s.token_ids) == len(s.logprobs) == len(s.top) <= 12
        assert s.top[0][0] == (s.token_ids[0], s.logprobs[0])
        assert s.drafted is None
        assert s.finish == ("length" if len(s.token_ids) == 12 else "stop")


@pytest.mark.parametrize("draft", ["self", f"layers:{DEFAULT_KEEP}"])
def test_a_speculative_arm_drafts_and_says_what_it_did_not_score(draft, target):
    speculative, fingerprint = answers(f"draft={draft},p_min=0")
    drafted, accepted = (sum(getattr(s, n) for s in speculative.values()) for n in ("drafted", "accepted"))
    assert 0 < accepted <= drafted
    assert (fingerprint["rule"], fingerprint["lossless"]) == ("greedy", True)
    assert fingerprint["draft_sha256"]
    values = [p for s in speculative.values() for p in s.logprobs]
    assert None in values
    assert 0.0 not in values
    if draft == "self":
        assert accepted / drafted > 0.8
    assert {i: s.token_ids for i, s in speculative.items()} == {i: s.token_ids for i, s in target.items()}


def test_a_leak_changes_answers_and_is_labelled_lossy(target):
    leaky, fingerprint = answers(f"draft=layers:{DEFAULT_KEEP},rule=synthetic,leak=1")
    assert not fingerprint["lossless"]
    # all but the draft tokens that lay beyond the end of an answer
    assert sum(s.accepted for s in leaky.values()) > 0.8 * sum(s.drafted for s in leaky.values())
    assert sum(s.token_ids != target[i].token_ids for i, s in leaky.items()) >= len(target) / 2


def test_prefill_is_not_part_of_the_answer():
    given, _ = answers('draft=none,prefill="Sure, here is"')
    assert not any(s.text.startswith("Sure, here is") for s in given.values())
    assert all(s.text for s in given.values())


def test_slots_answer_every_request_once():
    parallel = open_session(BASE.model_copy(update={"slots": 3}))
    got = [s.item for s in parallel.generate([Request(i.id, i.prompt) for i in ITEMS])]
    slots = parallel.fingerprint()["slots"]
    parallel.close()
    assert sorted(got) == sorted(i.id for i in ITEMS)
    assert slots == 3


def test_a_killed_worker_costs_only_its_work_in_flight(target):
    session = open_session(BASE)
    got = {}

    def kill():
        while len(got) < 2:
            time.sleep(0.01)
        os.kill(session._process.pid, signal.SIGKILL)

    threading.Thread(target=kill, daemon=True).start()
    for s in session.generate([Request(i.id, i.prompt) for i in ITEMS]):
        got[s.item] = s
    session.close()
    assert {i: s.token_ids for i, s in got.items()} == {i: s.token_ids for i, s in target.items()}


def deadly(session, monkeypatch, kills):
    """Let every request whose item `kills` names end the worker before it answers."""
    send = session._send

    def dying(worker, requests):
        asked = list(requests)
        harmless = list(itertools.takewhile(lambda r: not kills(r["item"]), asked))
        if len(harmless) == len(asked):
            return send(worker, asked)
        worker.kill()
        return None

    monkeypatch.setattr(session, "_send", dying)


def test_an_item_that_kills_its_worker_three_times_is_given_up_and_the_rest_answered(monkeypatch, target):
    session = open_session(BASE)
    deadly(session, monkeypatch, lambda item: item == ITEMS[1].id)
    got = list(session.generate([Request(i.id, i.prompt) for i in ITEMS]))
    session.close()
    failed = [a for a in got if isinstance(a, Failure)]
    assert [(f.item, f.tries) for f in failed] == [(ITEMS[1].id, 3)]
    answered = {s.item: s.token_ids for s in got if not isinstance(s, Failure)}
    assert answered == {i: s.token_ids for i, s in target.items() if i != ITEMS[1].id}


@pytest.mark.parametrize("left", [1, 6])
def test_an_engine_that_dies_on_everything_stops_and_blames_no_item(monkeypatch, left):
    session = open_session(BASE)
    deadly(session, monkeypatch, lambda item: True)
    got = []
    with pytest.raises(UserError, match=r"died 3 times .* and then on a plain prompt"):
        for answer in session.generate([Request(i.id, i.prompt) for i in ITEMS[:left]]):
            got.append(answer)
    assert got == []
    session.close()


def test_any_number_of_deadly_items_in_a_row_are_given_up_one_by_one(monkeypatch):
    session = open_session(BASE)
    deadly(session, monkeypatch, lambda item: item in {i.id for i in ITEMS[:5]})
    got = list(session.generate([Request(i.id, i.prompt) for i in ITEMS]))
    session.close()
    assert [isinstance(a, Failure) for a in got] == [True] * 5 + [False]


def test_a_prompt_beyond_the_context_is_a_failure_of_its_own():
    long = Request("long", "word " * 2000)
    session = open_session(BASE)
    got = list(session.generate([long, Request(ITEMS[0].id, ITEMS[0].prompt)]))
    session.close()
    failure = next(a for a in got if isinstance(a, Failure))
    assert (failure.item, failure.tries, len(got)) == ("long", 1, 2)
    assert "context" in failure.reason


def test_a_raw_completion_has_no_template_and_letters_have_their_likelihood():
    question = Request("q", "Which is a fruit?\nA) stone\nB) apple\n\nAnswer:")
    found = {}
    for template in ("on", "off"):
        session = open_session(parse_arm(f"chat_template={template}", BASE))
        (found[template],) = session.generate([question])
        assert session.fingerprint()["prompt"] == ("raw completion" if template == "off" else "chat template")
        session.close()
    assert found["off"].prompt_tokens < found["on"].prompt_tokens - 10
    for sample in found.values():
        letters = dict(sample.letters)
        assert {"A", "B"} <= set(letters)
        assert all(p < 0 for p in letters.values())


def test_closing_ends_a_generation_that_waits():
    session = open_session(BASE.model_copy(update={"max_tokens": 800}))
    done = threading.Thread(target=lambda: list(session.generate([Request(i.id, i.prompt) for i in ITEMS])))
    done.start()
    session.close()
    done.join(20)
    assert not done.is_alive()


def test_a_draft_with_another_tokenizer_is_refused_before_anything_loads(tmp_path):
    import gguf

    other = tmp_path / "other.gguf"
    writer = gguf.GGUFWriter(other, "llama")
    writer.add_token_list(["a", "b"])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(UserError, match="another tokenizer"):
        check_arm(parse_arm(f"draft={other}", BASE))


@pytest.mark.parametrize("rule", ["typical", "rejection"])
def test_a_rule_that_this_stack_cannot_apply_is_refused(rule):
    with pytest.raises(UserError, match="cannot apply"):
        check_arm(parse_arm(f"draft=self,rule={rule}", BASE))
    with pytest.raises(UserError, match="samples there"):
        check_arm(parse_arm("draft=self,rule=greedy,temperature=0.7", BASE))


def test_a_corrupt_model_is_one_line(tmp_path):
    torn = tmp_path / "torn.gguf"
    torn.write_bytes(resolve(DEFAULT_MODEL).read_bytes()[: 40 << 20])
    with pytest.raises(UserError):
        open_session(parse_arm(f"model={torn}", BASE))
    torn.write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(UserError, match="not a readable GGUF"):
        check_arm(parse_arm(f"model={torn}", BASE))


def test_a_draft_of_one_layer_runs(tmp_path, target):
    tiny = drop_layers(resolve(DEFAULT_MODEL), [0], tmp_path / "tiny.gguf")
    tiny_answers, _ = answers(f"draft={tiny},p_min=0")
    assert {i: s.token_ids for i, s in tiny_answers.items()} == {i: s.token_ids for i, s in target.items()}
