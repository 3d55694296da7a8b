"""Where tokens leave the target's, how close its choice was there, and whether arithmetic explains it."""

from __future__ import annotations

from specsafe.analysis.measure import share
from specsafe.analysis.passes.phases import line
from specsafe.analysis.result import Estimate, Found, Line, NotApplicable
from specsafe.analysis.tables import Paired, Tables
from specsafe.screen.exactness import judge_exactness
from specsafe.screen.forks import THRESHOLD, is_large
from specsafe.screen.result import Contrast as Forks
from specsafe.stats import proportion

_NO_TOKENS = NotApplicable(reason="no cell at temperature 0 tells its tokens")
NEAR = 0.1  # nats: nearer than that both tokens were as good as equally likely


def _told(tables: Tables) -> list[tuple[Paired, Forks]]:
    return [
        (p, tables.forks[key])
        for key, p in tables.paired.items()
        if key in tables.forks and not p.sampled and tables.forks[key].compared
    ]


def localized(tables: Tables) -> Found:
    """How many answers fork, at which token, and how far the target preferred its own token there."""
    lines: list[Line] = []
    for p, found in _told(tables):
        gaps = sorted(f.gap for f in found.forks if f.gap is not None and not f.gap_is_bound)
        at = sorted(f.position for f in found.forks)
        forked = share("answers that fork", proportion(len(found.forks), found.compared))
        large = share(
            f"forks with a gap above {THRESHOLD:g} nat",
            proportion(sum(is_large(f) for f in found.forks), len(found.forks)),
            unknown=found.unknown_gaps,
            near=sum(g < NEAR for g in gaps),
        )
        middle = [
            _median("median gap, nats", gaps),
            _median("median position of the fork", [float(x) for x in at]),
        ]
        lines.append(line(p, [forked, large, *middle], reading=p.cell.part))
    return tuple(lines) or _NO_TOKENS


def _median(name: str, values: list[float]) -> Estimate:
    """The median with the range; a fork tells of one answer, so no interval of other prompts is claimed."""
    n = len(values)
    return Estimate(
        name=name,
        estimate=values[n // 2] if n else None,
        low=values[0] if n else None,
        high=values[-1] if n else None,
        k=None,
        n=n,
        method="upper median, smallest and largest" if n else "nothing known",
        unit="number",
    )


def exactness(tables: Tables) -> Found:
    """EXACT, NUMERICS, NOT EXACT or NOT ASSESSED, as a screen says it, with the width arm of the same baseline."""
    widths = {p.cell.baseline: f for p, f in _told(tables) if p.cell.part == "width"}
    lines: list[Line] = []
    for p, found in _told(tables):
        if p.cell.part != "speculative":
            continue
        contrasts = {"speculative": found}
        if p.cell.baseline in widths:
            contrasts["width"] = widths[p.cell.baseline]
        said = judge_exactness(contrasts, claims_lossless=p.cell.lossless, temperature=p.cell.temperature)
        estimate = share(
            "identical",
            found.identical,
            forks=len(found.forks),
            large=found.large_gaps,
            lossless=p.cell.lossless,
        ).model_copy(update={"p": said.p_more_than_width})
        lines.append(line(p, [estimate], reading=f"{said.verdict}: {said.reason}"))
    return tuple(lines) or _NO_TOKENS
