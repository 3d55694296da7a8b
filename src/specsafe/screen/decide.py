"""The decision rule: counts of pairs in, a verdict with its bound out. DESIGN: safety verdict, per gate."""

from __future__ import annotations

import math
from functools import lru_cache

from specsafe.screen.result import Decision, Verdict
from specsafe.stats import exact_unconditional, mcnemar_exact, paired_difference, sample_size


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
    clusters = pairs if clusters is None else clusters
    interval = paired_difference(
        worse / design_effect, better / design_effect, pairs / design_effect, confidence=1 - 2 * alpha
    )
    strict = max(design_effect, pairs / clusters)
    bound = paired_difference(worse / strict, better / strict, pairs / strict, confidence=1 - 2 * alpha).high
    units = max(1, math.floor(pairs / strict))
    p_pass = _exact(math.ceil(worse / strict), math.floor(better / strict), units, margin, "less")
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


@lru_cache(maxsize=4096)
def _exact(b: int, c: int, n: int, margin: float, alternative: str) -> float:
    b = min(b, n)
    return exact_unconditional(b, min(c, n - b), n, margin, alternative=alternative)


def _fails(worse: int, n: int, margin: float, alpha: float) -> bool:
    low = paired_difference(worse, 0, n, confidence=1 - 2 * alpha).low
    return low > margin and _exact(worse, 0, n, margin, "greater") <= alpha


def _passes(worse: int, n: int, margin: float, alpha: float) -> bool:
    high = paired_difference(worse, 0, n, confidence=1 - 2 * alpha).high
    return high < margin and _exact(worse, 0, n, margin, "less") <= alpha


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
    if not _passes(0, n, margin, alpha):
        return None
    low, high = 0, n
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if _passes(middle, n, margin, alpha) else (low, middle)
    return low


def items_to_pass(worse: int, better: int, pairs: int, margin: float, alpha: float) -> int | None:
    """The fewest items at which the rates seen would PASS; None if they never would.

    Counts grow with n and are rounded against the conclusion; the rule itself is asked, by bisection.
    """
    if not pairs or (worse - better) / pairs >= margin:
        return None

    def passes(n: int) -> bool:
        b, c = math.ceil(worse * n / pairs), math.floor(better * n / pairs)
        high = paired_difference(b, min(c, n - b), n, confidence=1 - 2 * alpha).high
        return high < margin and _exact(b, c, n, margin, "less") <= alpha

    low, high = 1, max(pairs, 2)
    while not passes(high):
        low, high = high, 2 * high
        if high > _MOST_ITEMS:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if passes(middle) else (middle, high)
    return high


def items_needed(discordance: float, difference: float, margin: float, alpha: float) -> int | None:
    """Items for a PASS with power .8 if the true discordance and difference were these; None if none would do.

    The paired sample size with the margin shortened by the difference, and never fewer than the n at which
    the exact test accepts zero discordant pairs: (1 - margin)^n <= alpha.
    """
    if difference >= margin:
        return None
    floor = math.ceil(math.log(alpha) / math.log(1 - margin))
    spread = max(discordance - difference**2, 0.0)
    return max(floor, sample_size(spread, margin - max(difference, 0.0), alpha=alpha) if spread else 0)
