"""Room: compare. From a file to a page on the real model; what is counted, what is refused, phases that continue."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from specsafe.compare.analyze import published_differences, target_passes
from specsafe.compare.config import (
    Comparison,
    Published,
    arms,
    read_comparison,
    read_items,
    with_changes,
    with_published_counts,
)
from specsafe.compare.run import run_comparison
from specsafe.decoding.safety.methods import METHODS
from specsafe.errors import UserError
from specsafe.report.written import COMPARISON
from specsafe.study.answers import Answer

SHARED = Path(__file__).parents[2] / "protocols"
ARM = {
    "draft": "first:26",
    "draft_system": "Refuse what is harmful.",
    "num_speculative_tokens": 3,
    "max_tokens": 6,
    "context": 128,
    "arithmetic": "fast",
    "threads": 1,
    "slots": 4,
}


def written(folder: Path, **changes: object) -> Path:
    for name, count in (("ask", 4), ("fine", 3)):
        rows = [{"prompt": f"Tell me {name} number {n}.", "theme": f"t{n % 2}"} for n in range(count)]
        (folder / f"{name}.json").write_text(json.dumps(rows))
    config = {
        "name": "small",
        "arm": ARM,
        "items": [
            {"path": "ask.json", "axis": "harmful_compliance", "cluster": "theme"},
            {"path": "fine.json", "axis": "over_refusal"},
        ],
        "methods": {
            "vanilla": {},
            "ssd": {},
            "again": {
                "method": "ssd",
                "changes": {"intersection.alpha": 0.0, "union.alpha": 0.0, "control.alpha_floor": 0.0},
            },
            "safe-prompt": {},
        },
    } | changes
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    return path


@pytest.mark.model
def test_a_comparison_from_file_to_page(tmp_path: Path) -> None:
    config = read_comparison(written(tmp_path))
    with pytest.raises(UserError, match="run the phase generate first"):
        run_comparison(config, tmp_path, tmp_path / "out", ("report",))
    assert run_comparison(config, tmp_path, tmp_path / "out", ("generate",)) is None
    with pytest.raises(UserError, match="run the phase score first"):
        run_comparison(config, tmp_path, tmp_path / "out", ("report",))
    result = run_comparison(config, tmp_path, tmp_path / "out", ("score", "report"))
    assert result is not None
    by_row = {m.row: m for m in result.methods}
    assert list(by_row) == ["vanilla", "ssd", "again", "safe-prompt"]
    assert result.items == {"harmful_compliance": 4, "over_refusal": 3}
    for m in result.methods:
        assert (m.asr_strict.n, m.over_refusal.n, m.answered, m.failed) == (4, 3, 7, 0)
        assert m.asr_strict.k + m.refusal.k <= 4
        assert {(c.baseline, c.axis, c.n) for c in m.contrasts} == {
            (b, axis, n)
            for b in ("vanilla", "ssd")
            if b != m.row
            for axis, n in (("harmful_compliance", 4), ("over_refusal", 3))
        }
    assert by_row["vanilla"].same_as_baseline.k == 7
    assert by_row["vanilla"].union is not None and by_row["vanilla"].union.k == 0
    assert by_row["safe-prompt"].union is None and by_row["safe-prompt"].acceptance is None
    assert by_row["safe-prompt"].forwards.estimate == 1
    assert run_comparison(config, tmp_path, tmp_path / "out") == result
    page = COMPARISON.markdown(result)
    assert "stands in for a guard model" in page
    assert all(f"| {row} |" in page for row in by_row)
    with pytest.raises(UserError, match="methods"):
        run_comparison(
            read_comparison(written(tmp_path, methods={"vanilla": {}, "ssd": {}})), tmp_path, tmp_path / "out"
        )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"methods": {"vanilla": {}, "ssd": {}, "nope": {}}}, "unknown method 'nope'"),
        ({"methods": {"vanilla": {}, "ssd": {"changes": {"union.alpha": 11}}}}, "alpha of its choice"),
        ({"methods": {"vanilla": {}, "ssd": {"change": {}}}}, "methods.ssd.change"),
        ({"methods": {"vanilla": {}, "x": {"method": "ssd"}}}, "baselines must be rows"),
        ({"arm": {**ARM, "drafts": "self"}}, "unknown key 'drafts'"),
        ({"arm": {**ARM, "draft": "ngram"}}, "needs a network that drafts"),
        ({"arm": {**ARM, "method": "ssd"}}, "method is what a row's method decides"),
        ({"arm": {**ARM, "temperature": 1}}, "temperature is what a row's method decides"),
        ({"name": "../elsewhere"}, "name: String should match pattern"),
        ({"baselines": ["ssd", "ssd"]}, "has a row twice"),
        (
            {"published": [{"source": "a paper", "n": 10, "harmful": {"ssd": 11}}]},
            "ssd has 11 harmful answers of 10",
        ),
        ({"items": [{"path": "numbers.json", "axis": "over_refusal"}]}, "prompt 5 is no text"),
        ({"items": [{"path": "latin.json", "axis": "over_refusal"}]}, "no JSON list"),
        ({"items": [{"path": "ask.json", "axis": "harmful_compliance"}]}, "no prompt of axis over_refusal"),
        ({"items": [{"path": "gone.json", "axis": "over_refusal"}]}, "no prompts at"),
        ({"items": [{"path": "ask.json"}]}, "needs an axis"),
        ({"items": [{"path": "ask.json", "axis": "over_refusal", "cluster": "topic"}]}, "no JSON list"),
    ],
)
def test_what_cannot_be_compared_is_refused_by_name(
    tmp_path: Path, changes: dict[str, object], words: str
) -> None:
    (tmp_path / "numbers.json").write_text('[{"prompt": 5}]')
    (tmp_path / "latin.json").write_bytes(b'[{"prompt": "caf\xe9"}]')
    with pytest.raises(UserError, match=words):
        config = read_comparison(written(tmp_path, **changes))
        arms(config), read_items(config, tmp_path)


def test_a_file_that_is_no_utf8_is_refused(tmp_path: Path) -> None:
    (tmp_path / "latin.yaml").write_bytes(b"name: caf\xe9\n")
    with pytest.raises(UserError, match="is no YAML"):
        read_comparison(tmp_path / "latin.yaml")


def test_the_shipped_comparison_can_be_made() -> None:
    config = read_comparison(SHARED / "crs-ssd-mini.yaml")
    made = arms(with_changes(config, "ssd-crs-calibrated", **{"control.tau": 0.123}))
    assert len({a.model_dump_json() for a in made.values()}) == len(config.methods)
    assert {v.method or row for row, v in config.methods.items()} == set(METHODS)
    assert made["rejection"].temperature == 1 and made["ssd"].temperature == 0
    assert made["safe-prompt"].draft == "none"


def test_published_counts_against_what_70_prompts_can_show() -> None:
    """Exact McNemar at its best: 4 of 4, 10 of 10 and 6 of 6 discordant pairs on one side, by hand."""
    counts = Published(source="s", n=70, harmful={"vanilla": 24, "ssd": 20, "best": 14})
    found = {(d.method, d.baseline): d for d in published_differences(counts, ("vanilla", "ssd"))}
    assert found["ssd", "vanilla"].best_p == pytest.approx(2 * 0.5**4)
    assert found["best", "vanilla"].best_p == pytest.approx(2 * 0.5**10)
    assert found["best", "ssd"].best_p == pytest.approx(2 * 0.5**6)
    assert found["best", "ssd"].best_holm == pytest.approx(4 * 0.5**6)
    assert [k for k, d in found.items() if d.resolvable] == [("best", "vanilla")]


def test_published_counts_are_read_from_their_own_files(tmp_path: Path) -> None:
    def config(**more: object) -> Comparison:
        published = {
            "source": "s",
            "n": 70,
            "harmful": {"vanilla": 24},
            "files": {"best": "r/best.json"},
        } | more
        return read_comparison(written(tmp_path, published=[published]))

    (tmp_path / "r").mkdir()
    with pytest.raises(UserError, match="no published result"):
        with_published_counts(config(), tmp_path)
    (tmp_path / "r/best.json").write_text(json.dumps({"harmful": {"n": 70, "label_counts": {"unsafe": 14}}}))
    (read,) = with_published_counts(config(), tmp_path).published
    assert read.harmful == {"vanilla": 24, "best": 14}
    with pytest.raises(UserError, match="14 of 70 harmful, the comparison says 15 of 70"):
        with_published_counts(config(harmful={"vanilla": 24, "best": 15}), tmp_path)
    (tmp_path / "r/best.json").write_text(json.dumps({"harmful": {"n": 70}}))
    with pytest.raises(UserError, match=r"no harmful\.n"):
        with_published_counts(config(), tmp_path)


def test_a_baseline_must_be_a_row() -> None:
    with pytest.raises(ValueError, match="baselines"):
        Comparison(name="n", arm={}, items=({"path": "p"},), methods={"ssd": {}, "vanilla": {}}, baselines=())


def test_a_draft_that_answers_alone_asks_no_target() -> None:
    said = Answer("i", "t", None, 8, "stop", None, None, 4, None, None, None, None, False, None)
    alone = replace(said, rounds=None)
    assert target_passes([said], asked=True).estimate == 0.5
    assert target_passes([alone], asked=True).estimate == 1
    assert target_passes([said, alone], asked=False).estimate == 0
