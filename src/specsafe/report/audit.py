"""The terminal summary of an audit: counts with their intervals, the largest gaps, and what was not audited."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Sequence

from specsafe.audit.result import AuditResult
from specsafe.report.printable import SHORT, cut, printable
from specsafe.stats import Proportion
from specsafe.words import form, plural

_WIDTH, _NAMED = 118, 10
_SCOPE = (
    "Exact: every token is what the target alone would have chosen greedily. Without a width arm nobody knows how far "
    "rounding moves the stack that answered: near ties are counted, not judged."
)


def audit_summary(result: AuditResult, seconds: float, places: Sequence[str] = ()) -> str:
    """The whole summary. seconds: that the audits took. places: lines that say where things are."""
    near = f"gap <= {result.threshold:.3g} nat"
    lines = [
        headline(result),
        f"  exact        {_share(result.exact)}",
        f"  near ties    {_share(result.near_ties)}  ({near}: other arithmetic may explain them)",
        f"  larger gaps  {_share(result.larger)}  (the target alone would not have said this)",
        f"  not audited  {len(result.not_audited)} of {plural(result.answers, 'answer')}",
        *_gaps(result),
        *_reasons(result),
        *_wrap(_calibrated(result)),
        *_wrap(f"tokens: {result.token_ids}; {result.retokenized.k} of {result.retokenized.n} re-tokenized"),
        *_wrap(_SCOPE),
        f"audited {plural(result.tokens, 'token')} of answers{_rate(result.tokens, seconds)}",
        *_wrap(_ran(result)),
        *places,
    ]
    return printable("\n".join(lines))


def headline(result: AuditResult) -> str:
    """What was found, in one line."""
    own = result.calibration
    if own is not None and result.contradicts_itself:
        return (
            f"THE TARGET CONTRADICTS ITSELF: its own answers leave it by up to {own.largest_gap:.2f} nat, and nothing "
            "can be said of others"
        )
    if not result.audited:
        return "NOTHING AUDITED: of no answer could the target be asked"
    if result.larger.k:
        k = result.larger.k
        return f"NOT THE TARGET'S: {_of(result, k)} it by more than {result.threshold:.3g} nat"
    if own is not None and result.has_more_forks:
        return (
            f"UNRESOLVED: {_of(result, len(result.forks))} the target, none by more than "
            f"{result.threshold:.3g} nat, and clearly more than its own ({own.forks} of {own.answers})"
        )
    found = "EXACT" if not result.forks else "EXACT OR AT NEAR TIES"
    return f"{found}: {result.audited} of {plural(result.answers, 'answer')} audited"


def _of(result: AuditResult, k: int) -> str:
    return f"{k} of {plural(result.audited, 'audited answer')} {form(k, 'leaves', 'leave')}"


def _calibrated(result: AuditResult) -> str:
    """Where the threshold of near ties comes from."""
    own = result.calibration
    if own is None:
        return f"near ties: at most {result.threshold:g} nat, no calibration"
    moved = "not told" if own.moved is None else f"{own.moved:.3g} nat"
    return (
        f"near ties: at most {result.threshold:.3g} nat, from {plural(own.answers, 'answer')} of the target alone ({plural(own.tokens, 'token')}): "
        f"{plural(own.forks, 'leaves', 'leave')} it, by up to {own.largest_gap:.3g} nat; log-probabilities moved by up to {moved}; Fisher's p "
        f"of more forks than there: {_p(result.more_forks_p)}"
    )


def _p(p: float | None) -> str:
    return "none" if p is None else f"{p:.2g}"


def _gaps(result: AuditResult) -> list[str]:
    """The largest gaps as a table; never what was said."""
    if not result.forks:
        return []
    worst = sorted(result.forks, key=lambda f: (-f.gap, f.item))[:_NAMED]
    rows = [
        ("largest gaps", "position", "gap", "rank", ""),
        *(
            (f"  {cut(f.item, 60)}", str(f.position), f"{f.gap:.2f} nat", str(f.rank), _mark(f.retokenized))
            for f in worst
        ),
    ]
    widths = [max(len(row[c]) for row in rows) for c in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]
    more = len(result.forks) - len(worst)
    return lines + ([f"  and {more} more in result.json"] if more else [])


def _mark(retokenized: bool) -> str:
    return "re-tokenized" if retokenized else ""


def _reasons(result: AuditResult) -> list[str]:
    counts = Counter(f.reason for f in result.not_audited)
    named = {reason: next(f.item for f in result.not_audited if f.reason == reason) for reason in counts}
    lines = [
        f"  {n} not audited: {cut(reason, SHORT)} (such as {cut(named[reason], 60)})"
        for reason, n in counts.most_common(_NAMED)
    ]
    return [part for line in lines for part in _wrap(line)]


def _rate(tokens: int, seconds: float) -> str:
    return f", {tokens / seconds:,.0f} tokens/s, prompts included" if tokens and seconds else ""


def _ran(result: AuditResult) -> str:
    f, c = result.fingerprint, result.config
    whose = result.source if result.role is None else f"{result.source}, role {result.role}"
    model = c.get("model") or f.get("served_model")
    known = [f.get("weights"), str(f["model_sha256"])[:12] if "model_sha256" in f else None]
    about = ", ".join(k for k in known if k)
    arithmetic = f", {f['arithmetic']} arithmetic" if "arithmetic" in f else ""
    return (
        f"ran: {f.get('engine')} {f.get('engine_version')} on {f.get('device')}; target {model}"
        f"{f' ({about})' if about else ''}{arithmetic}; answers of {whose}"
    )


def _share(p: Proportion) -> str:
    if p.estimate is None or p.low is None or p.high is None:
        return "0 of 0"
    return f"{p.k} of {p.n} [{100 * p.low:.1f}, {100 * p.high:.1f}] %"


def _wrap(text: str) -> list[str]:
    return textwrap.wrap(text, _WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
