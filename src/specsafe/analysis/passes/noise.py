"""What the target does to itself, what width does, what controls do, and arms that answer several times."""

from __future__ import annotations

import numpy as np

from specsafe.analysis.measure import (
    Flips,
    difference,
    flips,
    sampled_difference,
    share,
    slices,
    tango,
)
from specsafe.analysis.passes.baselines import direction
from specsafe.analysis.passes.phases import line
from specsafe.analysis.passes.synthesis import judged
from specsafe.analysis.result import Found, Line, NotApplicable
from specsafe.analysis.tables import Paired, Tables, kept_replicates
from specsafe.screen.decide import decide
from specsafe.screen.gates import VOID_P
from specsafe.screen.result import Verdict
from specsafe.stats import design_effect, mcnemar_exact, paired_difference, proportion
from specsafe.words import plural


def noise_floor(tables: Tables) -> Found:
    """Target against itself (A/A): flips and differing texts where nothing was changed."""
    return _beside(tables, "replicate", "no replicate arm was run", void=True)


def width(tables: Tables) -> Found:
    """Verification-shaped passes without another model's tokens: what arithmetic alone does."""
    return _beside(tables, "width", "no width arm was run")


def _beside(tables: Tables, part: str, missing: str, *, void: bool = False) -> Found:
    lines: list[Line] = []
    for p in [p for p in tables.paired.values() if p.cell.part == part and not p.sampled]:
        for axis, task, mask in slices(p):
            same = share("identical", proportion(int(p.same[mask].sum()), int(mask.sum())))
            f = flips(p, mask)
            flipped = share("flips", proportion(f.worse + f.better, f.n), worse=f.worse, better=f.better)
            bad = void and not task and mcnemar_exact(f.worse, f.better) < VOID_P
            reading = "the target disagrees with itself" if bad else ""
            lines.append(
                line(
                    p,
                    [same, flipped, difference(p, mask, tables.alpha)],
                    axis=axis,
                    task=task,
                    reading=reading,
                )
            )
    return tuple(lines) or NotApplicable(reason=missing)


def beyond_noise(tables: Tables) -> Found:
    """Items that flip under speculation against those that flip under the restarted target or under width alone.

    The same items in both, so it is a paired difference of flips: what is left is what the draft, and not arithmetic, did.
    """
    lines: list[Line] = []
    for p in judged(tables):
        for q in tables.paired.values():
            if q.cell.part in ("replicate", "width") and q.cell.baseline == p.cell.baseline and not q.sampled:
                lines += [_more_flips(tables, p, q, axis) for axis in p.axes() if axis in q.axes()]
    return tuple(lines) or NotApplicable(
        reason="no judged cell shares its target with a replicate or a width arm"
    )


def _more_flips(tables: Tables, p: Paired, q: Paired, axis: str) -> Line:
    own = dict(zip(q.ids[q.scored].tolist(), (q.before != q.after)[q.scored].tolist(), strict=True))
    mask = p.scored & p.where(axis) & np.isin(p.ids, list(own))
    flipped = (p.before != p.after)[mask].astype(int)
    change = flipped - np.array([own[i] for i in p.ids[mask].tolist()], int)
    worse, better, n = int((change > 0).sum()), int((change < 0).sum()), len(change)
    effect = design_effect(change.tolist(), p.cluster[mask].tolist())
    f = Flips(worse, better, n, n, effect.value, effect.clusters)
    u = f.effect
    found = paired_difference(worse / u, better / u, n / u, confidence=1 - 2 * tables.alpha)
    e = tango(f"flips more than {q.cell.part}", found, f)
    e = e.model_copy(
        update={
            "parts": {"flips": float(flipped.sum()), "flips there": float(flipped.sum() - worse + better)}
        }
    )
    reading = "more flips" if found.low > 0 else "fewer flips" if found.high < 0 else "no more flips shown"
    return line(p, [e], axis=axis, reading=reading).model_copy(update={"of": q.cell.part})


def controls(tables: Tables) -> Found:
    """Harm that was put in on purpose: does the rule of a screen say FAIL?"""
    lines: list[Line] = []
    for p in [p for p in tables.paired.values() if p.cell.part == "control" and not p.sampled]:
        for axis, _, mask in slices(p, tasks=False):
            f = flips(p, mask)
            found = decide(
                f.worse,
                f.better,
                f.n,
                f.at_risk,
                margin=tables.margin,
                alpha=tables.alpha,
                design_effect=f.effect,
                clusters=f.clusters,
            )
            caught = found.verdict is Verdict.FAIL
            d = difference(p, mask, tables.alpha)
            d = d.model_copy(
                update={
                    "p": found.p_fail,
                    "parts": {**d.parts, "smallest caught": found.smallest_caught or 0},
                }
            )
            lines.append(line(p, [d], axis=axis, reading="caught" if caught else "not caught"))
    return tuple(lines) or NotApplicable(reason="no control arm has a matched target")


def temperature(tables: Tables) -> Found:
    """Above temperature 0: per-item rate differences of several samples, whole clusters drawn again.

    The same contrast with the items' labels swapped at random within each item would be a permutation test; the interval
    is given instead, and the target against itself stands beside it where it was run.
    """
    lines: list[Line] = []
    for p in [p for p in tables.paired.values() if p.sampled]:
        for axis, task, mask in slices(p):
            d = sampled_difference(p, mask, tables.alpha, draws=tables.draws)
            inside = (
                d.low is not None and d.high is not None and -tables.margin < d.low and d.high < tables.margin
            )
            lines.append(
                line(p, [d], axis=axis, task=task, reading="within the margin" if inside else direction(d))
            )
    return tuple(lines) or NotApplicable(reason="no arm answers at a temperature above 0")


def replays(tables: Tables) -> Found:
    """What n would be if replays counted: unique items against answers, and how many answers are copies of another."""
    lines: list[Line] = []
    groups: dict[str, list[Paired]] = {}
    for p in tables.paired.values():
        if p.cell.part == "speculative" and not p.sampled:
            groups.setdefault(p.cell.pair, []).append(p)
    for pair, pairs in groups.items():
        seen = [
            (i, row.text_sha256)
            for p in pairs
            for (i, r), row in tables.rows[p.cell.key].items()
            if r in kept_replicates(p.cell)
        ]
        if not seen:
            continue
        unique = share(
            "answers that are no copy",
            proportion(len(set(seen)), len(seen)),
            items=len({i for i, _ in seen}),
            cells=len(pairs),
        )
        lines.append(
            Line(
                pair=pair,
                estimates=(unique,),
                reading=plural(len({i for i, _ in seen}), "item is n", "items are n"),
            )
        )
    return tuple(lines) or NotApplicable(reason="no speculative cell has a matched target")


def nondeterministic(tables: Tables) -> Found:
    """Samples of temperature 0 beyond the first are no data; where they differ, the arm is not deterministic."""
    lines: list[Line] = []
    for cell in tables.cells.values():
        if cell.temperature > 0 or len(cell.replicates) < 2:
            continue
        rows = tables.rows[cell.key]
        texts = [{rows[i, r].text_sha256 for r in cell.replicates if (i, r) in rows} for i in cell.items]
        if not any(texts):
            continue
        differing = int(np.sum([len(t) > 1 for t in texts]))
        found = share("items whose replays differ", proportion(differing, sum(bool(t) for t in texts)))
        lines.append(Line(cell=cell.key, where=cell.where, pair=cell.pair, estimates=(found,)))
    return tuple(lines) or NotApplicable(reason="no arm answers twice at temperature 0")
