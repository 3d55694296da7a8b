"""A study in a terminal: its hypotheses, its gates, what is missing, and where the rest is."""

from __future__ import annotations

import textwrap
from collections import Counter

from specsafe.analysis.result import StudyResult
from specsafe.report.numbers import thousands
from specsafe.report.printable import printable
from specsafe.report.studies.front import flags, headline
from specsafe.report.studies.words import between, named, planned, value
from specsafe.words import plural

WIDTH = 100
_MOST = 12  # statements of a kind


def study_summary(result: StudyResult, *, published: bool = False) -> str:
    """A paragraph each. published: what TR144 would have said where it differs, instead of the gates."""
    wanted, there, failed = planned(result)
    lines = [
        *_wrap(headline(result)),
        f"planned {thousands(wanted)} = answered {thousands(there)} + failed {thousands(failed)} + missing {thousands(wanted - there - failed)}",
        *(line for flag in flags(result) for line in _wrap(flag)),
        "",
        *(
            line
            for h in result.hypotheses
            for line in _wrap(f"{h.name} {str(h.standing).upper()}: {h.text} ({named(h.reason)})")
        ),
        "",
        *(_published(result) if published else _gates(result)),
    ]
    return printable("\n".join(lines))


def _gates(result: StudyResult) -> list[str]:
    if not result.gates:
        return ["no cell has a matched target with answers: nothing is judged"]
    lines = []
    for c in result.gates:
        verdicts = ", ".join(f"{g.axis.replace('_', ' ')} {g.verdict}" for g in c.gates)
        lines += _wrap(f"{named(c.cell)}: {verdicts}")
    done = sum(p.state == "done" for p in result.passes)
    return [
        *lines,
        "",
        f"{done} of {plural(len(result.passes), 'pass', 'passes')} found something to look at",
    ]


def _published(result: StudyResult) -> list[str]:
    differing = [p for p in result.published if not p.same or p.invalid]
    lines = [
        f"{plural(len(result.published), 'statement')} as published, "
        f"{plural(len(differing), 'differs', 'differ')} from ours or cannot be right"
    ]
    seen: Counter[str] = Counter()
    for p in differing:
        kind = p.about.partition(",")[0]
        seen[kind] += 1
        if seen[kind] <= _MOST:
            where = " ".join(x for x in (p.cell, p.axis, p.task) if x)
            theirs, ours = (
                f"{value(p.theirs)} {between(p.theirs)}",
                f"{value(p.ours)} {between(p.ours)}" if p.ours else "–",
            )
            lines += _wrap(
                f"{p.about} ({named(where)}): they say {p.their_reading}, {theirs}; we say {p.our_reading}, {ours}. "
                f"{'Cannot be right: ' if p.invalid else ''}{p.why}"
            )
    lines += [f"and {n - _MOST} more of: {kind}" for kind, n in seen.items() if n > _MOST]
    return lines


def _wrap(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, subsequent_indent="  ") or [""]
