"""H0 to H4: what the passes say of each, in one word and with the numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from specsafe.analysis.measure import CAPABILITY, phase_of
from specsafe.analysis.passes.telemetry import decisive
from specsafe.analysis.result import Hypothesis, Line, PassResult, Standing
from specsafe.analysis.tables import Tables
from specsafe.stats import holm
from specsafe.study.protocol import HypothesisName
from specsafe.words import plural

TEXTS: dict[HypothesisName, str] = {
    "H0": "Speculative decoding leaves safety as it is under the target alone.",
    "H1": "Exact verification gives the target's own answers, byte for byte, at temperature 0.",
    "H2": "Lossy (typical) acceptance makes answers less safe.",
    "H3": "Drafting more tokens a round makes answers less safe.",
    "H4": "Draft tokens are accepted less often on safety items than on capability items.",
}
Passes = Mapping[str, PassResult]


def judge_hypotheses(
    passes: Passes, tables: Tables, planned: Mapping[HypothesisName, str]
) -> tuple[Hypothesis, ...]:
    """A line for each of H0 to H4. planned: those that are judged -> the words of the protocol; the others say so."""
    judges: dict[HypothesisName, Callable[[Passes, Tables], Hypothesis]] = {
        "H0": _h0,
        "H1": _h1,
        "H2": _h2,
        "H3": _h3,
        "H4": _h4,
    }
    return tuple(
        judge(passes, tables).model_copy(update={"words": planned[name]})
        if name in planned
        else _hypothesis(name, Standing.NOT_PLANNED, "the protocol does not name it", [], [])
        for name, judge in judges.items()
    )


def _hypothesis(
    name: HypothesisName,
    standing: Standing,
    reason: str,
    used: Sequence[PassResult],
    evidence: Sequence[Line],
) -> Hypothesis:
    return Hypothesis(
        name=name,
        text=TEXTS[name],
        words="",
        standing=standing,
        reason=reason,
        passes=tuple(p.number for p in used),
        evidence=tuple(evidence),
    )


def _h0(passes: Passes, tables: Tables) -> Hypothesis:
    p = passes["equivalence"]
    lines = [
        x for x in p.lines if x.axis != CAPABILITY and not x.task and phase_of(tables.cells[x.cell]) != "4"
    ]
    if not lines:
        return _hypothesis("H0", Standing.NOT_TESTABLE, "no safety axis has a matched contrast", [p], [])
    counts = {r: sum(x.reading == r for x in lines) for r in ("equivalent", "different", "not resolved")}
    told = ", ".join(f"{n} {reading}" for reading, n in counts.items() if n)
    standing = Standing.SUPPORTED if counts["equivalent"] == len(lines) else Standing.NOT_SUPPORTED
    return _hypothesis(
        "H0",
        standing,
        f"of {plural(len(lines), 'contrast')} on safety axes, margin {plural(100 * tables.margin, 'point')}: {told}",
        [p],
        lines,
    )


def _h1(passes: Passes, _: Tables) -> Hypothesis:
    p, q = passes["identity"], passes["exactness"]
    lines = [x for x in p.lines if not x.axis]
    if not lines:
        return _hypothesis("H1", Standing.NOT_TESTABLE, p.reason or "nothing in phase 2", [p, q], [])
    k, n = (int(sum(getattr(x.estimates[0], side) or 0 for x in lines)) for side in ("k", "n"))
    cells = {x.cell for x in lines}
    said = [x for x in q.lines if x.cell in cells]
    if not n:
        return _hypothesis("H1", Standing.NOT_TESTABLE, "nothing in phase 2 is answered by both", [p, q], [])
    told = f"byte-identical: {k:,} of {plural(n, 'answer')}"
    if k == n:
        return _hypothesis("H1", Standing.SUPPORTED, told, [p, q], [*lines, *said])
    words = sorted({x.reading.partition(":")[0] for x in said})
    told += f"; exactness of the cells: {', '.join(words)}" if words else "; no cell tells its tokens"
    return _hypothesis("H1", Standing.NOT_SUPPORTED, told, [p, q], [*lines, *said])


def _h2(passes: Passes, tables: Tables) -> Hypothesis:
    p = passes["mcnemar_typical"]
    lines = [x for x in p.lines if x.axis != CAPABILITY]
    if not lines:
        return _hypothesis("H2", Standing.NOT_TESTABLE, p.reason or "no safety axis in phase 3", [p], [])
    lossy = [x for x in lines if not tables.cells[x.cell].lossless]
    if not lossy:
        rules = ", ".join(sorted({tables.cells[x.cell].rule for x in lines}))
        reason = f"the rule of phase 3 ({rules}) changes nothing by construction: no lossy rule was run"
        return _hypothesis("H2", Standing.NOT_TESTABLE, reason, [p], lines)
    return _by_reading(
        "H2", p, lossy, "more harm", "less harm", "contrast on safety axes", "contrasts on safety axes"
    )


def _h3(passes: Passes, tables: Tables) -> Hypothesis:
    p = passes["dose_response"]
    lines = [x for x in p.lines if x.axis != CAPABILITY and not x.task]
    if not lines:
        return _hypothesis("H3", Standing.NOT_TESTABLE, p.reason or "no safety axis in phase 4", [p], [])
    # an item that never changes has no p: it counts as 1, so that Holm corrects for every series looked at
    known = [1.0 if x.estimates[0].p is None else x.estimates[0].p for x in lines]
    corrected = [
        x.model_copy(update={"reading": x.reading if q < tables.alpha else "no trend shown"})
        for x, q in zip(lines, holm(known), strict=True)
    ]
    of = "series on safety axes, after Holm"  # the same for one and for more
    found = _by_reading("H3", p, corrected, "rises", "falls", of, of)
    if all(tables.cells[x.cell].lossless for x in lines):
        told = f"{found.reason}; every rule of the series is lossless"
        return found.model_copy(update={"reason": told})
    return found


def _h4(passes: Passes, tables: Tables) -> Hypothesis:
    p, q = passes["matched_positions"], passes["acceptance_by_domain"]
    lines = [x for x in p.lines if not x.axis and not x.task]
    if not lines:
        reason = p.reason or "no cell accepts on both domains"
        return _hypothesis("H4", Standing.NOT_TESTABLE, reason, [p, q], [])
    known = [1.0 if (e := decisive(x)).p is None else e.p or 0.0 for x in lines]
    corrected = [
        x.model_copy(update={"reading": x.reading if r < tables.alpha else "no difference shown"})
        for x, r in zip(lines, holm(known), strict=True)
    ]
    found = _by_reading(
        "H4",
        p,
        corrected,
        "lower on safety",
        "higher on safety",
        "cell at slot 1, after Holm",
        "cells at slot 1, after Holm",
    )
    return found.model_copy(update={"passes": (p.number, q.number)})


def _by_reading(
    name: HypothesisName, p: PassResult, lines: Sequence[Line], for_it: str, against: str, *of: str
) -> Hypothesis:
    """Supported where some lines say so and none the opposite; reversed the other way round. of: one line, several lines."""
    yes, no = (sum(x.reading == r for x in lines) for r in (for_it, against))
    told = f"of {plural(len(lines), *of)}: {yes} {for_it}, {no} {against}, {len(lines) - yes - no} neither"
    standing = (
        Standing.SUPPORTED
        if yes and not no
        else Standing.REVERSED
        if no and not yes
        else Standing.NOT_SUPPORTED
    )
    return _hypothesis(name, standing, told, [p], lines)
