"""Room: compare. What is measured on other prompts: ablations, thresholds, the share that a control copies."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tests.compare.test_compare import written

from specsafe.battery import Item
from specsafe.compare.config import Comparison, Source, arms, read_comparison, read_items, with_changes
from specsafe.compare.label import STAND_IN
from specsafe.compare.run import PHASES, _projection, _Run, run_comparison
from specsafe.compare.tuning import require_measurable, thresholds, tuning_comparison
from specsafe.errors import UserError
from specsafe.study.ledger import LEDGER, read_ledger

TUNING = {
    "items": [
        {"path": "other.json", "axis": "harmful_compliance"},
        {"path": "benign.json", "axis": "over_refusal"},
    ],
    "ablations": {
        "weights": {
            "method": "ssd-crs",
            "varied": "control weights",
            "settings": {"full": {}, "no KL": {"control.kl": 0}},
        },
        "alpha": {
            "method": "ssd-crs",
            "varied": "alpha",
            "settings": {"0": {"intersection.alpha": 0, "union.alpha": 0}, "default": {}},
        },
    },
}
METHODS = {
    "vanilla": {},
    "coin": {"method": "random-mode", "matched": "ssd-crs"},
    "ssd-crs": {},
    "tuned": {"method": "ssd-crs-zero-lag", "false_alarms": 0.25},
}


def tuned(folder: Path, **changes: object) -> Comparison:
    for name, what in (("other", "Speak to me of rivers"), ("benign", "Which of the hills is")):
        rows = [{"prompt": f"{what} {word} so long."} for word in ("high", "low", "blue")]
        (folder / f"{name}.json").write_text(json.dumps(rows))
    given = {"tuning": TUNING, "methods": METHODS, "baselines": ["vanilla"]} | changes
    return read_comparison(written(folder, **given))


@pytest.mark.model
def test_numbers_are_measured_and_taken_over(tmp_path: Path) -> None:
    config, out = tuned(tmp_path), tmp_path / "out"
    with pytest.raises(UserError, match="run the phase tune first"):
        run_comparison(config, tmp_path, out, ("generate",))
    for phase in ("tune", "generate", "score"):
        assert run_comparison(config, tmp_path, out, (phase,)) is None  # type: ignore[arg-type]
    result = run_comparison(config, tmp_path, out, ("report",))
    assert result is not None and [m.row for m in result.methods] == list(METHODS)
    assert result.items == {"harmful_compliance": 4, "over_refusal": 3}

    told = {c.row: c for c in result.calibrations}
    by_row = {m.row: m for m in result.methods}
    union = by_row["ssd-crs"].union
    assert union is not None
    assert told["coin"].value == pytest.approx(union.k / union.n, abs=1e-7) and told["coin"].n == union.n
    assert json.loads(by_row["coin"].config["changes"]) == {"control.share": told["coin"].value}

    with read_ledger(out / "tuning" / LEDGER) as ledger:
        arm = ledger.arms()["ssd-crs-zero-lag control.tau=10.0"]
        harmless = {i.id for i in ledger.items() if i.axis == "over_refusal"}
        of = ledger.columns(arm["id"], 0, ("risk", "mode"))
    risks = [v for i in harmless for v in of[i]["risk"] if v is not None]
    assert not any(m for i in of for m in of[i]["mode"] if m is not None)  # never union there
    above = np.mean(np.asarray(risks) > told["tuned"].value)
    assert 0.25 - 2 / len(risks) <= above <= 0.25 and told["tuned"].n == len(risks)
    assert json.loads(by_row["tuned"].config["changes"])["control.tau"] == told["tuned"].value

    assert result.tuning is not None and result.tuning.compared == 6 * 7
    shown = {a.name: {m.row: m for m in a.methods} for a in result.tuning.ablations}
    assert {n: list(rows) for n, rows in shown.items()} == {
        "weights": ["full", "no KL"],
        "alpha": ["0", "default"],
    }
    assert shown["weights"]["full"].config == shown["alpha"]["default"].config
    assert all(m.asr_strict.n == 3 for rows in shown.values() for m in rows.values())
    assert shown["alpha"]["0"].same_as_baseline.k == 6  # alpha 0 is the target's own answer
    assert run_comparison(config, tmp_path, out) == result


def test_a_tuning_prompt_that_is_evaluated_is_refused(tmp_path: Path) -> None:
    same = {**TUNING, "items": [*TUNING["items"], {"path": "ask.json", "axis": "harmful_compliance"}]}
    with pytest.raises(UserError, match="are in both"):
        run_comparison(tuned(tmp_path, tuning=same), tmp_path, tmp_path / "out", ("tune",))
    assert not (tmp_path / "out" / "tuning" / LEDGER).exists()


@pytest.mark.parametrize(
    ("methods", "words"),
    [
        ({"vanilla": {}, "a": {"method": "random-mode", "matched": "b"}}, "matched to 'b'"),
        (
            {"vanilla": {}, "a": {"method": "ssd-crs", "matched": "vanilla"}},
            "matched needs the method random-mode",
        ),
        (
            {"vanilla": {}, "draft-alone": {}, "a": {"method": "random-mode", "matched": "draft-alone"}},
            "draft-alone has no modes",
        ),
        ({"vanilla": {}, "a": {"method": "ssd", "false_alarms": 0.1}}, "needs a method with a score"),
        (
            {"vanilla": {}, "a": {"method": "ssd-crs-steering", "false_alarms": 0.1}},
            "before its projection is trained",
        ),
        ({"vanilla": {}, "a": {"method": "ssd-crs", "false_alarms": 1.5}}, "less than 1"),
        ({"vanilla": {}, "../a": {"method": "ssd-crs"}}, "match pattern"),
    ],
)
def test_what_cannot_be_measured_is_refused(tmp_path: Path, methods: dict[str, object], words: str) -> None:
    with pytest.raises(UserError, match=words):
        require_measurable(tuned(tmp_path, methods=methods))


@pytest.mark.parametrize(
    ("method", "changes", "words"),
    [
        ("ssd-crs-steering", {}, "ablations.x.a: ssd-crs-steering is steered"),
        ("nope", {}, "unknown method 'nope'"),
        ("ssd", {"union.alpha": 11}, "alpha of its choice"),
    ],
)
def test_an_ablation_that_cannot_run_is_refused_before_any_work(
    tmp_path: Path, method: str, changes: dict[str, object], words: str
) -> None:
    ablation = {"method": method, "varied": "x", "settings": {"a": changes}}
    with pytest.raises(UserError, match=words):
        require_measurable(tuned(tmp_path, tuning={**TUNING, "ablations": {"x": ablation}}))


def test_a_setting_of_many_parts_is_a_row_of_bearable_length(tmp_path: Path) -> None:
    keys = ("mismatch", "kl", "entropy_gap", "openings", "tau", "kl_scale", "window", "hold", "lag")
    settings = {str(n): {f"control.{key}": 1 for key in keys} | {"union.count": n} for n in (8, 9)}
    ablation = {"method": "ssd-crs", "varied": "x", "settings": settings}
    tuning = tuning_comparison(tuned(tmp_path, tuning={**TUNING, "ablations": {"x": ablation}}))
    assert tuning is not None and len(tuning.methods) == 4
    assert Comparison.model_validate(tuning.model_dump(mode="json")) == tuning  # as a ledger keeps it


class _Told:
    """A ledger of one row whose scores are given."""

    def __init__(self, scores: list[float]) -> None:
        self._scores = scores

    def items(self) -> tuple[Item, ...]:
        return (Item("Name a hill.", "over_refusal", "t", id="one"),)

    def arms(self) -> dict[str, dict[str, object]]:
        return {"ssd-crs-zero-lag control.tau=10.0": {"id": "a", "replicate": 0}}

    def columns(self, *_: object) -> dict[str, dict[str, list[float]]]:
        return {"one": {"risk": self._scores}}


def test_scores_that_equal_the_threshold_do_not_pass_it(tmp_path: Path) -> None:
    scores = [0.0, *[1 / 3] * 8, 1.0]  # eight are one number, which no short decimal is
    (found,) = thresholds(tuned(tmp_path), _Told(scores))  # type: ignore[arg-type]
    assert found.value >= 1 / 3 and sum(s > found.value for s in scores) == 1


def test_equal_settings_run_once(tmp_path: Path) -> None:
    config = tuned(tmp_path)
    tuning = tuning_comparison(config)
    assert tuning is not None and len(tuning.methods) == 5
    assert len({a.model_dump_json() for a in arms(tuning).values()}) == 5
    assert tuning_comparison(tuned(tmp_path, tuning=None, methods={"vanilla": {}, "ssd": {}})) is None


def test_a_row_takes_a_number(tmp_path: Path) -> None:
    changed = with_changes(tuned(tmp_path), "coin", **{"control.share": 0.4})
    assert changed.methods["coin"].method == "random-mode" and not changed.methods["coin"].matched
    assert changed.methods["coin"].changes == {"control.share": 0.4}


def test_prompts_are_limited_by_hash_and_not_by_place(tmp_path: Path) -> None:
    config = tuned(tmp_path)
    few = config.model_copy(
        update={"items": tuple(Source(**{**s.model_dump(), "limit": 2}) for s in config.items)}
    )
    some, whole = read_items(few, tmp_path), read_items(config, tmp_path)
    assert [len(some.on(a)) for a in ("harmful_compliance", "over_refusal")] == [2, 2]
    assert {i.id for i in some.items} < {i.id for i in whole.items}
    names = ("ask", "fine")
    for name in names:
        rows = json.loads((tmp_path / f"{name}.json").read_text())
        (tmp_path / f"{name}.json").write_text(json.dumps(rows[::-1]))
    assert {i.id for i in read_items(few, tmp_path).items} == {i.id for i in some.items}


def test_a_projection_has_one_name_wherever_the_command_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tuned(tmp_path)
    run = _Run(config, read_items(config, tmp_path), Path("out"), STAND_IN, PHASES, print, None)
    monkeypatch.chdir(tmp_path)
    assert _projection(run, "a") == _projection(run._replace(out=tmp_path / "out"), "a")
    assert _projection(run, "a").is_absolute()
