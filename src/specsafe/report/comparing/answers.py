"""What the methods answered and what that cost: every number with its counts, a row a method."""

from __future__ import annotations

from collections.abc import Callable

from specsafe.compare.result import ComparisonResult, MethodResult
from specsafe.report.blocks import Para, Row, Section, Table
from specsafe.report.comparing.figures import against_refusal, against_speed, success
from specsafe.report.comparing.words import labelled, named, per_second
from specsafe.report.numbers import GLUE, count, percent, quotient, rate, ratio

Column = tuple[str, Callable[[MethodResult], str]]


def answered(result: ComparisonResult) -> Section:
    """Harm, refusal, and what the labels could not use."""
    return Section(
        "answers",
        "What was answered",
        (
            Para(labelled(result), "warning" if result.stand_in else "plain"),
            success(result),
            _table(result, "Harm and refusal, with 95 % intervals (Clopper–Pearson)", _harm_columns(result)),
            _table(result, "Answers that are not what they might be", _odd(result)),
        ),
    )


def traded(result: ComparisonResult) -> Section:
    """Safety against helpfulness."""
    return Section(
        "trade",
        "Safety against over-refusal",
        (
            Para(
                "A method that refuses everything is safe and of no use; the gain that counts is down and to the left."
            ),
            against_refusal(result),
        ),
    )


def costs(result: ComparisonResult) -> Section:
    """Speed, passes of the target, acceptance, and who speaks."""
    figure = against_speed(result)
    first = named(result.baselines[0])
    return Section(
        "cost",
        "What it costs, and who speaks",
        (
            *([figure] if figure is not None else []),
            _table(
                result,
                "Speed; intervals take answers, not tokens, as the units",
                (
                    ("tokens / s", lambda m: quotient(m.tokens_a_second, 1)),
                    ("ATGR", lambda m: "–" if m.atgr is None else f"{m.atgr:.2f}"),
                    ("target passes a token", lambda m: quotient(m.forwards)),
                    ("accepted of drafted", lambda m: ratio(m.acceptance)),
                ),
            ),
            Para(f"ATGR: seconds a token over those of {first}. {per_second()}", "note"),
            _table(
                result,
                "Who speaks",
                (
                    ("tokens under union", lambda m: ratio(m.union)),
                    ("modes differ", lambda m: ratio(m.modes_differ)),
                    (f"same answer as {first}", lambda m: rate(m.same_as_baseline)),
                ),
            ),
            Para("A dash: the method has no controller, or nothing was drafted.", "note"),
        ),
    )


def _harm_columns(result: ComparisonResult) -> tuple[Column, ...]:
    """What is told of harm and refusal; controversial only where a guard, or a count, says so."""
    guard = not result.stand_in or any(m.controversial.k for m in result.methods)
    return (
        ("ASR strict", lambda m: rate(m.asr_strict)),
        ("ASR lenient", lenient),
        *((("controversial", lambda m: rate(m.controversial)),) if guard else ()),
        ("refused", lambda m: rate(m.refusal)),
        ("over-refused", lambda m: rate(m.over_refusal)),
    )


def lenient(m: MethodResult) -> str:
    """34.5/70 = 49.3 %: half answers are a sum, not a count."""
    n = m.asr_strict.n
    return f"{count(m.asr_lenient * n)}/{n}{GLUE}={GLUE}{percent(m.asr_lenient)}"


def _odd(result: ComparisonResult) -> tuple[Column, ...]:
    guard = not result.stand_in or any(m.unlabelled.k for m in result.methods)
    return (
        ("empty or degenerate", lambda m: rate(m.unusable)),
        *((("unlabelled", lambda m: rate(m.unlabelled)),) if guard else ()),
        ("cut off", lambda m: rate(m.truncated)),
        ("words, mean", lambda m: f"{m.words:.1f}"),
        ("answered", lambda m: str(m.answered)),
        ("failed", lambda m: str(m.failed)),
    )


def _table(result: ComparisonResult, caption: str, columns: tuple[Column, ...]) -> Table:
    return Table(
        caption=caption,
        head=("method", *(name for name, _ in columns)),
        rows=tuple(
            Row(
                (named(m.row), *(told(m) for _, told in columns)),
                "strong" if m.row in result.baselines else "plain",
            )
            for m in result.methods
        ),
    )
