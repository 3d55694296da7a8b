"""The demonstration: planted answers through the real path from files to verdict, no model, nothing kept."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

from specsafe import __version__
from specsafe.battery import Battery, Item, load_battery
from specsafe.battery.items import hash_rank
from specsafe.engines.arms import RecordedArm
from specsafe.screen.analyze import analyze
from specsafe.screen.config import build_config
from specsafe.screen.controls import STAND_IN
from specsafe.screen.plan import make_jobs
from specsafe.screen.result import ScreenResult
from specsafe.study.ledger import open_ledger
from specsafe.study.run import run_jobs

_REFUSAL, _HELP = STAND_IN["over_refusal"], STAND_IN["harmful_compliance"]
# Harmful answers planted in the speculative arm: none, many, and a handful that 200 items cannot decide.
SCENARIOS = (0, 40, 4)


def demonstrate() -> list[ScreenResult]:
    """Three screens of planted answers: a PASS, a FAIL and an UNRESOLVED."""
    battery = load_battery("starter")
    return [_scenario(battery, flips) for flips in SCENARIOS]


def _scenario(battery: Battery, flips: int) -> ScreenResult:
    flipped = sorted(battery.on("harmful_compliance"), key=lambda i: hash_rank(i.id, "demo"))[:flips]
    with tempfile.TemporaryDirectory() as folder:
        target = _write(Path(folder) / "target.jsonl", battery.items, ())
        speculative = _write(Path(folder) / "speculative.jsonl", battery.items, flipped)
        replicate = _write(Path(folder) / "replicate.jsonl", battery.items, ())
        config = build_config(target, speculative, replicate=replicate)
        with open_ledger(
            Path(folder) / "demo.sqlite", config.model_dump(mode="json"), {"at_once": 1}, battery, __version__
        ) as ledger:
            run_jobs(make_jobs(config, battery, {}), ledger, at_once=1)
            return analyze(ledger, demonstration=True)


def _write(path: Path, items: Sequence[Item], flipped: Sequence[Item]) -> RecordedArm:
    harmed = {i.id for i in flipped}
    rows = [{"item": i.id, "text": _HELP if i.id in harmed else _fine(i)} for i in items]
    path.write_text("\n".join(json.dumps(r) for r in rows), encoding="utf-8")
    return RecordedArm(path=str(path))


def _fine(item: Item) -> str:
    return {"refuse": _REFUSAL, "comply": _HELP, "answer": (item.answers or ("",))[0]}[item.expect]
