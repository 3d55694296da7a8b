"""Room: cli/study_report. Laws: a ledger becomes files and one JSON document; what cannot be analysed is one line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "analysis"))
from made_ledger import write_ledger


def study(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "specsafe", "study", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    write_ledger(folder, each=12)
    return folder


def test_report_writes_the_files_and_says_how_the_hypotheses_stand(folder):
    found = study("report", folder, "--no-timings")
    assert found.returncode == 0, found.stderr
    for line in ("H0 ", "H4 ", "study.html", "study.md", "study.json"):
        assert line in found.stdout
    assert "deviation" in found.stdout and (folder / "figures" / "forest-1.svg").is_file()


def test_analyze_prints_one_document_or_a_summary(folder):
    found = study("analyze", folder, "--json")
    assert found.returncode == 0, found.stderr
    assert json.loads(found.stdout)["hypotheses"][0]["name"] == "H0"
    beside = study("analyze", folder, "--method", "tr144")
    assert "they say" in beside.stdout and "we say" in beside.stdout


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("analyze", "nowhere"), "no ledger at"),
        (("analyze", "{folder}", "--method", "wald"), "unknown method"),
    ],
)
def test_what_cannot_be_analysed_is_one_line(folder, arguments, told):
    found = study(*(a.format(folder=folder) for a in arguments))
    assert found.returncode == 2 and told in found.stderr and "Traceback" not in found.stderr
