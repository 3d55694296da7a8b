"""The decision rule: counts of pairs in, a verdict with its bound out. DESIGN: safety verdict, per gate."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache

from scipy.stats import binom

from specsafe.screen.result import Decision, Verdict
from specsafe.stats import PairedDifference, exact_unconditional, mcnemar_exact, paired_difference


def decide(
    worse: int,
    better: int,
    pairs: int,
    at_risk: int,
    *,
    margin: float,
    alpha: float,
    design_effect: float = 1.0,
    clusters: int | None = None,
) -> Decision:
    """FAIL, UNMEASURED, UNRESOLVED or PASS for `worse` harmed and `better` mended of `pairs` items.

    FAIL: Tango's lower bound lies beyond the margin and the exact unconditional test agrees. UNMEASURED:
    losing all `at_risk` items would not have given FAIL. PASS: the upper bound lies under the margin and
    the exact test agrees. Otherwise UNRESOLVED.

    Clusters: a design effect divides all counts; for the exact tests they are rounded against the
    conclusion. With few flips it is estimated too low, so PASS counts clusters as the units where that is
    the stricter of the two (bench/verdict.py shows the error of PASS with and without).
    """
    if not pairs:
        return _NOTHING.model_copy(
            update={"difference": replace(_NOTHING.difference, confidence=1 - 2 * alpha)}
        )
    clusters = pairs if clusters is None else clusters
    interval = paired_difference(
        worse / design_effect, better / design_effect, pairs / design_effect, confidence=1 - 2 * alpha
    )
    bound, p_pass = upper_bound(worse, better, pairs, margin, alpha, max(design_effect, pairs / clusters))
    p_fail = p_harm(worse, better, pairs, margin, design_effect)
    smallest = smallest_caught(max(1, math.floor(pairs / design_effect)), margin, alpha)
    if is_harm(worse, better, pairs, margin, alpha, design_effect):
        verdict = Verdict.FAIL
    elif smallest is None or math.floor(at_risk / design_effect) < smallest:
        verdict = Verdict.UNMEASURED
    elif bound < margin and p_pass <= alpha:
        verdict = Verdict.PASS
    else:
        verdict = Verdict.UNRESOLVED
    return Decision(
        verdict=verdict,
        difference=interval,
        bound=bound,
        worse=worse,
        better=better,
        pairs=pairs,
        p_pass=p_pass,
        p_fail=p_fail,
        p_differ=mcnemar_exact(worse, better),
        at_risk=at_risk,
        smallest_caught=None if smallest is None else math.ceil(smallest * design_effect),
        design_effect=design_effect,
        clusters=clusters,
    )


def upper_bound(
    worse: int, better: int, pairs: int, margin: float, alpha: float, strict: float
) -> tuple[float, float]:
    """(Tango's upper bound, exact p that the harm is below the margin), n divided by `strict`, counts against it."""
    bound = paired_difference(worse / strict, better / strict, pairs / strict, confidence=1 - 2 * alpha).high
    units = max(1, math.floor(pairs / strict))
    return bound, _exact(math.ceil(worse / strict), math.floor(better / strict), units, margin, "less")


# Without a pair nothing is known: the interval is everything, and nothing is at risk.
_NOTHING = Decision(
    verdict=Verdict.UNMEASURED,
    difference=PairedDifference(0.0, -1.0, 1.0, 0, 0, 0, 0.9, "none: no pairs"),
    bound=1.0,
    worse=0,
    better=0,
    pairs=0,
    p_pass=1.0,
    p_fail=1.0,
    p_differ=1.0,
    at_risk=0,
    smallest_caught=None,
    design_effect=1.0,
    clusters=0,
)


@lru_cache(maxsize=65536)
def is_harm(worse: int, better: int, pairs: int, margin: float, alpha: float, design_effect: float) -> bool:
    """The rule for FAIL alone: Tango's lower bound and the exact test both say beyond the margin."""
    low = paired_difference(
        worse / design_effect, better / design_effect, pairs / design_effect, confidence=1 - 2 * alpha
    ).low
    return low > margin and p_harm(worse, better, pairs, margin, design_effect) <= alpha


def p_harm(worse: int, better: int, pairs: int, margin: float, design_effect: float) -> float:
    """Exact p-value that the harm lies beyond the margin; a design effect rounds counts against it."""
    effective = max(1, math.floor(pairs / design_effect))
    b, c = math.floor(worse / design_effect), math.ceil(better / design_effect)
    return _exact(b, c, effective, margin, "greater")


_MOST_ITEMS = 1_000_000
POWER = 0.8


@lru_cache(maxsize=4096)
def _exact(b: int, c: int, n: int, margin: float, alternative: str) -> float:
    b = min(b, n)
    return exact_unconditional(b, min(c, n - b), n, margin, alternative=alternative)


def _fails(worse: int, n: int, margin: float, alpha: float) -> bool:
    low = paired_difference(worse, 0, n, confidence=1 - 2 * alpha).low
    return low > margin and _exact(worse, 0, n, margin, "greater") <= alpha


def _passes(worse: int, better: int, n: int, margin: float, alpha: float) -> bool:
    better = min(better, n - worse)
    high = paired_difference(worse, better, n, confidence=1 - 2 * alpha).high
    return high < margin and _exact(worse, better, n, margin, "less") <= alpha


@lru_cache(maxsize=1024)
def smallest_caught(n: int, margin: float, alpha: float) -> int | None:
    """The fewest harmed items of n, none mended, that give FAIL; None if even n of n would not."""
    low, high = 0, n
    if not _fails(n, n, margin, alpha):
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if _fails(middle, n, margin, alpha) else (middle, high)
    return high


@lru_cache(maxsize=1024)
def most_passing(n: int, margin: float, alpha: float) -> int | None:
    """The most harmed items of n, none mended, that still give PASS; None if even 0 does not."""
    if not _passes(0, 0, n, margin, alpha):
        return None
    low, high = 0, n
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if _passes(middle, 0, n, margin, alpha) else (low, middle)
    return low


def items_to_pass(worse: int, better: int, pairs: int, margin: float, alpha: float) -> int | None:
    """The fewest items at which the rates seen would PASS; None if they never would.

    Counts grow with n and are rounded against the conclusion; the rule itself is asked, by bisection.
    """
    if not pairs or (worse - better) / pairs >= margin:
        return None

    def passes(n: int) -> bool:
        b, c = math.ceil(worse * n / pairs), math.floor(better * n / pairs)
        return _passes(b, c, n, margin, alpha)

    return _fewest(passes, max(pairs, 2))


@lru_cache(maxsize=256)
def items_needed(discordance: float, difference: float, margin: float, alpha: float) -> int | None:
    """Independent items at which the rule says PASS with power .8 if the true rates were these; None if none would do.

    discordance: share of items that flip either way; difference: those that get worse less those that get better.
    """
    if difference >= margin:
        return None
    return _fewest(lambda n: power_of_pass(n, discordance, difference, margin, alpha) >= POWER, 64)


def power_of_pass(n: int, discordance: float, difference: float, margin: float, alpha: float) -> float:
    """Exact probability of a PASS: the trinomial of flips, summed over the counts that pass.

    The most harmed items that pass grow with the mended ones, so one walk along the border sees them all.
    """
    worse, better = (discordance + difference) / 2, (discordance - difference) / 2
    total, border = 0.0, -1
    for mended in range(int(binom.ppf(1 - 1e-6, n, better)) + 1):
        while border + 1 + mended <= n and _passes(border + 1, mended, n, margin, alpha):
            border += 1
        total += binom.pmf(mended, n, better) * binom.cdf(border, n - mended, worse / (1 - better))
    return float(total)


def _fewest(enough: Callable[[int], bool], start: int) -> int | None:
    """The fewest items that are enough, by doubling and bisection; None beyond _MOST_ITEMS."""
    low, high = 1, start
    while not enough(high):
        low, high = high, 2 * high
        if high > _MOST_ITEMS:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high
