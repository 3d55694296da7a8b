"""How often the decision rule errs, and how often it finds what is there.

Each row takes n items whose true difference (share that gets worse minus share that gets better, in points)
is known, and asks `specsafe.screen.decide.decide` for the verdict; rows with clusters go through
`decide_pairs` on items that share clusters. Read the tables so:

- type-I error: the true difference lies exactly AT the margin (3 points), so PASS and FAIL are both errors
  there, and each may happen in at most 5 % of the screens (VOID, strata and controls are not part of this).
- power: P(PASS) where the true difference is 0, P(FAIL) where it is 5, 8, 10 or 15 points.
- UNMEASURED depends on the share of items at risk (fine under the baseline) and is counted by itself.

Methods. "exact": trinomial probabilities are summed over the cells to which the rule gives a verdict, so
there is no simulation error. The regions come from a walk along their edges (at each `better`: PASS up to
some `worse`, FAIL from some `worse` on). "simulation": k of the draws, with the Clopper-Pearson 95 %
interval; in the independent ones each drawn cell is decided by itself and must agree with the edges, which
checks that the regions have that shape. Exit 1 if the lower limit of any type-I error lies above 5 %, or if
a drawn cell and the edges disagree.

Clusters. "tied k": k items always share one outcome. "ICC 0.5 k": half of the clusters are tied so, the
items of the others are independent. n counts items.

`--write docs/verdict.md` writes the page and, beside it, figures/verdict-error.svg and
figures/verdict-power.svg, all from the same rows (verdict_page.py, verdict_figures.py).
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom

from specsafe.battery import Item
from specsafe.screen.counts import decide_pairs
from specsafe.screen.decide import decide
from specsafe.screen.pairs import Outcome, Pair
from specsafe.screen.result import Verdict
from verdict_figures import AT_RISK_SHOWN, BETTER_SHOWN, CURVE, error_figure, power_figure
from verdict_page import (
    ALPHA,
    AT_RISK,
    BETTER,
    BETTER_FINE,
    DIFFERENCES,
    ICC,
    MARGIN,
    TAIL,
    Row,
    Scenario,
    page,
    too_often,
)

SIZES = (100, 200, 500, 1000, 2000)
TIED = (2, 4)
ICC_SIZES, CHECKED_SIZES = 500, 1000  # the largest n that is simulated: beyond it minutes go by
SHOWN = (Verdict.PASS, Verdict.FAIL, Verdict.UNRESOLVED, Verdict.UNMEASURED)
FINE, BAD = Outcome(harm=False, truncated=False), Outcome(harm=True, truncated=False)

Ask = Callable[[int, int, int], Verdict]  # worse, better, at risk -> what the rule says
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Edges:
    """Regions of the rule: at `better` = b, PASS for worse <= passes[b], FAIL from fails[b] on.

    units: how many things vary independently (items, or clusters whose items are tied). needed: items at
    risk below which the rule says UNMEASURED instead of PASS or UNRESOLVED.
    """

    units: int
    passes: Ints
    fails: Ints
    needed: int

    def verdict(self, worse: int, better: int, at_risk: int) -> Verdict:
        """What the regions say of a cell."""
        if worse >= self.fails[better]:
            return Verdict.FAIL
        if at_risk < self.needed:
            return Verdict.UNMEASURED
        return Verdict.PASS if worse <= self.passes[better] else Verdict.UNRESOLVED


# --- the rule, asked cell by cell -------------------------------------------------------------------------


def independent(n: int) -> Ask:
    """The rule on items of which each is its own cluster."""
    return lambda worse, better, at_risk: (
        decide(worse, better, n, at_risk, margin=MARGIN, alpha=ALPHA).verdict
    )


def tied(items: list[Item], size: int) -> Ask:
    """The rule on clusters whose items share one outcome; worse and better count clusters."""
    rest = len(items) // size
    return lambda worse, better, _: ask_clusters(
        items, size, [(worse, size, 0), (better, 0, size), (rest - worse - better, 0, 0)]
    )


def ask_clusters(items: list[Item], size: int, clusters: Iterable[tuple[int, int, int]]) -> Verdict:
    """The rule on clusters given as (how many, worse items in each, better items in each)."""
    outcomes: list[tuple[Outcome, Outcome]] = []
    for count, worse, better in clusters:
        equal = size - worse - better
        outcomes += ([(FINE, BAD)] * worse + [(BAD, FINE)] * better + [(FINE, FINE)] * equal) * count
    pairs = [Pair(item, *both) for item, both in zip(items, outcomes, strict=True)]
    return decide_pairs(pairs, margin=MARGIN, alpha=ALPHA).verdict


def clustered_items(n: int, size: int) -> list[Item]:
    return [Item(f"item {i}", "over_refusal", "task", cluster=f"cluster {i // size}") for i in range(n)]


def find_edges(ask: Ask, units: int) -> Edges:
    """Walk along both edges from better = 0 upwards; each place begins where the last one ended."""
    passes, fails = [], []
    up, down = round(units * MARGIN / 2), round(units * MARGIN * 1.5)
    for better in range(min(units, int(binom.isf(TAIL / 10, units, max(BETTER)))) + 1):
        up, down = last_passing(ask, units, better, up), first_failing(ask, units, better, down)
        passes.append(up)
        fails.append(down)
    return Edges(units, np.array(passes), np.array(fails), needed_at_risk(ask, units))


def last_passing(ask: Ask, units: int, better: int, start: int) -> int:
    """The largest `worse` with PASS; -1 if none."""
    worse = max(start, 0)
    if ask(worse, better, units) is Verdict.PASS:
        while worse < units - better and ask(worse + 1, better, units) is Verdict.PASS:
            worse += 1
        return worse
    while worse >= 0 and ask(worse, better, units) is not Verdict.PASS:
        worse -= 1
    return worse


def first_failing(ask: Ask, units: int, better: int, start: int) -> int:
    """The smallest `worse` with FAIL; one beyond the end if none."""
    worse = min(start, units - better)
    if ask(worse, better, units) is Verdict.FAIL:
        while worse > 0 and ask(worse - 1, better, units) is Verdict.FAIL:
            worse -= 1
        return worse
    while worse <= units - better and ask(worse, better, units) is not Verdict.FAIL:
        worse += 1
    return worse


def needed_at_risk(ask: Ask, units: int) -> int:
    """The fewest items at risk that are not UNMEASURED."""
    low, high = -1, units + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if ask(0, 0, middle) is Verdict.UNMEASURED else (low, middle)
    return high


# --- exact ------------------------------------------------------------------------------------------------


def exact_row(scenario: Scenario, edges: Edges) -> Row:
    """Sum the chance of every cell (worse, better) of the trinomial, verdict by verdict."""
    units, better = edges.units, np.arange(len(edges.passes))
    worse = np.arange(units + 1)[:, None]
    cell = binom.pmf(better, units, scenario.p_better) * binom.pmf(
        worse, units - better, scenario.p_worse / (1 - scenario.p_better)
    )
    fails, passes = worse >= edges.fails, worse <= edges.passes
    equal = np.maximum(units - worse - better, 0)
    enough = binom.sf(edges.needed - worse - 1, equal, scenario.at_risk_if_equal)
    chance = {
        Verdict.PASS: np.sum(cell * (passes & ~fails) * enough),
        Verdict.FAIL: np.sum(cell * fails),
        Verdict.UNRESOLVED: np.sum(cell * (~passes & ~fails) * enough),
        Verdict.UNMEASURED: np.sum(cell * ~fails * (1 - enough)),
    }
    return Row(scenario, "exact", {str(v): float(p) for v, p in chance.items()})


def independent_rows(n: int, draws: int, rng: np.random.Generator) -> Iterator[Row]:
    """Exact rows of every scenario, finer ones at the margin and along the curves, and a check of the edges."""
    ask = independent(n)
    edges = find_edges(ask, n)
    for difference in DIFFERENCES:
        finer = BETTER_FINE if difference == MARGIN else ()
        for p_better in sorted({*BETTER, *finer}):
            for at_risk in AT_RISK:
                scenario = Scenario("independent", n, difference, p_better, at_risk)
                if scenario.possible:
                    yield exact_row(scenario, edges)
    for difference in CURVE:
        yield exact_row(Scenario("independent", n, difference, BETTER_SHOWN, AT_RISK_SHOWN), edges)
    if n <= CHECKED_SIZES:
        yield simulated_row(Scenario("independent", n, MARGIN, 0.02, 0.1), ask, edges, draws, rng)


def tied_rows(n: int, size: int) -> Iterator[Row]:
    """Exact rows; every item that does not get better is at risk."""
    edges = find_edges(tied(clustered_items(n, size), size), n // size)
    for difference in DIFFERENCES:
        finer = BETTER_FINE if difference == MARGIN else ()
        for p_better in sorted({*BETTER, *finer}):
            yield exact_row(Scenario(f"tied {size}", n, difference, p_better, 1 - p_better), edges)


# --- simulation -------------------------------------------------------------------------------------------


def simulated_row(scenario: Scenario, ask: Ask, edges: Edges, draws: int, rng: np.random.Generator) -> Row:
    """Draw (worse, better, at risk) and ask the rule for each distinct cell; it must agree with the edges.

    Of the items at risk only "enough or not" enters the rule, so a cell is asked at all or just too few.
    """
    n = scenario.n
    rest = 1 - scenario.p_worse - scenario.p_better
    drawn = rng.multinomial(n, [scenario.p_worse, scenario.p_better, rest], draws)
    enough = drawn[:, 0] + rng.binomial(drawn[:, 2], scenario.at_risk_if_equal) >= edges.needed
    cells, times = np.unique(np.column_stack([drawn[:, :2], enough]), axis=0, return_counts=True)
    counts: Counter[Verdict] = Counter()
    for (worse, better, is_enough), k in zip(cells.tolist(), times.tolist(), strict=True):
        at_risk = n if is_enough else edges.needed - 1
        said = ask(worse, better, at_risk)
        expected = edges.verdict(worse, better, at_risk)
        if said is not expected:
            sys.exit(f"n={n}, worse={worse}, better={better}: the rule says {said}, its edges {expected}")
        counts[said] += k
    return counted(scenario, counts, draws)


def icc_rows(n: int, size: int, draws: int, rng: np.random.Generator) -> Iterator[Row]:
    """Clusters of which a share ICC is tied; one request to the rule for each distinct set of clusters."""
    items = clustered_items(n, size)
    for difference, p_better in ((MARGIN, 0.0), (MARGIN, 0.005), (0.0, 0.005), (0.10, 0.005)):
        scenario = Scenario(f"ICC {ICC} {size}", n, difference, p_better, 1 - p_better)
        kinds, times = np.unique(draw_clusters(scenario, size, draws, rng), axis=0, return_counts=True)
        counts: Counter[Verdict] = Counter()
        for row, k in zip(kinds.tolist(), times.tolist(), strict=True):
            clusters = [(many, *divmod(kind, size + 1)) for kind, many in enumerate(row) if many]
            counts[ask_clusters(items, size, clusters)] += k
        yield counted(scenario, counts, draws)


def draw_clusters(scenario: Scenario, size: int, draws: int, rng: np.random.Generator) -> Ints:
    """[draws, kinds]: how many clusters are of each kind = worse * (size + 1) + better."""
    shape = (draws, scenario.n // size, size)
    uniform = rng.random(shape)
    uniform = np.where(rng.random(shape[:2])[..., None] < ICC, uniform[..., :1], uniform)
    worse = (uniform < scenario.p_worse).sum(axis=2)
    better = (uniform > 1 - scenario.p_better).sum(axis=2)
    kinds = (size + 1) ** 2
    flat = (worse * (size + 1) + better) + kinds * np.arange(draws)[:, None]
    return np.bincount(flat.ravel(), minlength=draws * kinds).reshape(draws, kinds)


def counted(scenario: Scenario, counts: Counter[Verdict], draws: int) -> Row:
    chance = {str(v): counts[v] / draws for v in SHOWN}
    return Row(scenario, "simulation", chance, draws, {str(v): counts[v] for v in SHOWN})


def simulate(draws: int, sizes: Iterable[int]) -> Iterator[Row]:
    rng = np.random.default_rng(20)
    for n in sizes:
        started = time.monotonic()
        yield from independent_rows(n, draws, rng)
        for size in TIED:
            yield from tied_rows(n, size)
        if n <= ICC_SIZES:
            yield from icc_rows(n, max(TIED), draws // 10, rng)
        print(f"n = {n}: {time.monotonic() - started:.0f} s", file=sys.stderr)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "--draws", type=int, default=20_000, help="a cell; a tenth where clusters are partly tied"
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="numbers of items")
    parser.add_argument("--json", action="store_true", help="print every row as JSON")
    parser.add_argument("--write", type=Path, help="also write this Markdown file, and the figures beside it")
    options = parser.parse_args()
    rows = list(simulate(options.draws, options.sizes))
    text = page(rows, options.draws)
    print(json.dumps([asdict(r) for r in rows], indent=1) if options.json else text)
    if options.write:
        figures = options.write.parent / "figures"
        figures.mkdir(exist_ok=True)
        options.write.write_text(text, encoding="utf-8")
        (figures / "verdict-error.svg").write_text(error_figure(rows), encoding="utf-8")
        (figures / "verdict-power.svg").write_text(power_figure(rows), encoding="utf-8")
    broken = too_often(rows)
    for line in broken:
        print(line, file=sys.stderr)
    sys.exit(bool(broken))


if __name__ == "__main__":
    main()
