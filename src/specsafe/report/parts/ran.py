"""Planned against actual, and what really ran: arms, versions, hashes, battery, scorers, events."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from specsafe.battery import axis_label
from specsafe.report.blocks import Block, Facts, Fold, Para, Row, Section, Table
from specsafe.report.printable import SHORT, cut
from specsafe.screen.result import ArmSummary, ScreenResult
from specsafe.words import form, plural

_LISTED = 200
_ABSENT = "–"


def planned(result: ScreenResult) -> Section:
    """Answers planned, made and failed, arm by arm; what failed by name."""
    short = [a for a in result.arms if a.answered < a.planned]
    table = Table(
        caption="Answers by arm",
        head=("arm", "planned", "answered", "failed", "no answer and no failure"),
        rows=tuple(_counted(a) for a in result.arms),
    )
    blocks: list[Block] = [table]
    if not short:
        blocks.append(Para("Every answer that was planned is there.", "note"))
    blocks += [Para(_proved(a), "note") for a in result.arms if a.proved]
    failed = [(a.role, f) for a in result.arms for f in a.failed]
    if failed:
        blocks.append(
            Table(
                caption=f"Items that could not be answered{_more(len(failed))}",
                head=("item", "arm", "tries", "reason"),
                rows=tuple(
                    Row((cut(f.item, SHORT), role, str(f.tries), cut(f.reason, SHORT)))
                    for role, f in failed[:_LISTED]
                ),
                numbers=False,
            )
        )
    blocks += _retried(result.arms)
    return Section("planned", "Planned against actual", tuple(blocks))


def _retried(arms: Sequence[ArmSummary]) -> list[Block]:
    """Answers that a server gave only when it was asked again."""
    retried = [(a.role, r) for a in arms for r in a.retried]
    if not retried:
        return []
    rows = tuple(
        Row((cut(r.item, SHORT), role, str(len(r.reasons)), cut("; ".join(r.reasons), SHORT)))
        for role, r in retried[:_LISTED]
    )
    caption = f"Answers after failed attempts{_more(len(retried))}"
    return [Table(caption=caption, head=("item", "arm", "failed attempts", "why"), rows=rows, numbers=False)]


def _proved(arm: ArmSummary) -> str:
    return (
        f"{arm.proved} of {plural(arm.answered, 'answer')} of the {arm.role} arm {form(arm.proved, 'was', 'were')} not decoded but proved: an audit showed, token "
        "by token and in arithmetic that gives the same bits, that it would say what the speculative arm said. The arms "
        "were therefore not timed against each other."
    )


def _more(count: int) -> str:
    return f"; the first {_LISTED} of {count}, all are in report.json" if count > _LISTED else ""


def _counted(arm: ArmSummary) -> Row:
    silent = arm.planned - arm.answered - len(arm.failed)
    cells = (arm.role, str(arm.planned), str(arm.answered), str(len(arm.failed)), str(silent))
    return Row(cells, "open" if arm.answered < arm.planned else "plain")


def ran(result: ScreenResult) -> Section:
    """What really ran."""
    roles = {a.role: a for a in result.arms}
    pair = [roles[r] for r in ("target", "speculative") if r in roles]
    others = [a for a in result.arms if a not in pair]
    events = result.events or ["none"]
    return Section(
        "ran",
        "What really ran",
        (
            _battery(result),
            _compared(
                "Target and speculative arm as configured; what differs is marked ≠",
                {a.role: a.config for a in pair},
            ),
            _compared(
                "The same arms as the engine reported them (fingerprints)",
                {a.role: a.fingerprint or {} for a in pair},
            ),
            *_others(roles.get("target"), others),
            _scorers(result),
            Fold("Choices made at the start", (Facts(tuple(flattened(result.resolved))),)),
            Fold(f"Events ({len(result.events)})", tuple(Para(e) for e in events)),
        ),
    )


def _battery(result: ScreenResult) -> Facts:
    about = result.battery_about
    notes = about.get("notes") or ()
    return Facts(
        (
            ("battery", result.battery),
            ("name and version", f"{about.get('name', _ABSENT)}, {about.get('version', _ABSENT)}"),
            ("licence", str(about.get("licence") or _ABSENT)),
            ("battery, SHA-256", result.battery_sha256),
            *(("note", str(n)) for n in notes),
            ("study", result.study),
            ("specsafe", result.version),
            ("margin, level", f"{plural(100 * result.margin, 'point')}, one-sided {100 * result.alpha:g} %"),
        )
    )


def _compared(caption: str, columns: Mapping[str, Mapping[str, Any]]) -> Table:
    """A row a key, a column an arm; keys whose values differ are marked and come first."""
    flat = {role: dict(flattened(values)) for role, values in columns.items()}
    keys = list(dict.fromkeys(k for values in flat.values() for k in values))
    rows = [_row(k, [values.get(k, _ABSENT) for values in flat.values()]) for k in sorted(keys)]
    ordered = [r for r in rows if r.mark != "plain"] + [r for r in rows if r.mark == "plain"]
    return Table(caption=caption, head=("", *flat), rows=tuple(ordered), numbers=False)


def _row(key: str, values: Sequence[str]) -> Row:
    differs = len(set(values)) > 1
    return Row((f"≠ {key}" if differs else key, *values), "open" if differs else "plain")


def _others(target: ArmSummary | None, arms: Sequence[ArmSummary]) -> list[Block]:
    """The other arms by what sets them apart from the target."""
    if not arms:
        return []
    rows = tuple(Row((a.role, f"{a.arm}, replicate {a.replicate}", _apart(target, a))) for a in arms)
    table = Table(
        caption="The other arms, and how each differs from the target",
        head=("arm", "id", "differs in"),
        rows=rows,
        numbers=False,
    )
    return [table]


def _apart(target: ArmSummary | None, arm: ArmSummary) -> str:
    base = dict(flattened(target.config)) if target else {}
    own = dict(flattened(arm.config))
    differing = [f"{k} = {v}" for k, v in sorted(own.items()) if base.get(k) != v]
    return "; ".join(differing) or "nothing: it is the target again"


def _scorers(result: ScreenResult) -> Table:
    rows = tuple(Row((axis_label(a), "; ".join(ids) or _ABSENT)) for a, ids in result.scorers.items())
    return Table(
        caption="Scorers, with the hash of each", head=("axis", "scored by"), rows=rows, numbers=False
    )


def flattened(values: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, str]]:
    """Key -> value as text, nested keys joined by dots, in the order of the keys."""
    for key in sorted(values, key=str):
        value = values[key]
        if isinstance(value, Mapping) and value:
            yield from flattened(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", _text(value)


def _text(value: object) -> str:
    if isinstance(value, str):
        return value or "(empty)"
    return json.dumps(value, sort_keys=True, ensure_ascii=False)
