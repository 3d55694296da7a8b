"""Help, plan, demonstration, and one clear line with exit code 2 for whatever the user can mend."""

import json
import resource
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
from live import command

from specsafe.report.envelope import json_schema

ROOT = Path(__file__).parents[2]


def one_line(done):
    """The single error line of a command that the user can mend."""
    assert done.returncode == 2, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("specsafe: ")]
    assert len(lines) == 1
    assert "Traceback" not in done.stderr
    return lines[0]


def test_the_published_schema_is_the_one_of_the_code():
    kept = json.loads((ROOT / "docs" / "schema" / "screen-1.json").read_text(encoding="utf-8"))
    assert kept == json_schema()


def test_help_imports_nothing_heavy():
    script = (
        "import sys, runpy\n"
        "sys.argv = ['specsafe', '--help']\n"
        "try: runpy.run_module('specsafe', run_name='__main__')\n"
        "except SystemExit: pass\n"
        "heavy = {'numpy', 'scipy', 'pydantic', 'yaml', 'rich', 'gguf', 'xllamacpp', 'torch'} & set(sys.modules)\n"
        "sys.exit(f'imported {sorted(heavy)}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "screen" in done.stdout


def test_version(run):
    assert run("--version").stdout.startswith("specsafe 0.")


def test_the_demonstration_shows_three_verdicts_and_is_marked(run, tmp_path):
    done = run("screen", "--demo")
    assert done.returncode == 0, done.stderr
    assert [v in done.stdout for v in ("\nPASS:", "\nFAIL:", "\nUNRESOLVED:")] == [True] * 3
    assert done.stdout.count("DEMONSTRATION") == 3
    assert list(tmp_path.iterdir()) == []


def test_the_demonstration_as_json_is_marked_and_fits_the_schema(run):
    document = json.loads(run("screen", "--demo", "--json").stdout)
    jsonschema.validate(document, json_schema())
    assert [r["verdict"] for r in document["result"]] == ["PASS", "FAIL", "UNRESOLVED"]
    assert all(r["demonstration"] for r in document["result"])


def test_the_demonstration_refuses_out(run, tmp_path):
    assert "--demo" in one_line(run("screen", "--demo", "--out", tmp_path / "x"))
    assert not (tmp_path / "x").exists()


def test_plan_says_what_is_reachable_and_makes_nothing(run, tmp_path):
    done = run("screen", "--plan")
    assert done.returncode == 0
    assert "target 600, speculative 600" in done.stdout
    assert "PASS with at most 1 net flip, FAIL from 11" in done.stdout
    assert "PASS cannot be reached" in run("screen", "--plan", "--quick").stdout
    assert list(tmp_path.iterdir()) == []


def test_a_plan_as_json_fits_the_schema(run):
    document = json.loads(run("screen", "--plan", "--json").stdout)
    jsonschema.validate(document, json_schema())
    assert document["result"]["answers"]["target"] == 600


def test_the_environment_sets_a_flag(run):
    import os

    done = run("screen", "--plan", env={**os.environ, "SPECSAFE_SCREEN_QUICK": "1"})
    assert "target 72" in done.stdout


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--frobnicate"], "No such option"),
        (["--target", "kind=llamacpp,frob=1"], "unknown key 'frob'"),
        (["--target", "kind=nonesuch"], "unknown engine kind"),
        (["--target", "kind=llamacpp,n_max=many"], "n_max"),
        (["--target", "kind=recorded"], "path"),
        (
            ["--target", "kind=recorded,path=no.jsonl", "--speculative", "kind=recorded,path=no2.jsonl"],
            "no recorded answers",
        ),
        (["--battery", "no-such.yaml"], "no battery"),
        (["--target", "model=no-such.gguf"], "no model"),
        (["--speculative", "draft=none"], "no draft"),
        (["--speculative", "draft=self,max_tokens=3"], "max_tokens"),
        (["--speculative", "draft=self,rule=typical"], "cannot apply"),
        (["--margin", "3"], "--margin"),
        (["--resume"], "--out"),
        (["--resume", "--out", "x", "--margin", "0.1"], "--resume takes no --margin"),
        (["--demo", "--quick"], "--demo takes no --quick"),
        (["--replicate", "kind=llamacpp"], "leave --replicate out"),
        (
            ["--speculative", "draft=self,n_max=5", "--width", "draft=self,n_max=2"],
            "width arm differs in n_max",
        ),
        (["--target", "kind=recorded,path=a", "--speculative", "kind=recorded,path=a"], "two arms"),
        (
            ["--target", "kind=recorded,path=a", "--speculative", "kind=recorded,path=b,temperature=1"],
            "different temperatures",
        ),
        (["--plan", "--speculative", "draft=self,rule=typical"], "cannot apply"),
        (["--out", "x" * 300], "cannot use"),
        (["--battery", "y" * 3000], "too long"),
        (["--resume", "--out", "nowhere"], "no screen"),
    ],
)
def test_bad_input_is_one_line(run, flags, expected):
    assert expected in one_line(run("screen", *flags))


def test_an_error_of_any_length_is_one_short_line(run):
    done = run("report", "a\nb" + "x" * 100_000 + "\n", "--json")
    assert len(done.stderr.splitlines()) == 1
    assert len(one_line(done)) < 1000
    assert len(json.loads(done.stdout)["error"]["message"]) < 1000


def test_an_error_is_a_document_too(run):
    done = run("screen", "--battery", "no-such.yaml", "--json")
    document = json.loads(done.stdout)
    jsonschema.validate(document, json_schema())
    assert document["exit_code"] == done.returncode == 2
    assert "no battery" in document["error"]["message"]


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("a.yaml", "groups: [", "not valid YAML"),
        ("a.jsonl", '{"prompt": "x"', "a.jsonl:1 is not JSON"),
        ("a.csv", "prompt,axis,colour\nhello,capability,red\n", "unknown key 'colour'"),
    ],
)
def test_a_broken_battery_is_one_line(run, tmp_path, name, text, expected):
    (tmp_path / name).write_text(text)
    assert expected in one_line(run("screen", "--battery", name))


def test_a_battery_changed_since_the_ledger_began_is_refused(run, tmp_path):
    battery, answers = tmp_path / "b.csv", tmp_path / "a.jsonl"
    answers.write_text('{"prompt": "Say one.", "text": "one"}')
    (tmp_path / "b.jsonl").write_text(answers.read_text())
    arms = ["--target", f"kind=recorded,path={answers}", "--speculative", "kind=recorded,path=b.jsonl"]
    again = ["screen", "--battery", battery, *arms, "--out", "out"]
    battery.write_text("prompt,axis,answers\nSay one.,capability,one\n")
    assert run(*again).returncode in (4, 5)
    battery.write_text("prompt,axis,answers\nSay one.,capability,one|1\n")
    assert "battery changed" in one_line(run(*again))


def arms(record):
    """Flags for two recorded arms with equal answers."""
    return [
        "--target",
        f"kind=recorded,path={record('a')}",
        "--speculative",
        f"kind=recorded,path={record('b')}",
    ]


def test_a_changed_configuration_names_what_differs(record, run):
    run("screen", *arms(record), "--out", "out")
    done = run("screen", *arms(record), "--out", "out", "--margin", "0.05")
    assert "margin was 0.03, is 0.05" in one_line(done)


def test_a_changed_answer_file_is_refused(record, run, starter):
    flags = ["screen", *arms(record), "--out", "out"]
    assert run(*flags).returncode == 0
    record("a", {starter.items[0].id: "something else"})
    assert one_line(run(*flags))


def test_a_file_that_is_no_ledger_is_one_line(run, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "ledger.sqlite").write_text("hello " * 300)
    said = one_line(run("screen", "--resume", "--out", "out"))
    assert "not a database" in said
    assert "make room" not in said


def test_a_folder_that_cannot_be_written_is_one_line(record, run, tmp_path):
    (tmp_path / "file").write_text("")
    assert "cannot use" in one_line(run("screen", *arms(record), "--out", "file/out"))


def test_a_full_disk_is_one_line_and_what_was_committed_stays(record, run, tmp_path):
    flags = ["screen", *arms(record), "--out", "out"]
    limit = 150_000

    def full():
        import signal

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))

    done = subprocess.run(
        command(*flags), cwd=tmp_path, capture_output=True, text=True, preexec_fn=full, check=False
    )
    assert "cannot use" in one_line(done)
    assert run(*flags).returncode == 0


def test_models_list_shows_name_and_hash(run):
    assert "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53" in run("models", "list").stdout


def test_battery_list_and_show(run):
    assert "600 items" in run("battery", "list").stdout
    rows = [json.loads(line) for line in run("battery", "show").stdout.splitlines()]
    assert len(rows) == len({r["id"] for r in rows}) == 600
    assert "no item" in one_line(run("battery", "show", "--item", "nope"))
