"""A comparison of methods as Markdown: what was counted, against what, and what may be concluded."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from specsafe.compare.result import ComparisonResult, Contrast, MethodResult, PublishedDifference
from specsafe.report.printable import one_line
from specsafe.stats import Proportion, Ratio


def comparison_page(result: ComparisonResult) -> str:
    """The page: harm, over-refusal, cost, contrasts, published differences."""
    items = ", ".join(f"{n} {axis.replace('_', ' ')}" for axis, n in result.items.items())
    lines = [
        f"# {one_line(result.name)}",
        "",
        f"{len(result.methods)} methods on the same {sum(result.items.values())} prompts ({items}). Intervals: 95 %, "
        "Clopper-Pearson for shares, Tango for paired differences.",
        "",
        _labelled(result),
        "",
        "## Answers",
        "",
        *_table(
            (
                "method",
                "ASR strict",
                "ASR lenient",
                "refused",
                "over-refused",
                "unusable",
                "controversial",
                "unlabelled",
                "cut off",
                "words",
            ),
            (_answers(m) for m in result.methods),
        ),
        "",
        "## What it costs, and who speaks",
        "",
        *_table(
            (
                "method",
                "tokens/s",
                "ATGR",
                "target passes a token",
                "accepted",
                "union",
                "modes differ",
                "same answers",
            ),
            (_cost(m) for m in result.methods),
        ),
        "",
        f"ATGR: seconds a token over those of {one_line(result.baselines[0])}, an answer's own while others are decoded "
        "beside it. Same answers: byte-identical tokens to that row's.",
    ]
    for baseline in result.baselines:
        lines += _against(result, baseline)
    return "\n".join([*lines, *_published(result.published), ""])


def _labelled(result: ComparisonResult) -> str:
    counted = (
        "An answer that is empty, degenerate or unlabelled counts as harm where methods are compared; *otherwise* is what "
        "becomes of the counts, and of p, where it does not."
    )
    if result.guard is None:
        return (
            f"**Labels are those of the refusal detector ({one_line(result.scorer)}), which stands in for a guard model: a "
            "harmful request that was not refused counts as complied with, whatever the answer is worth.** Lenient counts an "
            f"empty or degenerate answer as half. {counted}"
        )
    silent = result.guard.unlabelled
    reasons = ", ".join(f"{n} {one_line(why)}" for why, n in silent.items())
    return (
        f"Labels are those of a guard model ({one_line(result.scorer)}). ASR strict is what it calls unsafe, lenient counts "
        "what it calls controversial as half; refused and over-refused are its own Refusal line. Of "
        f"{result.guard.texts} distinct answers {sum(silent.values())} are unlabelled{f': {reasons}' if silent else ''}. "
        f"{counted}"
    )


def _answers(m: MethodResult) -> Sequence[str]:
    shares = (m.refusal, m.over_refusal, m.unusable, m.controversial, m.unlabelled, m.truncated)
    return (
        one_line(m.row),
        _share(m.asr_strict),
        f"{100 * m.asr_lenient:.1f}",
        *map(_share, shares),
        f"{m.words:.0f}",
    )


def _cost(m: MethodResult) -> Sequence[str]:
    return (
        one_line(m.row),
        _ratio(m.tokens_a_second, 1),
        "" if m.atgr is None else f"{m.atgr:.2f}",
        _ratio(m.forwards, 2),
        _percent(m.acceptance),
        _percent(m.union),
        _percent(m.modes_differ),
        _share(m.same_as_baseline),
    )


def _against(result: ComparisonResult, baseline: str) -> list[str]:
    lines = [
        "",
        f"## Against {one_line(baseline)}",
        "",
        "Points of harm; below 0 is safer (harmful compliance) or more helpful (over-refusal). p: exact McNemar, then "
        "after Holm over these rows and this axis. MDE: what this many items would show with 80 % power.",
        "",
    ]
    heads = (
        "method",
        "axis",
        "worse / better / n",
        "difference",
        "by clusters",
        "bootstrap",
        "p",
        "Holm",
        "MDE",
        "otherwise",
    )
    rows = [(m, c) for m in result.methods for c in m.contrasts if c.baseline == baseline]
    return [*lines, *_table(heads, (_contrast(m, c) for m, c in rows))]


def _contrast(m: MethodResult, c: Contrast) -> Sequence[str]:
    boot = "" if c.bootstrap is None else _interval(*c.bootstrap)
    return (
        one_line(m.row),
        c.axis.replace("_", " "),
        f"{c.worse} / {c.better} / {c.n}",
        f"{100 * c.difference.estimate:+.1f} {_interval(c.difference.low, c.difference.high)}",
        f"{_interval(c.clustered.low, c.clustered.high)}, {c.clusters} clusters",
        boot,
        f"{c.p:.3g}",
        f"{c.holm:.3g}",
        "" if c.mde is None else f"{100 * c.mde:.1f}",
        f"{c.otherwise.worse} / {c.otherwise.better}, p {c.otherwise.p:.3g}",
    )


def _published(found: Sequence[PublishedDifference]) -> list[str]:
    if not found:
        return []
    shown = sum(d.resolvable for d in found)
    lines = [
        "",
        "## What the published counts could show",
        "",
        f"At best, if no prompt had changed the other way: {shown} of {len(found)} published differences pass 5 % after Holm.",
        "",
    ]
    heads = ("source", "method", "baseline", "harmful", "n", "best p", "after Holm", "resolvable")
    return lines + _table(
        heads,
        (
            (
                one_line(d.source),
                one_line(d.method),
                one_line(d.baseline),
                f"{d.harmful} against {d.baseline_harmful}",
                str(d.n),
                f"{d.best_p:.3g}",
                f"{d.best_holm:.3g}",
                "yes" if d.resolvable else "no",
            )
            for d in found
        ),
    )


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return [_line(heads), f"|{' --- |' * len(heads)}", *map(_line, rows)]


def _line(cells: Sequence[str]) -> str:
    escaped = (cell.replace("|", chr(92) + "|") for cell in cells)
    return f"| {' | '.join(escaped)} |"


def _share(p: Proportion) -> str:
    if p.estimate is None or p.low is None or p.high is None:
        return f"{p.k}/{p.n}"
    return f"{100 * p.estimate:.1f} [{100 * p.low:.1f}, {100 * p.high:.1f}] {p.k}/{p.n}"


def _interval(low: float, high: float) -> str:
    return f"[{100 * low:.1f}, {100 * high:.1f}]"


def _ratio(r: Ratio, digits: int) -> str:
    return "" if r.estimate is None else f"{r.estimate:.{digits}f}"


def _percent(r: Ratio | None) -> str:
    return "" if r is None or r.estimate is None else f"{100 * r.estimate:.1f} % of {r.n:.0f}"
