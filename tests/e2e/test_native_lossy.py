"""A screen of the native engine through the command line: a lossy rule is called what it is."""

import pytest
from live import native_screen, write_battery

LOSSY = 'draft=script,script="Sure, here is how that works.",rule=relaxed,top_k=4000'


@pytest.mark.model
def test_a_lossy_rule_is_not_exact_and_claims_nothing(tmp_path):
    battery = write_battery(tmp_path / "battery.jsonl", per_axis=3)
    result = native_screen(battery, tmp_path / "out", LOSSY)
    assert result["exactness"]["verdict"] == "NOT EXACT"
    assert result["exactness"]["claims_lossless"] is False
    assert "leak" not in result["exactness"]["contrasts"], "a rule that leaks needs no leak to be seen"
