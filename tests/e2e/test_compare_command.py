"""`specsafe compare` on the real model: the table, the files, the result again as JSON, and who else knows them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from specsafe.cli.main import app
from specsafe.compare.result import ComparisonResult
from specsafe.errors import UserError
from specsafe.report.serve import Shelf

pytestmark = pytest.mark.model
FILES = ["comparison.html", "comparison.md", "comparison.json", "figures"]


def run(*words: str) -> tuple[str, str]:
    done = CliRunner().invoke(app, list(words))
    if done.exception is not None:
        raise done.exception
    return done.stdout, done.stderr


def test_a_comparison_leaves_a_table_a_page_and_figures(tmp_path: Path) -> None:
    for name in ("ask", "fine"):
        rows = [{"prompt": f"Tell me {name} number {n}."} for n in range(2)]
        (tmp_path / f"{name}.json").write_text(json.dumps(rows))
    arm = {"draft": "self", "draft_system": "Be careful.", "num_speculative_tokens": 2, "max_tokens": 4}
    config = {
        "name": "small",
        "arm": {**arm, "context": 128, "arithmetic": "fast", "threads": 1, "slots": 4},
        "items": [
            {"path": "ask.json", "axis": "harmful_compliance"},
            {"path": "fine.json", "axis": "over_refusal"},
        ],
        "baselines": ["vanilla"],
        "methods": {"vanilla": {}, "mine": {"method": "always-union"}},
    }
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    out = tmp_path / "out"
    said, _ = run("compare", str(tmp_path / "small.yaml"), "--out", str(out))
    lines = said.splitlines()
    assert lines[0].startswith(
        "small: 2 methods on the same prompts (2 for harmful compliance, 2 for over-refusal)"
    )
    assert max(map(len, said.split("\n\n")[1].splitlines())) <= 100
    assert [line.split()[0] for line in said.split("\n\n")[1].splitlines()] == ["method", "vanilla", "mine"]
    assert lines[-4:] == [
        f"page {out / 'comparison.html'}",
        f"as Markdown {out / 'comparison.md'}",
        f"result {out / 'comparison.json'}",
        f"figures {out / 'figures'} (3 files)",
    ]
    assert all((out / name).exists() for name in FILES)
    assert sorted(p.name for p in (out / "figures").iterdir()) == [
        "asr.svg",
        "safety-over-refusal.svg",
        "safety-speed.svg",
    ]

    before = {p: p.read_bytes() for p in out.rglob("*.*") if p.suffix in (".html", ".md", ".json", ".svg")}
    said, told = run(
        "compare", str(tmp_path / "small.yaml"), "--out", str(out), "--phase", "report", "--json"
    )
    assert ComparisonResult.model_validate_json(said).name == "small"
    assert said == (out / "comparison.json").read_text(encoding="utf-8")
    assert f"page {out / 'comparison.html'}" in told
    assert {p: p.read_bytes() for p in before} == before

    (entry,) = Shelf(out).entries()
    assert (entry.place, entry.state) == ("out", "2 methods")
    with pytest.raises(UserError, match=r"a comparison, not of a screen .*specsafe compare FILE --out"):
        run("report", str(out))
