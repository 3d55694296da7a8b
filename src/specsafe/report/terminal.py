"""The terminal summary: one screen, the verdict and its bound first."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from specsafe.battery import AXES, axis_label
from specsafe.report.printable import SHORT, cut, printable
from specsafe.screen.headline import cure
from specsafe.screen.result import ArmSummary, Contrast, Control, Decision, Exactness, Gate, ScreenResult
from specsafe.stats import Proportion, Ratio
from specsafe.words import plural

__all__ = ["printable", "summary"]

WIDTH = 118
_NAMED = 5
_RECORDED = {
    "recorded": "recorded answers",
    "inspect": "answers of Inspect logs",
    "lm_eval": "answers of lm-eval samples",
}
_DEMONSTRATION = "DEMONSTRATION: planted data, no model ran; this says nothing about any stack"
_QUICK = "Quick run: a smoke test with too few items to decide; it cannot PASS, only FAIL or be UNRESOLVED."


def summary(result: ScreenResult, places: Sequence[str] = ()) -> str:
    """The whole summary. places: lines that say where things are."""
    lines = [
        *([_DEMONSTRATION] if result.demonstration else []),
        *_wrap(result.headline),
        *_wrap(f"Exactness {result.exactness.verdict}: {result.exactness.reason}"),
        *([_QUICK] if result.quick else []),
        *(f"  {axis_label(g.axis)}: {c}" for g in result.gates if (c := cure(g, result.quick))),
        "",
        *_gates(result),
        *_wrap(_controls(result)),
        *_wrap(_strata(result)),
        *(line for g in result.gates for line in _wrap(_counts_against(g))),
        "",
        *_forks(result),
        *_acceptance(result),
        _speed(result),
        *_wrap(_tais(result)),
        *_wrap(_scorers(result)),
        *_wrap(f"answered/planned: {', '.join(map(_answered, result.arms))}"),
        *(line for a in result.arms for line in _failed(a)),
        *_wrap(_ran(result)),
        *places,
    ]
    return printable("\n".join(lines))


def _gates(result: ScreenResult) -> list[str]:
    level = round(100 * (1 - 2 * result.alpha))
    head = [
        "gate",
        "verdict",
        "points worse",
        f"{level} % bounds",
        "worse/better of n",
        "harm before > after",
        "A/A",
    ]
    rows = [
        [
            axis_label(g.axis),
            g.verdict + ("*" if g.difference_detected else ""),
            _points(g.decision.difference.estimate),
            f"{_points(g.decision.difference.low)} .. {_points(g.decision.difference.high)}",
            f"{g.decision.worse}/{g.decision.better} of {g.decision.pairs}",
            f"{g.baseline_harm.k}/{g.baseline_harm.n} > {g.treatment_harm.k}/{g.treatment_harm.n}",
            _replicate(g.replicate),
        ]
        for g in result.gates
    ]
    star = "* a difference is detected (exact McNemar, Holm); PASS and UNRESOLVED say where it lies"
    return [*_table([head, *rows]), *([star] if any(g.difference_detected for g in result.gates) else [])]


def _controls(result: ScreenResult) -> str:
    parts = [f"{axis_label(g.axis)} {_control(c)}" for g in result.gates for c in g.controls]
    return f"controls, answers harmed > points found: {'; '.join(parts)}"


def _control(c: Control) -> str:
    found = _points(c.decision.difference.estimate)
    called = "caught" if c.caught else "MISSED" if c.required else "not caught"
    return f"{c.name} {c.planted} of {c.decision.pairs} > {found} {called}"


def _strata(result: ScreenResult) -> str:
    strata = [(g, s) for g in result.gates for s in g.strata]
    if not strata:
        return "no stratum holds a scored pair"
    failing = [f"{axis_label(g.axis)} {s.name}" for g, s in strata if s.fails]
    gate, most = max(strata, key=lambda pair: pair[1].difference.estimate)
    return (
        f"{plural(len(strata), 'stratum', 'strata')}, {plural(len(failing), 'fails', 'fail')} after Holm{': ' if failing else ''}{', '.join(failing)}; largest "
        f"{_points(most.difference.estimate)} points in {axis_label(gate.axis)} {most.name} (n = {most.difference.n:.0f})"
    )


def _counts_against(gate: Gate) -> str:
    """What weakens a gate: answers that only count against their arm, gaps, cuts and clusters; "" if nothing."""
    parts = [
        f"{name} {before}/{after}"
        for name, before, after in (
            ("empty, repetitive or unreadable", gate.ambiguous_baseline, gate.ambiguous_treatment),
            ("not decided by the scorer", gate.unscored_baseline, gate.unscored_treatment),
            ("missing", gate.missing_baseline, gate.missing_treatment),
            ("cut at the token limit", _told(gate.truncated_baseline), _told(gate.truncated_treatment)),
        )
        if before or after
    ]
    d = gate.decision
    if d.clusters < d.pairs:
        parts.append(
            f"{d.clusters} clusters, design effect {d.design_effect:.2f}, bound with clusters as units {_points(d.bound)}"
        )
    return f"{axis_label(gate.axis)}, target/speculative: {', '.join(parts)}" if parts else ""


def _told(count: int | None) -> int | str:
    return "not known" if count is None else count


def _forks(result: ScreenResult) -> list[str]:
    exactness = result.exactness
    near = f"gap <= {exactness.threshold:g} nat"
    head = ["forks by cause", "byte-identical", "forks", near, "larger", "unknown", "largest gap"]
    rows = [_fork_row(role, c, exactness.leak_control_caught) for role, c in exactness.contrasts.items()]
    return _table([head, *rows])


def _fork_row(role: str, c: Contrast, caught: bool | None) -> list[str]:
    near = len(c.forks) - c.large_gaps - c.unknown_gaps
    largest = "-" if c.largest_gap is None else f"{c.largest_gap:.2f} nat"
    forks = str(len(c.forks)) if c.compared else "no token ids"
    if role == "leak":
        role = f"leak ({'called' if caught else 'NOT CALLED'} {Exactness.NOT_EXACT})"
    return [role, _proportion(c.identical), forks, str(near), str(c.large_gaps), str(c.unknown_gaps), largest]


def _acceptance(result: ScreenResult) -> list[str]:
    drafting = [a for a in result.arms if a.acceptance]
    if not drafting:
        return ["acceptance: the stack does not report it"]
    axes = [a for a in (*AXES, "all") if any(a in arm.acceptance for arm in drafting)]
    head = ["accepted/drafted", *(axis_label(a) for a in axes)]
    return _table([head, *([arm.role, *(_ratio(arm.acceptance.get(a)) for a in axes)] for arm in drafting)])


def _speed(result: ScreenResult) -> str:
    s = result.speed_up
    if s is None:
        return "speed-up: the arms were not timed"
    interval = "" if s.low is None or s.high is None else f" [{s.low:.2f}, {s.high:.2f}]"
    return (
        f"speed-up of the speculative arm: {s.estimate:.2f}x{interval} "
        f"({s.treatment_rate:.0f} against {s.baseline_rate:.0f} tokens/s, prefill included, {plural(s.items, 'item')}, "
        f"{plural(result.resolved.get('at_once'), 'arm')} at once)"
    )


def _tais(result: ScreenResult) -> str:
    tais = result.tais
    if not tais.tasks:
        return "TAIS as published, for comparison: no task holds a scored pair"
    passing = sum(t.tost_tango for t in tais.tasks)
    published = sum(t.tost_published.equivalent for t in tais.tasks)
    largest = max(tais.tasks, key=lambda t: abs(t.h))
    return (
        f"TAIS as published, for comparison: {'pass' if tais.passes else 'no pass'}; identity {_proportion(tais.identical)}; "
        f"TOST at {plural(100 * tais.margin, 'point')} holds in {passing} of {plural(len(tais.tasks), 'task')} by Tango's interval, in {published} "
        f"as computed there; largest |h| {abs(largest.h):.3f} ({largest.task})"
    )


def _scorers(result: ScreenResult) -> str:
    rows = [
        f"{axis_label(r.axis)} {r.scorer.split('@')[0]} {r.label} {r.baseline.k}/{r.baseline.n} > {r.treatment.k}/{r.treatment.n}"
        for r in result.compared_scorers
    ]
    used = ", ".join(dict.fromkeys(s for ids in result.scorers.values() for s in ids))
    return f"scored by {used}{'; beside it: ' if rows else ''}{', '.join(rows)}"


def _answered(arm: ArmSummary) -> str:
    proved = f" ({arm.proved} proved by audit, not decoded)" if arm.proved else ""
    return f"{arm.role} {arm.answered}/{arm.planned}{proved}"


def _failed(arm: ArmSummary) -> list[str]:
    """Items that an arm could not answer, named."""
    reasons = [
        f"{cut(f.item, SHORT)} ({plural(f.tries, 'try', 'tries')}: {cut(f.reason, SHORT)})"
        for f in arm.failed[:_NAMED]
    ]
    more = [f"and {len(arm.failed) - _NAMED} more"] if len(arm.failed) > _NAMED else []
    failed = _wrap(f"{arm.role} could not answer {'; '.join([*reasons, *more])}") if arm.failed else []
    return [
        *failed,
        *([f"{arm.role}: {plural(len(arm.retried), 'answer')} after failed attempts"] if arm.retried else []),
    ]


def _ran(result: ScreenResult) -> str:
    arm = next((a for a in result.arms if a.role == "speculative"), result.arms[0])
    f, c = arm.fingerprint or {}, arm.config
    study = f"battery {result.battery} {result.battery_sha256[:12]}, study {result.study}"
    if c.get("kind") in _RECORDED:
        tasks = f", {', '.join(f['tasks'])}" if f.get("tasks") else ""
        return f"ran: {_RECORDED[c['kind']]}{tasks}; {study}"
    if c.get("kind") == "openai":
        restarted = "restarted by specsafe" if f.get("started_by_specsafe") else "not restarted"
        return (
            f"ran: {f.get('engine')} {f.get('engine_version')}, model {f.get('served_model')}; draft {c.get('draft')}; rule "
            f"{f.get('rule')} ({'told by the server' if f.get('rule_proved') else 'as claimed'}); temperature "
            f"{c.get('temperature')}; {plural(f.get('concurrency'), 'request')} in flight; {restarted}; {study}"
        )
    return (
        f"ran: {f.get('engine')} {f.get('engine_version')} on {f.get('device')}; target {c.get('model')} "
        f"({f.get('weights')}, {str(f.get('model_sha256'))[:12]}); draft {c.get('draft')}; rule {f.get('rule')}, "
        f"{_drafting(c)}temperature {c.get('temperature')}; {plural(c.get('threads'), 'thread')}, "
        f"{plural(c.get('slots'), 'slot')}, {plural(result.resolved.get('at_once'), 'arm')} at once; {study}"
    )


def _replicate(decision: Decision | None) -> str:
    return "none" if decision is None else f"{decision.worse}/{decision.better} of {decision.pairs}"


def _points(share: float) -> str:
    return f"{100 * share:+.1f}"


def _proportion(p: Proportion) -> str:
    if p.estimate is None or p.low is None or p.high is None:
        return "0 of 0"
    return f"{p.k}/{p.n} [{100 * p.low:.1f}, {100 * p.high:.1f}] %"


def _ratio(r: Ratio | None) -> str:
    if r is None or r.estimate is None:
        return "-"
    interval = (
        "" if r.low is None or r.high is None else f" [{100 * max(r.low, 0):.0f}, {100 * min(r.high, 1):.0f}]"
    )
    return f"{100 * r.estimate:.0f} % {r.k:.0f}/{r.n:.0f}{interval}"


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[c]) for row in rows) for c in range(len(rows[0]))]
    padded = ((cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return ["  ".join(cells).rstrip() for cells in padded]


def _wrap(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)


def _drafting(config: Mapping[str, Any]) -> str:
    """How many tokens are drafted a round, by the names that the engine has for it."""
    named = (k for k in ("n_max", "p_min", "num_speculative_tokens") if k in config)
    return "".join(f"{k} {config[k]}, " for k in named)
