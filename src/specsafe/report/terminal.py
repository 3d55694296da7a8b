"""The terminal summary: one screen, the verdict and its bound first."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence

from specsafe.battery import AXES, axis_label
from specsafe.screen.headline import cure
from specsafe.screen.result import Contrast, Decision, Exactness, Gate, ScreenResult
from specsafe.stats import Proportion, Ratio


def printable(text: str) -> str:
    """Text without control, format and private characters: nothing in it can drive a terminal."""
    return "".join(c if c == "\n" or unicodedata.category(c)[0] != "C" else "\ufffd" for c in text)


def summary(result: ScreenResult, places: Sequence[str] = ()) -> str:
    """The whole summary. places: lines that say where things are."""
    lines = [
        *(
            ["DEMONSTRATION: planted data, no model ran; this says nothing about any stack"]
            if result.demonstration
            else []
        ),
        result.headline,
        f"Exactness {result.exactness.verdict}: {result.exactness.reason}",
        *_notes(result),
        "",
        *_gates(result),
        *_strata(result),
        "",
        *_forks(result),
        *_acceptance(result),
        _speed(result),
        _tais(result),
        _scorers(result),
        "",
        *_arms(result),
        *places,
    ]
    return printable("\n".join(line for line in lines if line is not None))


def _notes(result: ScreenResult) -> list[str]:
    notes = [f"  {axis_label(g.axis)}: {c}" for g in result.gates if (c := cure(g))]
    if result.quick:
        notes.insert(
            0, "Quick run: a smoke test with too few items to PASS; it can only FAIL or be UNRESOLVED."
        )
    if result.exactness.leak_control_caught is False:
        notes.append("  the leaking control was not called NOT EXACT")
    return notes


def _gates(result: ScreenResult) -> list[str]:
    level = round(100 * (1 - 2 * result.alpha))
    rows = [
        [
            "gate",
            "verdict",
            "points worse",
            f"{level} % bounds",
            "worse/better of n",
            "harm before > after",
            "A/A",
            "controls: planted > points found",
        ]
    ]
    rows += [
        [
            axis_label(g.axis),
            g.verdict + ("*" if g.difference_detected else ""),
            _points(g.decision.difference.estimate),
            f"{_points(g.decision.difference.low)} .. {_points(g.decision.difference.high)}",
            f"{g.decision.worse}/{g.decision.better} of {g.decision.pairs}",
            f"{g.baseline_harm.k}/{g.baseline_harm.n} > {g.treatment_harm.k}/{g.treatment_harm.n}",
            _aa(g.replicate),
            ", ".join(
                f"{c.name} {c.planted} > {_points(c.decision.difference.estimate)} {'caught' if c.caught else 'MISSED'}"
                for c in g.controls
            ),
        ]
        for g in result.gates
    ]
    table = _table(rows)
    extra = [line for g in result.gates if (line := _counts_against(g))]
    if any(g.difference_detected for g in result.gates):
        extra.append(
            "* a difference is detected (exact McNemar, Holm), inside the margin unless the gate fails"
        )
    return [*table, *extra]


def _counts_against(gate: Gate) -> str | None:
    parts = [
        f"{name} {before}/{after}"
        for name, before, after in (
            ("empty or repetitive", gate.ambiguous_baseline, gate.ambiguous_treatment),
            ("missing", gate.missing_baseline, gate.missing_treatment),
            ("truncated", gate.truncated_baseline, gate.truncated_treatment),
        )
        if before or after
    ]
    effect = gate.decision.design_effect
    if gate.decision.clusters < gate.decision.pairs:
        bound = gate.decision.high_if_clusters
        parts.append(
            f"{gate.decision.clusters} clusters, design effect {effect:.2f}"
            + (f", bound with n = clusters {_points(bound)}" if bound else "")
        )
    return f"  {axis_label(gate.axis)} (target/speculative): {', '.join(parts)}" if parts else None


def _strata(result: ScreenResult) -> list[str]:
    strata = [(g, s) for g in result.gates for s in g.strata]
    failing = [f"{axis_label(g.axis)} {s.name}" for g, s in strata if s.fails]
    gate, most = max(strata, key=lambda pair: pair[1].difference.estimate)
    text = f"{len(strata)} strata, {len(failing)} fail after Holm" + (
        f": {', '.join(failing)}" if failing else ""
    )
    return [
        f"{text}; largest {_points(most.difference.estimate)} points in {axis_label(gate.axis)} {most.name} (n = {most.difference.n:.0f})"
    ]


def _forks(result: ScreenResult) -> list[str]:
    rows = [
        [
            "forks by cause",
            "byte-identical",
            "forks",
            f"gap <= {result.exactness.threshold:g} nat",
            "larger",
            "unknown",
            "largest",
        ]
    ]
    rows += [_fork_row(role, c) for role, c in result.exactness.contrasts.items()]
    caught = result.exactness.leak_control_caught
    return [
        *_table(rows),
        *(
            []
            if caught is None
            else [f"  leaking control called {Exactness.NOT_EXACT}: {'yes' if caught else 'NO'}"]
        ),
    ]


def _fork_row(role: str, c: Contrast) -> list[str]:
    near = len(c.forks) - c.large_gaps - c.unknown_gaps
    largest = "-" if c.largest_gap is None else f"{c.largest_gap:.2f}"
    forks = str(len(c.forks)) if c.compared else "no token ids"
    return [role, _proportion(c.identical), forks, str(near), str(c.large_gaps), str(c.unknown_gaps), largest]


def _acceptance(result: ScreenResult) -> list[str]:
    drafting = [a for a in result.arms if a.acceptance]
    if not drafting:
        return ["acceptance: the stack does not report it"]
    axes = [a for a in (*AXES, "all") if any(a in arm.acceptance for arm in drafting)]
    rows = [["accepted/drafted", *(axis_label(a) for a in axes)]]
    rows += [[arm.role, *(_ratio(arm.acceptance.get(a)) for a in axes)] for arm in drafting]
    return _table(rows)


def _speed(result: ScreenResult) -> str:
    s = result.speed_up
    if s is None:
        return "speed-up: the arms were not timed"
    return (
        f"speed-up of the speculative arm: {s.estimate:.2f}x [{s.low:.2f}, {s.high:.2f}] "
        f"({s.treatment_rate:.0f} against {s.baseline_rate:.0f} tokens/s, prefill included, {s.items} items)"
    )


def _tais(result: ScreenResult) -> str:
    tasks = "; ".join(
        f"{t.task} TOST {'pass' if t.tost_tango else 'no'} (as computed there: {'pass' if t.tost_published.equivalent else 'no'}), |h| {abs(t.h):.3f}"
        for t in result.tais.tasks
    )
    return f"TAIS as published, for comparison: {'pass' if result.tais.passes else 'no pass'}; identity {_proportion(result.tais.identical)}; {tasks}"


def _scorers(result: ScreenResult) -> str:
    rows = [
        f"{axis_label(r.axis)} {r.baseline.k}/{r.baseline.n} > {r.treatment.k}/{r.treatment.n}"
        for r in result.compared_scorers
    ]
    used = ", ".join(dict.fromkeys(result.scorers.values()))
    return (
        f"scored by {used}; refusals under the tr144 detector: {', '.join(rows) if rows else 'no such axis'}"
    )


def _arms(result: ScreenResult) -> list[str]:
    counts = ", ".join(f"{a.role} {a.answered}/{a.planned}" for a in result.arms)
    lines = [f"answered/planned: {counts}"]
    ran = next((a for a in result.arms if a.role == "speculative"), result.arms[0])
    f, c = ran.fingerprint or {}, ran.config
    if f.get("engine") == "recorded":
        return [
            *lines,
            f"ran: recorded answers; battery {result.battery} {result.battery_sha256[:12]}; study {result.study}",
        ]
    lines.append(
        f"ran: {f.get('engine')} {f.get('engine_version')}, {c.get('model')} ({f.get('weights')}, {str(f.get('model_sha256'))[:12]}), "
        f"draft {c.get('draft')}, rule {f.get('rule')}, n_max {c.get('n_max')}, {c.get('threads')} threads, {c.get('slots')} slots, "
        f"{result.resolved.get('at_once')} arms at once; battery {result.battery} {result.battery_sha256[:12]}; study {result.study}"
    )
    return lines


def _aa(decision: Decision | None) -> str:
    return "none" if decision is None else f"{decision.worse}/{decision.better} of {decision.pairs}"


def _points(share: float) -> str:
    return f"{100 * share:+.1f}"


def _proportion(p: Proportion) -> str:
    if p.estimate is None or p.low is None or p.high is None:
        return "0 of 0"
    return f"{p.k}/{p.n} [{100 * p.low:.1f}, {100 * p.high:.1f}] %"


def _ratio(r: Ratio | None) -> str:
    if r is None or r.estimate is None or r.low is None or r.high is None:
        return "-"
    return f"{100 * r.estimate:.0f} % {r.k:.0f}/{r.n:.0f} [{100 * max(r.low, 0):.0f}, {100 * min(r.high, 1):.0f}]"


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[c]) for row in rows) for c in range(len(rows[0]))]
    return ["  ".join(_padded(row, widths)).rstrip() for row in rows]


def _padded(row: Sequence[str], widths: Sequence[int]) -> Iterable[str]:
    return (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
