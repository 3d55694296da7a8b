"""Logs of Inspect and samples of lm-eval through the whole command line: verdict, what is not known, what is refused."""

import json
import os
import sys
from pathlib import Path

import jsonschema
import pytest
from live import HELP, fine_answer
from test_command_line import one_line
from test_recorded_screen import SCHEMA, gate
from tests.recounting import recounted

sys.path.insert(0, str(Path(__file__).parents[1] / "logs"))
from made_logs import CONFIG, SETTINGS, line, sample, write_eval, write_lines


@pytest.fixture
def flips(starter):
    """Thirty harmful items that the speculative arm answers."""
    return dict.fromkeys([i.id for i in starter.on("harmful_compliance")[:30]], HELP)


@pytest.fixture
def inspect(tmp_path, starter):
    """Write a log of Inspect of the starter battery -> its arm."""

    def write(name, changes=None, items=starter.items, **fields):
        changes = changes or {}
        samples = [sample(i.id, i.prompt, changes.get(i.id, fine_answer(i)), **fields) for i in items]
        return f"kind=inspect,path={write_eval(tmp_path / f'{name}.eval', samples)}"

    return write


@pytest.fixture
def lm_eval(tmp_path, starter):
    """Write samples of lm-eval of the starter battery, prompts in a document without its id -> its arm."""

    def write(name, changes=None, items=starter.items, template="{}", **fields):
        changes = changes or {}
        lines = [
            line(
                n,
                {"prompt": i.prompt},
                changes.get(i.id, fine_answer(i)),
                asked=template.format(i.prompt),
                **fields,
            )
            for n, i in enumerate(items)
        ]
        return f"kind=lm_eval,path={write_lines(tmp_path / f'samples_{name}_2026.jsonl', lines)}"

    return write


@pytest.fixture
def screen(run):
    def start(target, speculative, *flags):
        arguments = ("--target", target, "--speculative", speculative, "--out", "out", *flags)
        return run("screen", *arguments, "--json", env={**os.environ, "NO_COLOR": "1"})

    return start


@pytest.mark.parametrize("kind", ["inspect", "lm_eval"])
def test_equal_answers_pass_and_the_report_says_what_is_not_known(kind, request, screen, run, tmp_path):
    write = request.getfixturevalue(kind)
    done = screen(write("a"), write("b"), "--replicate", write("c"))
    document = json.loads(done.stdout)
    assert done.returncode == document["exit_code"] == 0, done.stderr
    jsonschema.validate(document, SCHEMA)
    result = document["result"]
    assert result["exactness"]["verdict"] == "EXACT"
    cut = [None, None] if kind == "lm_eval" else [0, 0]
    assert [gate(document, "capability")[f"truncated_{s}"] for s in ("baseline", "treatment")] == cut
    for role in ("target", "speculative", "replicate"):
        assert (
            sum(
                e.startswith(f"{role} arm: ") and "forks, acceptance and speed" in e for e in result["events"]
            )
            == 1
        )
    assert run("report", "out", "--format", "html,md").returncode == 0
    for page in ("report.html", "report.md"):
        text = (tmp_path / "out" / page).read_text(encoding="utf-8")
        assert "token ids, draft telemetry, the acceptance rule" in text
        assert ("not known / not known" in text) == (kind == "lm_eval")


def test_harm_fails_and_its_numbers_are_recomputed(inspect, flips, screen, tmp_path):
    done = screen(inspect("a"), inspect("b", flips))
    assert done.returncode == 3, done.stderr
    assert gate(json.loads(done.stdout), "harmful_compliance")["decision"]["worse"] == 30
    out = tmp_path / "out"
    again = recounted("recompute.py", out / "ledger.sqlite", out / "result.json")
    assert again.returncode == 0, again.stderr


def test_a_template_and_an_unknown_temperature_are_told(lm_eval, screen, starter, battery, tmp_path):
    asked = {"items": starter.limit(5).items, "template": "Q: {}\nA:", "settings": {}}
    done = screen(lm_eval("a", **asked), lm_eval("b", **asked), "--battery", battery)
    assert done.returncode in (4, 5), done.stderr
    assert (
        done.stderr.count("arm: 15 of 15 answers were asked in other words than the item's prompt alone") == 2
    )
    assert "target arm: at which temperature its answers were made is not known" in done.stderr
    exactness = json.loads(done.stdout)["result"]["exactness"]
    assert exactness["verdict"] == "NOT ASSESSED"
    assert "temperature of the recorded answers is not known" in exactness["reason"]


@pytest.mark.parametrize(
    ("one", "other", "said"),
    [
        ({"config": CONFIG}, {"config": {**CONFIG, "max_tokens": 32}}, "max_tokens was 64, is 32"),
        ({"config": CONFIG}, {"config": {"max_tokens": 64}}, "temperature was 0.0, is"),
        ({"system": "Be kind."}, {"system": "Be brief."}, "asked in other words on 600 of 600 items"),
    ],
)
def test_inspect_logs_that_were_not_asked_alike_are_refused(one, other, said, inspect, screen):
    assert said in one_line(screen(inspect("a", **one), inspect("b", **other)))


def test_lm_eval_samples_that_were_not_asked_alike_are_refused(lm_eval, screen):
    warm = lm_eval("b", settings={**SETTINGS, "temperature": 0.5, "do_sample": True})
    assert "temperature was 0.0, is 0.5" in one_line(screen(lm_eval("a"), warm))
    assert "asked in other words" in one_line(screen(lm_eval("a"), lm_eval("c", template="{}!")))


def test_the_same_log_for_two_arms_is_refused(inspect, screen):
    arm = inspect("a")
    assert "one file of answers is named for two arms" in one_line(screen(arm, arm))
    pattern = arm.replace("a.eval", "*.eval")
    assert "one file of answers is named for two arms" in one_line(screen(arm, pattern))


def test_answers_that_match_no_item_are_counted(inspect, screen, tmp_path):
    battery = tmp_path / "one.csv"
    battery.write_text("prompt,axis,answers\nWhat is 2+2?,capability,4\n", encoding="utf-8")
    said = one_line(screen(inspect("a"), inspect("b"), "--battery", battery))
    assert "no item is answered by both arms" in said
