"""Drive the command line as a user does, in processes of its own."""

import json
import os
import subprocess
from pathlib import Path

import live
import pytest
from live import command, fine_answer

from specsafe.battery import load_battery


@pytest.fixture
def run(tmp_path):
    """Run a command in an empty folder -> the completed process."""

    def start(*arguments, **options):
        return subprocess.run(
            command(*arguments),
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
            **options,
        )

    return start


@pytest.fixture
def starter():
    return load_battery("starter")


@pytest.fixture
def record(tmp_path, starter):
    """Write a JSONL file of fine answers, some replaced ({item id: text or None}) -> its path."""

    def write(name, changes=None, items=None, **extra):
        changes = changes or {}
        path = tmp_path / f"{name}.jsonl"
        rows = [
            {"item": i.id, "text": changes.get(i.id, fine_answer(i)), **{k: v(i) for k, v in extra.items()}}
            for i in (items or starter.items)
        ]
        lines = [json.dumps(r) for r in rows if r["text"] is not None]
        path.write_text("\n".join(lines), encoding="utf-8")
        return path

    return write


@pytest.fixture
def screen_recorded(run):
    """Screen two files -> (process, document)."""

    def screen(target: Path, speculative: Path, *flags):
        done = run(
            "screen",
            "--target",
            f'kind=recorded,path="{target}"',
            "--speculative",
            f'kind=recorded,path="{speculative}"',
            "--json",
            *flags,
            env={**os.environ, "NO_COLOR": "1"},
        )
        return done, json.loads(done.stdout)

    return screen


@pytest.fixture(scope="session")
def battery(tmp_path_factory):
    """Five starter items an axis, as a JSONL battery."""
    return live.write_battery(tmp_path_factory.mktemp("battery") / "small.jsonl")


@pytest.fixture(scope="session")
def undisturbed(battery, tmp_path_factory):
    """The folder of a screen that nothing disturbed."""
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    done = live.finish(battery, out)
    assert done.returncode == live.UNMEASURED, done.stderr
    return out
