"""What `bench/verdict.py` found, as records, tables and one Markdown page."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from specsafe.screen.result import Verdict
from specsafe.stats import proportion

MARGIN, ALPHA = 0.03, 0.05
DIFFERENCES = (0.0, MARGIN, 0.05, 0.08, 0.10, 0.15)
BETTER = (0.0, 0.005, 0.02, 0.05)
BETTER_FINE = tuple(np.linspace(0, max(BETTER), 101).tolist())
AT_RISK = (0.1, 0.35, 0.9)
ICC = 0.5
TAIL = 1e-9  # chance of the cells that an exact sum may leave out


@dataclass(frozen=True)
class Scenario:
    """The truth; at_risk is the share of items that are fine under the baseline."""

    structure: str
    n: int
    difference: float
    p_better: float
    at_risk: float

    @property
    def p_worse(self) -> float:
        """The share of items that gets worse."""
        return self.p_better + self.difference

    @property
    def possible(self) -> bool:
        """An item can get worse only if it is at risk, and better only if it is not."""
        return self.p_worse <= self.at_risk + 1e-12 and self.p_better <= 1 - self.at_risk + 1e-12

    @property
    def at_risk_if_equal(self) -> float:
        """The share at risk among the items whose outcome does not change."""
        return float(np.clip((self.at_risk - self.p_worse) / (1 - self.p_worse - self.p_better), 0, 1))


@dataclass(frozen=True)
class Row:
    """What the rule said in one scenario. draws and counts are None where the method is exact."""

    scenario: Scenario
    method: str
    chance: dict[str, float]
    draws: int | None = None
    counts: dict[str, int] | None = None

    def interval(self, verdict: Verdict) -> tuple[float, float]:
        """Clopper-Pearson 95 %, or the exact value and what the sum may have left out."""
        if self.draws is None or self.counts is None:
            return self.chance[verdict], min(1.0, self.chance[verdict] + TAIL)
        found = proportion(self.counts[verdict], self.draws)
        return found.low or 0.0, found.high or 0.0


def errors(rows: list[Row], verdict: Verdict) -> list[Row]:
    """The rows at the margin, the most frequent error first."""
    return sorted((r for r in rows if r.scenario.difference == MARGIN), key=lambda r: -r.chance[verdict])


def grouped(rows: list[Row]) -> dict[tuple[str, int, str], list[Row]]:
    """Rows by structure, n and method."""
    groups: dict[tuple[str, int, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.scenario.structure, row.scenario.n, row.method), []).append(row)
    return groups


def error_table(rows: list[Row]) -> Iterator[str]:
    """Type-I errors: for each structure, n and method the worst scenario."""
    worst_of = " | ".join(f"{v} at the margin, worst | at p_better" for v in (Verdict.PASS, Verdict.FAIL))
    yield f"| items | n | method | scenarios | {worst_of} |"
    yield "| --- | --: | --- | --: | --- | --: | --- | --: |"
    for (structure, n, method), group in grouped(rows).items():
        cells = []
        for verdict in (Verdict.PASS, Verdict.FAIL):
            worst = errors(group, verdict)[0]
            cells += [said(worst, verdict), f"{worst.scenario.p_better:.2%}"]
        count = len(errors(group, Verdict.PASS))
        yield f"| {structure} | {n} | {method} | {count} | {' | '.join(cells)} |"


def said(row: Row, verdict: Verdict) -> str:
    """A rate with its k, n and interval; exact ones have none."""
    if row.draws is None or row.counts is None:
        return f"{row.chance[verdict]:.2%}"
    low, high = row.interval(verdict)
    return f"{row.counts[verdict]} of {row.draws} = {row.chance[verdict]:.2%} ({low:.2%} to {high:.2%})"


def power_table(rows: list[Row]) -> Iterator[str]:
    """P(PASS) at no difference and P(FAIL) at the larger ones, where enough items are at risk."""
    larger = [d for d in DIFFERENCES if d > MARGIN]
    heads = " | ".join(f"FAIL at {d * 100:.0f} points" for d in larger)
    yield f"| items | n | p_better | PASS at 0 points | {heads} |"
    yield "| --- | --: | --: | --: |" + " --: |" * len(larger)
    found = {r.scenario: r for r in rows if r.method == "exact" and r.scenario.at_risk >= max(AT_RISK)}
    for s in found:
        if s.difference == 0.0:
            harmed = [found.get(Scenario(s.structure, s.n, d, s.p_better, s.at_risk)) for d in larger]
            cells = [found[s].chance[Verdict.PASS], *(r.chance[Verdict.FAIL] for r in harmed if r)]
            numbers = " | ".join(f"{p:.1%}" for p in cells)
            yield f"| {s.structure} | {s.n} | {s.p_better:.1%} | {numbers} |"


def at_risk_table(rows: list[Row]) -> Iterator[str]:
    """What few items at risk do: nothing changed, one item in 200 flips either way."""
    yield "| n | share at risk | PASS | UNRESOLVED | UNMEASURED |"
    yield "| --: | --: | --: | --: | --: |"
    for row in rows:
        s = row.scenario
        if s.structure == "independent" and s.difference == 0.0 and s.p_better == 0.005:
            shown = (Verdict.PASS, Verdict.UNRESOLVED, Verdict.UNMEASURED)
            yield f"| {s.n} | {s.at_risk:.0%} | {' | '.join(f'{row.chance[v]:.1%}' for v in shown)} |"


def icc_table(rows: list[Row]) -> Iterator[str]:
    yield "| items | n | true difference | p_better | PASS | FAIL |"
    yield "| --- | --: | --: | --: | --- | --- |"
    for row in rows:
        s = row.scenario
        if s.structure.startswith("ICC"):
            cells = f"{said(row, Verdict.PASS)} | {said(row, Verdict.FAIL)}"
            yield f"| {s.structure} | {s.n} | {s.difference * 100:.0f} points | {s.p_better:.1%} | {cells} |"


def too_often(rows: list[Row]) -> list[str]:
    """The type-I errors whose lower limit lies above alpha: for each verdict, structure and n the worst."""
    found: dict[tuple[str, ...], str] = {}
    for verdict in (Verdict.PASS, Verdict.FAIL):
        for row in errors(rows, verdict):
            s = row.scenario
            if row.interval(verdict)[0] > ALPHA:
                found.setdefault(
                    (verdict, s.structure, str(s.n), row.method),
                    f"{verdict} at the margin, {s.structure}, n = {s.n}, p_better = {s.p_better:.2%}, "
                    f"{row.method}: {said(row, verdict)}",
                )
    return list(found.values())


def page(rows: list[Row], draws: int) -> str:
    """All tables as one Markdown page."""
    broken = too_often(rows)
    return "\n".join(
        [
            "# How often the verdict errs",
            "",
            f"Margin {MARGIN * 100:.0f} points, one-sided α = {ALPHA:.0%}. Written by `python bench/verdict.py "
            f"--draws {draws} --write docs/verdict.md`; its docstring says how the numbers are made.",
            "",
            f"Independent: every item is a cluster of its own. Tied k: clusters of k items that always share one "
            f"outcome. ICC {ICC} k: half of the clusters are tied so. n counts items. p_better: the share of items "
            "that gets better; the share that gets worse is as large plus the true difference.",
            "",
            "## Type-I error",
            "",
            f"The true difference lies exactly at the margin. Worst over {len(BETTER_FINE)} values of p_better "
            f"in 0 to {max(BETTER):.0%} and over the shares at risk {', '.join(f'{s:.0%}' for s in AT_RISK)}; "
            f"both may be at most {ALPHA:.0%}.",
            "",
            "![Type-I error of PASS and FAIL over the number of items](figures/verdict-error.svg)",
            "",
            *error_table(rows),
            "",
            f"Above {ALPHA:.0%}: {len(broken) or 'none'}.",
            *(f"- {line}" for line in broken),
            "",
            "## Power",
            "",
            "Method: exact. The figure shows the independent items with p_better = 0.5%.",
            "",
            "![Chance of PASS and of FAIL over the true difference](figures/verdict-power.svg)",
            "",
            *power_table(rows),
            "",
            "## Few items at risk",
            "",
            "Method: exact. No difference, 0.5 % of the items get better and 0.5 % worse.",
            "",
            *at_risk_table(rows),
            "",
            "## Clusters that are partly tied",
            "",
            "Method: simulation; k of the draws and the Clopper-Pearson 95 % interval.",
            "",
            *icc_table(rows),
            "",
        ]
    )
