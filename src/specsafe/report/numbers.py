"""How numbers are written: points with a sign, rates with their counts, p-values, intervals."""

from __future__ import annotations

from specsafe.stats import PairedDifference, Proportion, Ratio, SpeedUp

MINUS = "\u2212"
GLUE = "\u00a0"  # a number is not parted from its unit, an interval not in two


def points(share: float, digits: int = 1) -> str:
    """0.014 -> +1.4: a difference in percentage points."""
    text = f"{100 * share:+.{digits}f}"
    return text.replace("-", MINUS) if float(text) else f"{0:.{digits}f}"


def interval(low: float, high: float, digits: int = 1) -> str:
    """[−0.4, +2.9], in points."""
    return f"[{points(low, digits)},{GLUE}{points(high, digits)}]"


def difference(d: PairedDifference, digits: int = 1) -> str:
    """+1.0 [−0.4, +2.9]: estimate and interval in points."""
    return f"{points(d.estimate, digits)} {interval(d.low, d.high, digits)}"


def count(number: float) -> str:
    """12, or 11.6 where a design effect made it a fraction."""
    return f"{number:.1f}".removesuffix(".0")


def thousands(number: float) -> str:
    """10,586."""
    return f"{number:,.0f}"


def percent(share: float | None) -> str:
    """48.0 %, or a dash where there is nothing to divide by."""
    return "–" if share is None else f"{100 * share:.1f}{GLUE}%"


def rate(p: Proportion) -> str:
    """96/200 = 48.0 % [40.9, 55.2]: never without its counts."""
    if p.estimate is None or p.low is None or p.high is None:
        return f"{p.k}/{p.n}"
    counts = f"{p.k}/{p.n}{GLUE}={GLUE}{percent(p.estimate)}"
    return f"{counts} [{100 * p.low:.1f},{GLUE}{100 * p.high:.1f}]"


def ratio(r: Ratio | None) -> str:
    """5,953/10,586 = 56.2 % [55.0, 57.5]: items, not tokens, are the units of the interval."""
    if r is None or r.estimate is None:
        return "–"
    counts = f"{thousands(r.k)}/{thousands(r.n)}{GLUE}={GLUE}{percent(r.estimate)}"
    if r.low is None or r.high is None:
        return counts
    return f"{counts} [{100 * max(r.low, 0):.1f},{GLUE}{100 * min(r.high, 1):.1f}]"


def quotient(r: Ratio | None, digits: int = 2) -> str:
    """1,204/2,880 = 0.42 [0.40, 0.44]: what is no share, such as passes a token."""
    if r is None or r.estimate is None:
        return "–"
    below = thousands(r.n) if r.n >= 100 else count(r.n)
    counts = f"{thousands(r.k)}/{below}{GLUE}={GLUE}{r.estimate:.{digits}f}"
    if r.low is None or r.high is None:
        return counts
    return f"{counts} [{max(r.low, 0):.{digits}f},{GLUE}{r.high:.{digits}f}]"


def speed(s: SpeedUp) -> str:
    """0.41x [0.41, 0.42]."""
    return f"{s.estimate:.2f}x" + (
        "" if s.low is None or s.high is None else f" [{s.low:.2f},{GLUE}{s.high:.2f}]"
    )


def p_value(p: float) -> str:
    """0.0034, 1, or < 0.0001."""
    return "< 0.0001" if p < 1e-4 else f"{p:.2g}"


def nats(gap: float | None, is_bound: bool = False) -> str:
    """0.12 nat, at least 4.70 nat, or unknown."""
    if gap is None:
        return "unknown"
    return f"{'at least ' if is_bound else ''}{gap:.3g}{GLUE}nat".replace("-", MINUS)


def level(confidence: float) -> str:
    """0.9 -> 90 %."""
    return f"{round(100 * confidence, 2):g}{GLUE}%"


def of_both(before: object, after: object) -> str:
    """3 / 5: target alone, then speculative arm; None is not known."""
    return " / ".join("not known" if n is None else str(n) for n in (before, after))
