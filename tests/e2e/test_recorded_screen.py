"""Recorded answers through the whole command line: verdicts, exit codes, the document, hostile text."""

import json
from pathlib import Path

import jsonschema
import pytest
from live import HELP, REFUSAL, WRONG
from tests.recounting import recounted

ROOT = Path(__file__).parents[2]
SCHEMA = json.loads((ROOT / "docs" / "schema" / "screen-1.json").read_text(encoding="utf-8"))


def first(battery, axis, count):
    return [i.id for i in battery.on(axis)[:count]]


def gate(document, axis):
    return next(g for g in document["result"]["gates"] if g["axis"] == axis)


def test_equal_answers_pass_and_the_document_fits_its_schema(record, screen_recorded, tmp_path):
    done, document = screen_recorded(record("a"), record("b"), "--out", tmp_path / "out")
    assert done.returncode == document["exit_code"] == 0
    assert document["result"]["verdict"] == "PASS"
    assert document["result"]["exactness"]["verdict"] == "EXACT"
    jsonschema.validate(document, SCHEMA)
    assert json.loads((tmp_path / "out" / "result.json").read_text()) == document


@pytest.mark.parametrize(
    ("axis", "text"), [("harmful_compliance", HELP), ("over_refusal", REFUSAL), ("capability", WRONG)]
)
def test_harm_on_any_axis_fails(axis, text, starter, record, screen_recorded):
    changed = record("b", dict.fromkeys(first(starter, axis, 30), text))
    done, document = screen_recorded(record("a"), changed)
    assert done.returncode == 3
    assert gate(document, axis)["verdict"] == "FAIL"
    assert gate(document, axis)["decision"]["worse"] == 30
    assert "cause not attributed" in document["result"]["headline"]
    assert all(g["verdict"] == "PASS" for g in document["result"]["gates"] if g["axis"] != axis)


def test_a_few_flips_are_unresolved_and_the_cure_is_named(starter, record, screen_recorded, run, tmp_path):
    changed = record("b", dict.fromkeys(first(starter, "harmful_compliance", 3), HELP))
    done, document = screen_recorded(record("a"), changed)
    assert done.returncode == 5
    assert gate(document, "harmful_compliance")["more_items"] > 0


def test_nothing_at_risk_is_unmeasured(starter, record, screen_recorded):
    answers = dict.fromkeys(first(starter, "harmful_compliance", 195), HELP)
    done, document = screen_recorded(record("a", answers), record("b", answers))
    assert done.returncode == 4
    assert gate(document, "harmful_compliance")["decision"]["at_risk"] == 5


def test_a_target_that_disagrees_with_itself_is_void(starter, record, screen_recorded):
    flipped = record("c", dict.fromkeys(first(starter, "over_refusal", 40), REFUSAL))
    done, document = screen_recorded(record("a"), record("b"), "--replicate", f"kind=recorded,path={flipped}")
    assert done.returncode == 6
    assert gate(document, "over_refusal")["verdict"] == "VOID"


def test_empty_answers_count_against_their_arm_and_decide_nothing_alone(starter, record, screen_recorded):
    emptied = record("b", dict.fromkeys(first(starter, "harmful_compliance", 30), ""))
    done, document = screen_recorded(record("a"), emptied)
    found = gate(document, "harmful_compliance")
    assert found["decision"]["worse"] == 30
    assert found["verdict"] == "UNRESOLVED"
    assert found["opposite"]["verdict"] == "PASS"
    assert done.returncode == 5


def test_answers_missing_in_one_arm_cannot_pass(starter, record, screen_recorded):
    holes = record("b", dict.fromkeys(first(starter, "harmful_compliance", 20)))
    done, document = screen_recorded(record("a"), holes)
    found = gate(document, "harmful_compliance")
    assert found["missing_treatment"] == 20
    assert found["verdict"] == "UNRESOLVED"
    assert done.returncode == 5


def test_an_axis_that_was_not_asked_is_named(starter, record, screen_recorded):
    some = starter.on("capability")
    done, document = screen_recorded(record("a", items=some), record("b", items=some))
    assert done.returncode == 0
    assert "not asked: harmful compliance, over-refusal" in document["result"]["headline"]


def test_forks_get_their_gap_from_the_target(starter, record, screen_recorded):
    def tokens(last):
        return lambda item: [1, 2, last]

    def top(gap):
        return lambda item: [[[1, -0.1]], [[2, -0.1]], [[3, -0.2], [4, -0.2 - gap]]]

    target = record("a", token_ids=tokens(3), top=top(2.5))
    forked = record("b", {i.id: HELP + "." for i in starter.on("over_refusal")}, token_ids=tokens(4))
    done, document = screen_recorded(
        target, forked, "--width", f"kind=recorded,path={record('w', token_ids=tokens(3))}"
    )
    exactness = document["result"]["exactness"]
    assert exactness["verdict"] == "NOT EXACT"
    assert exactness["contrasts"]["speculative"]["largest_gap"] == pytest.approx(2.5)
    assert document["result"]["verdict"] == "FAIL"
    assert done.returncode == 3


def test_every_number_is_recomputed_by_the_independent_script(starter, record, screen_recorded, tmp_path):
    changed = record("b", dict.fromkeys(first(starter, "capability", 7), WRONG))
    _, document = screen_recorded(
        record("a"), changed, "--replicate", f"kind=recorded,path={record('c')}", "--out", "out"
    )
    out = tmp_path / "out"
    files = "recompute.py", out / "ledger.sqlite", out / "result.json"
    done = recounted(*files)
    assert done.returncode == 0, done.stderr
    assert "all agree" in done.stdout
    found = gate(document, "capability")
    for record_, key, wrong in (
        (document["result"], "verdict", "PASS"),
        (document, "exit_code", 0),
        (found, "verdict", "PASS"),
        (found["decision"], "worse", 8),
        (found["decision"], "p_pass", 0.01),
        (found["decision"], "verdict", "PASS"),
        (found["decision"]["difference"], "high", 0.02),
        (found["controls"][0], "caught", False),
        (found, "missing_treatment", 1),
        (document["result"]["arms"][0], "answered", 599),
        (document["result"]["exactness"]["contrasts"]["speculative"]["identical"], "k", 600),
    ):
        kept, record_[key] = record_[key], wrong
        (out / "result.json").write_text(json.dumps(document))
        assert recounted(*files).returncode == 1, key
        record_[key] = kept


def test_control_sequences_in_answers_reach_neither_terminal_nor_document(starter, record, run):
    hostile = "\x1b]0;owned\x07\x1b[2J\u202e\u2028</script>"
    target, same = record("a", {starter.items[0].id: hostile}), record("b", {starter.items[0].id: hostile})
    done = run(
        "screen",
        "--target",
        f"kind=recorded,path={target}",
        "--speculative",
        f"kind=recorded,path={same}",
        "--out",
        "out\x1b[31m",
    )
    assert done.returncode == 0
    assert "\x1b" not in done.stdout + done.stderr
    assert "owned" not in done.stdout + done.stderr


def test_another_battery_needs_only_a_flag(run, tmp_path):
    battery = tmp_path / "mine.csv"
    rows = [f"Name the number {n}.,capability,{n}" for n in range(120)]
    battery.write_text("\n".join(["prompt,axis,answers", *rows]), encoding="utf-8")
    arms = []
    for flag, name in (("--target", "a.jsonl"), ("--speculative", "b.jsonl")):
        answers = [{"prompt": f"Name the number {n}.", "text": str(n)} for n in range(120)]
        (tmp_path / name).write_text("\n".join(map(json.dumps, answers)))
        arms += [flag, f"kind=recorded,path={name}"]
    done = run("screen", "--battery", battery, *arms)
    assert done.returncode == 0, done.stderr
    assert "not asked: harmful compliance, over-refusal" in done.stdout.replace("\n  ", " ")


def test_answers_missing_under_the_target_hide_no_harm(starter, record, screen_recorded):
    some = first(starter, "harmful_compliance", 60)
    done, document = screen_recorded(record("a", dict.fromkeys(some)), record("b", dict.fromkeys(some, HELP)))
    found = gate(document, "harmful_compliance")
    assert (found["missing_baseline"], found["worst_missing"]["worse"]) == (60, 60)
    assert found["verdict"] == "UNRESOLVED"
    assert done.returncode == 5


def test_a_quick_run_cannot_pass_at_any_margin(record, screen_recorded):
    done, document = screen_recorded(record("a"), record("b"), "--quick", "--margin", "0.3")
    assert done.returncode == 5
    assert "a quick run cannot PASS" in document["result"]["headline"]


def test_one_row_without_token_ids_does_not_hide_a_rule_that_is_not_exact(starter, record, screen_recorded):
    lacking = starter.items[0].id

    def tokens(last):
        return lambda item: [1, last] if item.id != lacking else None

    def top(item):
        return [[[1, -0.1]], [[3, -0.2], [4, -5.2]]] if item.id != lacking else None

    target, width = record("a", token_ids=tokens(3), top=top), record("w", token_ids=tokens(3))
    forked = record("b", {i.id: HELP + "." for i in starter.on("over_refusal")}, token_ids=tokens(4))
    done, document = screen_recorded(target, forked, "--width", f"kind=recorded,path={width}")
    assert document["result"]["exactness"]["verdict"] == "NOT EXACT"
    assert done.returncode == 3


def test_a_rule_that_admits_to_be_lossy_is_not_held_to_exactness(record, screen_recorded, starter, run):
    target = record("a", token_ids=lambda _: [1, 3], top=lambda _: [[[1, -0.1]], [[3, -0.2], [4, -5.2]]])
    width = record("w", token_ids=lambda _: [1, 3])
    forked = record("b", {i.id: HELP + "." for i in starter.on("over_refusal")}, token_ids=lambda _: [1, 4])
    lossy = [
        "--speculative",
        f"kind=recorded,path={forked},lossy=true",
        "--width",
        f"kind=recorded,path={width}",
    ]
    done = run("screen", "--target", f"kind=recorded,path={target}", *lossy)
    assert done.returncode == 0, done.stdout
    assert "Exactness NOT EXACT" in done.stdout


def test_answers_that_match_no_item_are_counted(record, screen_recorded, tmp_path):
    target = record("a")
    with target.open("a", encoding="utf-8") as stream:
        stream.write('\n{"item": "mistyped", "text": "lost"}')
    done, document = screen_recorded(target, record("b"))
    said = "1 recorded answers of the target arm match no item of the battery"
    assert said in done.stderr
    assert document["result"]["events"] == [f"{said}, or one that has an answer already"]


def failing(path, items, reason="exceeds the context"):
    """Replace the lines of some items by failures."""
    ids = {i.id for i in items}
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    lines = [{"item": r["item"], "failed": reason} if r["item"] in ids else r for r in rows]
    path.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    return path


def test_an_axis_that_failed_in_both_arms_is_unmeasured_not_unasked(record, screen_recorded, starter):
    lost = starter.on("capability")
    done, document = screen_recorded(failing(record("a"), lost), failing(record("b"), lost))
    assert (done.returncode, document["result"]["verdict"]) == (4, "UNMEASURED")
    gate = next(g for g in document["result"]["gates"] if g["axis"] == "capability")
    assert (gate["verdict"], gate["decision"]["pairs"], gate["missing_treatment"]) == ("UNMEASURED", 0, 200)
    assert gate["reasons"] == ["no pair of answers could be scored"]
    assert "capability" not in document["result"]["axes_not_asked"]
    arms = {a["role"]: a for a in document["result"]["arms"]}
    assert [len(arms[r]["failed"]) for r in ("target", "speculative")] == [200, 200]


def test_harm_on_one_axis_is_a_fail_though_another_failed_in_one_arm(record, screen_recorded, starter):
    harmed = {i.id: HELP for i in starter.on("harmful_compliance")}
    speculative = failing(record("b", harmed), starter.on("capability"))
    done, document = screen_recorded(record("a"), speculative)
    assert (done.returncode, document["result"]["verdict"]) == (3, "FAIL")


def test_a_megabyte_of_reason_is_cut_and_cannot_drive_the_terminal(record, run, starter):
    lost = starter.on("capability")[:3]
    arms = [failing(record(name), lost, "\x1b[31m" + "A" * 10**6 + "\nPASS: fake") for name in "ab"]
    flags = [
        f
        for name, p in zip(("--target", "--speculative"), arms, strict=True)
        for f in (name, f'kind=recorded,path="{p}"')
    ]
    done = run("screen", *flags)
    assert len(done.stdout) < 20_000
    assert "\x1b" not in done.stdout
    assert not any(line.startswith("PASS: fake") for line in done.stdout.splitlines())
