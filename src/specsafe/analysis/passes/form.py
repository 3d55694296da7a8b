"""What an answer looks like and costs: the opening words of refusals, seconds, and what really ran."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from specsafe.analysis.measure import bootstrapped, ratio, share
from specsafe.analysis.passes.phases import line
from specsafe.analysis.passes.synthesis import judged
from specsafe.analysis.result import Estimate, Found, Line, NotApplicable
from specsafe.analysis.tables import Paired, Row, Tables
from specsafe.stats import SpeedUp, cluster_bootstrap, paired_rate_ratio, proportion, ratio_of_sums


def template_drift(tables: Tables) -> Found:
    """Do refusals begin otherwise though they still refuse? Form beside outcome.

    Openings are hashes of the first five words. The four features of both arms (share of the commonest opening, share of
    openings that occur once, entropy over its largest value, mean tokens) are shown and not scaled to a batch, so they
    mean the same in every study.
    """
    lines: list[Line] = []
    for p in judged(tables):
        found = [(i, a, b) for i, a, b in _rows(tables, p) if a.opening and b.opening]
        if len(found) < 2:
            continue
        changed = sum(a.opening != b.opening for _, a, b in found)
        features = [_features([a for _, a, _ in found]), _features([b for *_, b in found])]
        named = {
            f"{name} {who}": value
            for who, of in zip(("before", "after"), features, strict=True)
            for name, value in of.items()
        }
        estimates = [share("refusals that begin otherwise", proportion(changed, len(found)))]
        estimates[0] = estimates[0].model_copy(update={"parts": named})
        lengths = [
            (i, b.tokens - a.tokens) for i, a, b in found if a.tokens is not None and b.tokens is not None
        ]
        if lengths:
            clusters = [tables.items[i].cluster for i, _ in lengths]
            drawn = cluster_bootstrap([float(d) for _, d in lengths], clusters, draws=tables.draws)
            estimates.append(
                bootstrapped("tokens of a refusal", drawn, {}).model_copy(update={"unit": "number"})
            )
        lines.append(line(p, estimates))
    return tuple(lines) or NotApplicable(reason="fewer than two items are refused by both arms of a pair")


def _rows(tables: Tables, p: Paired) -> list[tuple[str, Row, Row]]:
    one, other = tables.rows[p.base.key], tables.rows[p.cell.key]
    first, second = p.base.replicates[0], p.cell.replicates[0]
    return [
        (i, one[i, first], other[i, second])
        for i in p.cell.items
        if (i, first) in one and (i, second) in other
    ]


def _features(rows: Sequence[Row]) -> dict[str, float]:
    counts = Counter(r.opening for r in rows)
    n, shares = len(rows), [k / len(rows) for k in counts.values()]
    entropy = -sum(s * math.log2(s) for s in shares)
    return {
        "commonest": max(shares),
        "occurring once": sum(k == 1 for k in counts.values()) / n,
        "entropy": entropy / math.log2(len(counts)) if len(counts) > 1 else 0.0,
        "tokens": float(np.mean([float(r.tokens) for r in rows if r.tokens is not None] or [0.0])),
    }


def speed(tables: Tables) -> Found:
    """Tokens a second against the target on the items that both timed, and tokens a round: safety without speed is moot."""
    lines: list[Line] = []
    for p in tables.paired.values():
        if p.cell.part != "speculative":
            continue
        timed = [(a, b) for _, a, b in _rows(tables, p) if a.seconds and b.seconds and a.tokens and b.tokens]
        found = paired_rate_ratio(_rates([b for _, b in timed]), _rates([a for a, _ in timed]))
        estimates = [_faster(found)] if found else []
        drafting = [b for _, _, b in _rows(tables, p) if b.rounds and b.accepted is not None]
        if drafting:
            length = ratio_of_sums(
                [float((b.accepted or 0) + (b.rounds or 0)) for b in drafting],
                [float(b.rounds or 0) for b in drafting],
            )
            estimates.append(ratio("tokens a round, bonus token included", length, unit="ratio"))
        if estimates:
            lines.append(line(p, estimates, reading=_pace(found)))
    return tuple(lines) or NotApplicable(
        reason="no cell was timed beside its target, and none tells its rounds"
    )


def _rates(rows: Sequence[Row]) -> tuple[list[float], list[float]]:
    return [float(r.tokens or 0) for r in rows], [float(r.seconds or 0) for r in rows]


def _faster(s: SpeedUp) -> Estimate:
    return Estimate(
        name="tokens a second over the target's",
        estimate=s.estimate,
        low=s.low,
        high=s.high,
        k=None,
        n=s.items,
        method=s.method,
        confidence=s.confidence,
        unit="ratio",
        parts={"treatment rate": s.treatment_rate, "baseline rate": s.baseline_rate},
    )


def _pace(found: SpeedUp | None) -> str:
    if found is None or found.low is None or found.high is None:
        return "not timed"
    return "faster" if found.low > 1 else "slower" if found.high < 1 else "no difference shown"


def audit(tables: Tables) -> Found:
    """What was asked of each arm against what the engine says it ran: keys that both tell, and those that differ."""
    lines: list[Line] = []
    for role in dict.fromkeys(c.arm for c in tables.cells.values() if c.arm in tables.arms):
        arm = tables.arms[role]
        if not arm.get("fingerprint"):
            told = share("as asked", proportion(0, 0))
            lines.append(Line(of=role, estimates=(told,), reading="the engine told nothing"))
            continue
        shared, differing = _compare(arm["config"], arm["fingerprint"])
        counted = share("as asked", proportion(len(shared) - len(differing), len(shared)))
        reading = f"differs: {', '.join(differing)}" if differing else "as asked"
        lines.append(Line(of=role, estimates=(counted,), reading=reading))
    return tuple(lines) or NotApplicable(reason="no arm was begun")


def _compare(asked: Mapping[str, Any], ran: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """Plain values that both name; lists and tables are told otherwise by every engine."""
    plain = (str, int, float, bool)
    shared = sorted(
        k for k in asked.keys() & ran.keys() if isinstance(asked[k], plain) and isinstance(ran[k], plain)
    )
    return shared, [k for k in shared if asked[k] != ran[k]]
