"""The check-up of a server in lines."""

from __future__ import annotations

import textwrap

from specsafe.engines.base import Json
from specsafe.report.printable import printable
from specsafe.screen.doctor import Checkup
from specsafe.words import plural

_WIDTH = 118
_PLAYS = {
    "speculative": "it drafts: it can be a speculative arm",
    "target": "it does not draft: it can be a target",
    "unknown": "nothing shows whether it drafts: it can be a target, and a speculative arm only with telemetry=none",
}


_ELSEWHERE = ("engine", "engine_version", "served_model", "device", "rule_proof")


def checkup_lines(found: Checkup) -> str:
    """The whole check-up."""
    f = found.fingerprint
    drafting = (
        f"drafted {found.drafted}, accepted {found.accepted}"
        if found.drafted is not None
        else "no counts of drafting"
    )
    moved = {None: "no counters", True: "counters moved", False: "counters stood still"}[found.counters_moved]
    facts = {k: v for k, v in f.items() if k not in _ELSEWHERE}
    lines = [
        f"{'NOT TO BE TRUSTED' if found.faults else 'FIT TO BE SCREENED'}: {found.url}",
        f"runs        {f['engine']} {f['engine_version']}, model {f['served_model']}",
        f"drafts      {drafting} on {found.answered} of {plural(found.probes, 'probe')}; {moved}; {_PLAYS[found.plays]}",
        f"rule        {f['rule']} ({_evidence(f)})",
        f"again       {found.again.k} of {plural(found.again.n, 'probe')} answered alike one at a time; "
        f"{found.together.k} of {found.together.n} alike with all of them in flight",
        *(f"lacks       {text}" for text in found.lacks),
        *(f"FAULT       {text}" for text in found.faults),
        f"facts       {', '.join(f'{k} {v}' for k, v in facts.items())}",
    ]
    return printable("\n".join(_wrapped(line) for line in lines))


def _evidence(fingerprint: Json) -> str:
    """What shows that the rule is in force."""
    if "rule_proof" in fingerprint:
        return f"in force, proved by {fingerprint['rule_proof']}"
    if fingerprint["rule_proved"]:
        return "told by the server"
    if "plugin" in fingerprint:
        return f"named by {fingerprint['plugin']} in the server; nothing was decided by it yet"
    return "as claimed; the server does not say"


def _wrapped(line: str) -> str:
    return "\n".join(
        textwrap.wrap(
            line, _WIDTH, subsequent_indent=" " * 12, break_long_words=False, break_on_hyphens=False
        )
    )
