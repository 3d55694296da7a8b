"""A method's answers on a terminal: token by token, who chose and why."""

from __future__ import annotations

from specsafe.compare.trace import Token, Traced
from specsafe.report.printable import printable
from specsafe.words import plural

_WIDTH = 18


def answer_lines(traced: Traced, *, text: bool) -> list[str]:
    """A heading, the answer if it may be shown, and a line a token."""
    sample = traced.sample
    columns = sample.columns or {}
    modes = [m for m in columns.get("mode", ()) if m is not None]
    counts = f"{plural(len(sample.token_ids or ()), 'token')}, {sample.finish}"
    if modes:
        differ = sum(bool(d) for d in columns["modes_differ"])
        counts += f"; union {sum(m == 1 for m in modes)}/{len(modes)}, modes differ {differ}/{len(modes)}"
    if sample.drafted:
        counts += f"; accepted {sample.accepted}/{sample.drafted} drafted in {plural(sample.rounds, 'round')}"
    lines = [printable(f"{sample.item}: {counts}")]
    if text:
        lines.append(printable(sample.text))
    return lines + ([_HEAD, *map(_line, traced.tokens)] if traced.tokens else [])


_HEAD = (
    f"{'':>4} {'token':<{_WIDTH}} {'mode':<13}{'alpha':>6} {'score':>6}  {'won':<8}{'accepted':<9}other mode"
)


def _line(token: Token) -> str:
    return (
        f"{token.position:>4} {_shown(token.text):<{_WIDTH}} {token.mode:<13}{_number(token.alpha):>6} "
        f"{_number(token.risk):>6}  {token.won:<8}{'yes' if token.accepted else 'no':<9}"
        f"{'' if token.alternative is None else _shown(token.alternative)}"
    ).rstrip()


def _shown(text: str) -> str:
    return printable(repr(text))[:_WIDTH]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"
