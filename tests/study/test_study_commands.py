"""`specsafe study …` in this process: what is printed, and what is refused in one line."""

from pathlib import Path

import pytest
import yaml
from made_study import document, write_battery
from typer.testing import CliRunner

from specsafe.cli.main import app
from specsafe.errors import UserError
from specsafe.study.protocol import merged

PROTOCOLS = Path(__file__).parents[2] / "protocols"


def study(*arguments):
    """Run a command -> what it printed; raises what it raised."""
    done = CliRunner().invoke(app, ["study", *map(str, arguments)])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.fixture
def made(tmp_path):
    """A protocol of recorded answers, and the file that names them."""
    write_battery(tmp_path / "battery.jsonl")
    (tmp_path / "answers.jsonl").write_text('{"prompt": "nobody asks this", "text": "x"}')
    changes = {"engines": {"ours": None, "kept": {"kind": "recorded"}}, "levels": {"engine": "kept"}}
    (tmp_path / "p.yaml").write_text(
        yaml.safe_dump(merged(document({"big": "b", "little": "l"}), changes), sort_keys=False)
    )
    (tmp_path / "arms.yaml").write_text(yaml.safe_dump({"big": {"path": str(tmp_path / "answers.jsonl")}}))
    return tmp_path


def test_the_plan_of_the_published_protocol_prints_its_counts_with_their_derivations():
    said = study("plan", PROTOCOLS / "tr144.yaml")
    planned, executed = said.split("tr144, executed")
    lines = [" ".join(line.split()) for line in planned.splitlines()]
    for line in (
        "1 4,775 = 5 models x 955 items",
        "2 2,865 = 3 pairs x 955 items",
        "3 2,865 = 3 pairs x 955 items",
        "4 7,050 = 3 pairs x 5 num_speculative_tokens x 470 items",
        "core 17,555 = 1 4,775 + 2 2,865 + 3 2,865 + 4 7,050 + 5 0",
        "seeds 25,560 = 2 seeds x 3 pairs x (955 items + 955 items + 5 num_speculative_tokens x 470 items)",
        "dtype 12,780 = 3 pairs x (955 items + 955 items + 5 num_speculative_tokens x 470 items)",
        "floor 55,895 = core 17,555 + seeds 25,560 + dtype 12,780",
        "stretch 65,765 = floor 55,895 + temperature 9,870",
    ):
        assert any(found.startswith(line) for found in lines), line
    for number in (
        "4,765",
        "2,859",
        "6,300",
        "16,783",
        "12,018",
        "4,006",
        "48,072",
        "44,066",
        "60,849",
        "64,855",
    ):
        assert f" {number} = " in executed


def test_one_variant_its_arms_and_its_gates():
    said = study("plan", PROTOCOLS / "tr144.yaml", "--variant", "executed", "--arms", "--gates")
    assert "tr144, planned" not in said
    assert "llama3.1-70b+8b strict k5 serve: 953 answers for E1" in said
    assert "130 independent items are enough up to a discordance of 0.01" in said
    with pytest.raises(UserError, match="has no variant 'other'"):
        study("plan", PROTOCOLS / "tr144.yaml", "--variant", "other")


def test_the_corrected_protocol_can_resolve_its_margin_on_every_gate():
    said = study("plan", PROTOCOLS / "tr144-corrected.yaml", "--gates")
    gates = [line for line in said.splitlines() if "independent items are" in line]
    assert len(gates) >= 4
    assert all("enough up to a discordance of 0.05" in line for line in gates)
    assert "without a match" not in said
    assert "PASS cannot be reached" not in said


def run_big(made):
    """Phase 1 of the big model -> what is said."""
    chosen = "--phases", "1", "--only", "*: big"
    return study("run", made / "p.yaml", *chosen, "--arms", made / "arms.yaml", "--out", made / "out")


def test_lock_run_status_verify_through_the_command_line(made):
    assert "locked in" in study("lock", made / "p.yaml")
    said = run_big(made)
    assert "answers of the protocol are still to be made" in said
    told = study("status", made / "out")
    assert "not running; 8 of" in told
    assert "8 given up" in told
    assert "deviation" not in told
    assert "are as written" in study("verify", made / "out")


@pytest.mark.parametrize(
    ("text", "told"), [("- 1", "maps no names"), ("{", "cannot read"), ("big: 3", "maps no names")]
)
def test_a_file_of_arms_that_is_none_is_one_line(made, text, told):
    (made / "arms.yaml").write_text(text)
    with pytest.raises(UserError, match=told):
        study("run", made / "p.yaml", "--arms", made / "arms.yaml", "--out", made / "out")
    assert not (made / "out").exists()


def test_an_export_needs_a_format(made):
    run_big(made)
    with pytest.raises(UserError, match="needs a format"):
        study("export", made / "out")
