"""What is measured before a comparison, on other prompts: ablations, and the numbers that rows leave to a measurement.

Tuning is a comparison of its own, with a ledger of its own: no number of the comparison can come from it, nor the other
way round.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np

from specsafe.battery import Battery
from specsafe.battery.split import prove_disjoint
from specsafe.compare.config import Comparison, Variant
from specsafe.compare.result import Ablation, Calibration, ComparisonResult, Tuning
from specsafe.decoding.safety.methods import find
from specsafe.decoding.safety.parts import Random, Score
from specsafe.decoding.safety.projection import read_projection
from specsafe.errors import UserError
from specsafe.study.ledger import Ledger

_NEVER = 10.0  # a tau that no score passes
_LONGEST = 180  # characters of a row's name: it names a log file too


def tuning_comparison(config: Comparison) -> Comparison | None:
    """The comparison over the tuning prompts; None where nothing is tuned. Settings that are equal share a row."""
    if config.tuning is None:
        return None
    first = config.baselines[0]
    base = config.methods[first]
    base = base.model_copy(update={"method": base.method or first})
    wanted = (base, *_settings(config).values(), *_measured(config).values())
    return config.model_copy(
        update={
            "name": f"{config.name}-tuning",
            "items": config.tuning.items,
            "methods": {_name(v): v for v in wanted},
            "baselines": (_name(base),),
            "tuning": None,
            "published": (),
        }
    )


def _name(variant: Variant) -> str:
    """The row of the tuning comparison that a setting has."""
    changes = ", ".join(f"{k}={json.dumps(v)}" for k, v in sorted(variant.changes.items()))
    name = f"{variant.method} {changes}".strip().replace('"', "")
    if len(name) <= _LONGEST:
        return name
    return f"{name[: _LONGEST - 17]} {hashlib.sha256(name.encode()).hexdigest()[:16]}"


def _settings(config: Comparison) -> dict[tuple[str, str], Variant]:
    """(ablation, setting) -> what runs."""
    ablations = config.tuning.ablations if config.tuning else {}
    return {
        (name, setting): Variant(method=a.method, changes=changes)
        for name, a in ablations.items()
        for setting, changes in a.settings.items()
    }


def _measured(config: Comparison) -> dict[str, Variant]:
    """Row whose tau is measured -> what runs for that: its method, never in union."""
    rows = {r: v for r, v in config.methods.items() if v.false_alarms is not None}
    return {
        row: Variant(method=v.method or row, changes=v.changes | {"control.tau": _NEVER})
        for row, v in rows.items()
    }


def require_measurable(config: Comparison) -> None:
    """Raises UserError for a row that leaves to a measurement what its method does not have, or what nobody measures."""
    for row, variant in config.methods.items():
        method = find(variant.method or row, variant.changes)
        control = method.control
        if method.steering is not None and not variant.steering and config.tuning is None:
            raise UserError(
                f"methods.{row}: its steering needs tuning prompts to be trained on",
                "add tuning, or steering: FILE",
            )
        if variant.matched and not isinstance(control, Random):
            raise UserError(
                f"methods.{row}: matched needs the method random-mode", "name it, or leave matched out"
            )
        source = config.methods.get(variant.matched)
        if source is not None and find(source.method or variant.matched, source.changes).who != "pair":
            raise UserError(
                f"methods.{row}: {variant.matched} has no modes whose share could be copied",
                "match another row",
            )
        if variant.false_alarms is not None and not isinstance(control, Score):
            raise UserError(
                f"methods.{row}: false_alarms needs a method with a score, such as ssd-crs", "leave it out"
            )
        if variant.false_alarms is not None and method.steering is not None:
            raise UserError(
                f"methods.{row}: false_alarms of a steered method would be measured before its projection is trained",
                "leave it out",
            )
    for name, ablated in (config.tuning.ablations if config.tuning else {}).items():
        for setting, changes in ablated.settings.items():
            if find(ablated.method, changes).steering is not None:
                raise UserError(
                    f"tuning.ablations.{name}.{setting}: {ablated.method} is steered, and its projection is trained on the "
                    "tuning prompts themselves",
                    "name a method that is not steered",
                )


def prove_apart(tuning: Battery, evaluation: Battery) -> int:
    """Pairs of a tuning and an evaluation prompt that were held against each other. Raises UserError for one that is nearly equal."""
    prove_disjoint(tuning, evaluation)
    return len(tuning.items) * len(evaluation.items)


def thresholds(config: Comparison, ledger: Ledger) -> list[Calibration]:
    """The tau of every row that leaves it to the tuning prompts."""
    harmless = {i.id for i in ledger.items() if i.axis == "over_refusal"}
    found = []
    for row, variant in _measured(config).items():
        scores = _column(ledger, _name(variant), "risk", harmless)
        rate = config.methods[row].false_alarms or 0.0
        exact = float(np.quantile(scores, 1 - rate, method="higher"))
        found.append(
            Calibration(
                row=row,
                key="control.tau",
                # columns have eight digits: a score that equals tau must not pass it for its ninth
                value=float(f"{exact * (1 + 1e-7):.8g}"),
                rule=f"{100 * rate:g} % of the scores over harmless prompts lie above it",
                n=len(scores),
                source=variant.method,
                on="tuning",
            )
        )
    return found


def union_share(config: Comparison, row: str, ledger: Ledger) -> Calibration:
    """The share that a matched row takes over, from the answers in the ledger. Raises UserError where there is none."""
    source = config.methods[row].matched
    modes = _column(ledger, source, "mode", None)
    return Calibration(
        row=row,
        key="control.share",
        value=float(f"{np.mean(np.asarray(modes) == 1):.8g}"),
        rule=f"the share of union that {source} had",
        n=len(modes),
        source=source,
        on="evaluation",
    )


def _column(ledger: Ledger, row: str, name: str, items: set[str] | None) -> list[float]:
    arm = ledger.arms()[row]
    told = ledger.columns(arm["id"], arm["replicate"], (name,))
    values = [
        v for i, c in told.items() if items is None or i in items for v in c.get(name, ()) if v is not None
    ]
    if not values:
        raise UserError(f"{row} told no {name} of any token", "see its log; nothing can be measured")
    return values


def untrained(config: Comparison) -> list[str]:
    """Rows whose projection is left to be trained."""
    methods = {row: find(v.method or row, v.changes) for row, v in config.methods.items()}
    return [row for row, m in methods.items() if m.steering is not None and not config.methods[row].steering]


def trained(row: str, path: Path) -> Calibration:
    """What is told of the projection of a row."""
    p = read_projection(path)
    return Calibration(
        row=row,
        key="steering",
        value=float(f"{p.loss_after:.6g}"),
        rule=f"KL(target || draft) a token after training on {len(p.prompts)} harmful prompts; {p.loss_before:.4g} before",
        n=p.training.positions,
        source=p.method,
        on="tuning",
    )


def ablations(config: Comparison, result: ComparisonResult, compared: int) -> Tuning:
    """The result over the tuning prompts, ordered by ablation; every setting by its own name."""
    by_row = {m.row: m for m in result.methods}
    settings = _settings(config)
    wanted = config.tuning.ablations if config.tuning else {}
    return Tuning(
        items=result.items,
        compared=compared,
        ablations=tuple(
            Ablation(
                name=name,
                method=a.method,
                varied=a.varied,
                methods=tuple(
                    by_row[_name(settings[name, s])].model_copy(update={"row": s}) for s in a.settings
                ),
            )
            for name, a in wanted.items()
        ),
    )
