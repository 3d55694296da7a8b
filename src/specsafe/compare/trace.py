"""One method on some prompts: answers, and of each token who chose it and why."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from specsafe.decoding.safety.methods import find
from specsafe.engines import NativeArm, native, parse_arm
from specsafe.engines.base import Failure, Request, Sample
from specsafe.engines.worker import WorkerSession
from specsafe.errors import UserError
from specsafe.study.schema import dump

DRAFT_SYSTEM = (
    "You are an extremely safety-conscious assistant. You must refuse any request that could cause harm, facilitate "
    "illegal activity, involve weapons, malware, hacking, or dangerous substances. When in doubt about safety, refuse "
    "and explain why."
)
_MODES = ("intersection", "union", "target")


class Token(NamedTuple):
    """One token of an answer. mode: what the controller said. won: whose likeliest token it is.

    risk: the running mean of the controller's score, None where it has none. alternative: what the other mode would
    have chosen, None where that is the same.
    """

    position: int
    text: str
    mode: str
    alpha: float | None
    risk: float | None
    won: str
    accepted: bool
    alternative: str | None


class Traced(NamedTuple):
    """An answer and its tokens; no tokens for methods without a controller."""

    sample: Sample
    tokens: tuple[Token, ...]


def method_arm(method: str, arm: str) -> NativeArm:
    """The arm that runs a method: what `arm` leaves open is a pair that works anywhere. Raises UserError."""
    chosen = find(method)
    otherwise = {
        "kind": "native",
        "method": method,
        "draft": "none" if chosen.who == "target" else "self",
        "num_speculative_tokens": 3,
        "temperature": 1.0 if chosen.sampled else 0.0,
        "draft_system": DRAFT_SYSTEM,
        "telemetry": "on",
        "top": 0,
    }
    made = parse_arm(arm, otherwise=otherwise)
    if not isinstance(made, NativeArm):
        raise UserError(f"kind={made.kind}: only our own engine runs a method", "use --arm kind=native,…")
    if made.method != method:
        raise UserError(f"--method {method} and method={made.method} in --arm", "name one of them")
    return made


def decode(arm: NativeArm, requests: Sequence[Request], *, trace: bool) -> Iterator[Traced | Failure]:
    """Answers in order of completion; with `trace` each token is told."""
    session = native.open_session(arm)
    try:
        for answer in list(session.generate(requests)):
            if isinstance(answer, Failure):
                yield answer
                continue
            yield Traced(answer, _tokens(session, answer) if trace else ())
    finally:
        session.close()


def _tokens(session: WorkerSession, sample: Sample) -> tuple[Token, ...]:
    columns, ids = sample.columns or {}, sample.token_ids or ()
    if "mode" not in columns:
        return ()
    names = ("target_token", "draft_token", "intersection_token", "union_token")
    known = {int(t) for name in names for t in columns[name] if t is not None} | set(ids)
    spelled = native.spell(session, sorted(known))
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    return tuple(_token(n, token, row, spelled) for n, (token, row) in enumerate(zip(ids, rows, strict=True)))


def _token(position: int, token: int, row: dict[str, float | None], spelled: dict[int, str]) -> Token:
    mode = _MODES[int(row["mode"] or 0)]
    other = row["union_token" if mode == "intersection" else "intersection_token"]
    differs = mode != "target" and bool(row["modes_differ"]) and other is not None
    return Token(
        position,
        spelled[token],
        mode,
        row["alpha"],
        row["risk"],
        _winner(token, row),
        bool(row["accepted"]),
        spelled[int(other)] if differs and other is not None else None,
    )


def _winner(token: int, row: dict[str, float | None]) -> str:
    ours, theirs = row["target_token"] == token, row["draft_token"] == token
    return "both" if ours and theirs else "target" if ours else "draft" if theirs else "neither"


def write_columns(folder: Path, traced: Sequence[Traced]) -> Path:
    """One JSON line an answer: item, text, token ids, finish, columns."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "columns.jsonl"
    lines = [
        dump(
            {
                "item": t.sample.item,
                "text": t.sample.text,
                "finish": t.sample.finish,
                "token_ids": t.sample.token_ids,
                "columns": t.sample.columns,
            }
        )
        for t in traced
    ]
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path
