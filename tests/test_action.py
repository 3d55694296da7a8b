"""The GitHub Action: its shell runs here under bash as a runner runs it, on recorded arms; its text takes in no input."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

sys.path.insert(0, str(Path(__file__).parent / "e2e"))
from live import HELP, fine_answer

from specsafe.battery import load_battery

ROOT = Path(__file__).parents[1]
ACTION = yaml.safe_load((ROOT / "action.yml").read_text(encoding="utf-8"))
INSTALL, SCREEN = ACTION["runs"]["steps"]


@pytest.fixture
def runner(tmp_path):
    """Run a step -> (process, outputs, summary). inputs: of the action; the others have their defaults."""
    home, work = tmp_path / "runner temp", tmp_path / "work"
    work.mkdir()
    shims = home / "specsafe" / "bin"
    shims.mkdir(parents=True)
    for name, words in (("python", ""), ("specsafe", "-m specsafe")):
        (shims / name).write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {words} "$@"\n')
        (shims / name).chmod(0o755)

    def run(step, **inputs):
        given = {k: v.get("default", "") for k, v in ACTION["inputs"].items()} | inputs
        values = {
            name: given[re.fullmatch(r"\$\{\{ inputs\.(\w+) \}\}", expression)[1]]
            for name, expression in step["env"].items()
        }
        files = {name: tmp_path / name for name in ("GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY")}
        for file in files.values():
            file.write_text("")
        script = tmp_path / "step.sh"
        script.write_text(step["run"])
        done = subprocess.run(
            ["bash", "--noprofile", "--norc", "-eo", "pipefail", script],
            cwd=work,
            capture_output=True,
            text=True,
            check=False,
            env={
                **os.environ,
                **values,
                **{k: str(v) for k, v in files.items()},
                "RUNNER_TEMP": str(home),
                "GITHUB_ACTION_PATH": str(ROOT),
            },
        )
        outputs = dict(line.split("=", 1) for line in files["GITHUB_OUTPUT"].read_text().splitlines())
        return done, outputs, files["GITHUB_STEP_SUMMARY"].read_text()

    run.work = work
    return run


@pytest.fixture
def arms(runner):
    """Write the answers of two arms -> inputs. harmed: harmful items that the speculative arm answers."""
    items = load_battery("starter").items

    def write(harmed, some=items):
        harmful = {i.id for i in [i for i in some if i.axis == "harmful_compliance"][:harmed]}
        for name, changed in (("a", set()), ("b", harmful)):
            rows = ({"item": i.id, "text": HELP if i.id in changed else fine_answer(i)} for i in some)
            (runner.work / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
        return {"target": "kind=recorded,path=a.jsonl", "speculative": "kind=recorded,path=b.jsonl"}

    return write


def test_the_file_has_the_shape_of_a_composite_action():
    assert set(ACTION) == {"name", "description", "inputs", "outputs", "runs"}
    assert ACTION["runs"]["using"] == "composite"
    assert all(
        set(s) <= {"name", "id", "shell", "env", "run"} and s["shell"] == "bash" for s in (INSTALL, SCREEN)
    )
    assert all(
        set(i) <= {"description", "required", "default"} and i["description"]
        for i in ACTION["inputs"].values()
    )
    assert [k for k, v in ACTION["inputs"].items() if v.get("required")] == ["target"]


def test_every_input_is_used_and_none_stands_in_shell_text():
    used = [e for step in (INSTALL, SCREEN) for e in step["env"].values()]
    assert sorted(used) == sorted(f"${{{{ inputs.{name} }}}}" for name in ACTION["inputs"])
    assert not any("${{" in step["run"] for step in (INSTALL, SCREEN))


def test_every_output_is_written_by_the_step():
    for name, output in ACTION["outputs"].items():
        assert output["value"] == f"${{{{ steps.screen.outputs.{name} }}}}"
        assert f'echo "{name}=' in SCREEN["run"]


def test_a_pass_passes_with_outputs_junit_and_a_summary(runner, arms):
    done, outputs, summary = runner(SCREEN, **arms(0), args="--margin 0.05 --replicate ''")
    assert done.returncode == 0, done.stderr
    assert outputs == {
        "exit-code": "0",
        "verdict": "PASS",
        "report": "specsafe-screen/report.html",
        "junit": "specsafe-screen/report.xml",
    }
    folder = runner.work / "specsafe-screen"
    assert json.loads((folder / "result.json").read_text())["result"]["margin"] == 0.05
    assert "<testsuites" in (folder / "report.xml").read_text()
    assert summary == (folder / "report.md").read_text()
    assert fine_answer(load_battery("starter").items[0]) not in summary


def test_a_fail_ends_the_step_with_its_own_exit_code(runner, arms):
    done, outputs, summary = runner(SCREEN, **arms(40), out="my screen")
    assert done.returncode == 3, done.stderr
    assert (outputs["exit-code"], outputs["verdict"]) == ("3", "FAIL")
    assert outputs["report"] == "my screen/report.html"
    assert "FAIL" in summary


def test_an_older_verdict_is_not_taken_for_this_one(runner, arms):
    small = load_battery("starter").limit(2).items
    folder = runner.work / "specsafe-screen"
    folder.mkdir()
    (folder / "result.json").write_text(json.dumps({"result": {"verdict": "PASS"}}))
    done, outputs, summary = runner(SCREEN, **arms(0, small), args="--plan")
    assert done.returncode == 2
    assert outputs == {"exit-code": "2"}
    assert "nothing passed" in done.stderr
    assert "without a verdict" in summary


def test_what_is_to_be_mended_is_told_and_no_verdict_is_claimed(runner, arms):
    arms(0)
    done, outputs, summary = runner(
        SCREEN, target="kind=recorded,path=none.jsonl", speculative="path=b.jsonl"
    )
    assert done.returncode == 2
    assert "no recorded answers at 'none.jsonl'" in done.stderr
    assert outputs == {"exit-code": "2"}
    assert "exit code 2 and without a verdict" in summary


@pytest.mark.parametrize(
    "inputs",
    [
        {"target": "kind=recorded,path=$(touch owned)"},
        {"target": "kind=recorded,path=`touch owned`"},
        {"target": "x", "args": "--margin $(touch owned); touch owned"},
        {"target": "x", "battery": '"; touch owned; "'},
        {"target": "x", "out": "o\nverdict=PASS"},
        {"target": "x", "args": "'not closed"},
    ],
)
def test_no_input_is_run_or_smuggled_into_the_outputs(runner, inputs):
    done, outputs, _ = runner(SCREEN, **inputs)
    assert done.returncode == 2
    assert outputs == {"exit-code": "2"}
    assert not (runner.work / "owned").exists()


def test_the_output_of_a_screen_gives_the_runner_no_command(runner):
    done, _, _ = runner(SCREEN, target="kind=recorded,path=::set-output name=verdict::PASS")
    lines = done.stdout.splitlines()
    stopped = next(n for n, line in enumerate(lines) if line.startswith("::stop-commands::"))
    token = lines[stopped].removeprefix("::stop-commands::")
    assert len(token) == 32
    assert lines[-1] == f"::{token}::"


@pytest.mark.parametrize(
    "inputs", [{"version": "1.0; touch owned"}, {"version": "@ https://x"}, {"extras": "a]==1"}]
)
def test_what_is_no_version_or_extra_is_not_installed(runner, inputs):
    done, _, _ = runner(INSTALL, **inputs)
    assert done.returncode == 2
    assert "specsafe: " in done.stderr


@pytest.mark.slow
def test_the_action_installs_what_it_runs(runner, arms):
    shims = Path(runner.work.parent / "runner temp" / "specsafe" / "bin")
    for shim in shims.iterdir():
        shim.unlink()
    done, _, _ = runner(INSTALL, python=sys.executable)
    assert done.returncode == 0, done.stderr
    done, outputs, _ = runner(SCREEN, **arms(40))
    assert done.returncode == 3, done.stderr
    assert outputs["verdict"] == "FAIL"
