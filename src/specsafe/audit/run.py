"""Audit answers with a target: read, ask what is not known yet, count."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from specsafe import __version__
from specsafe.audit.answers import Answers, claim_key, read_answers, with_known_tokens
from specsafe.audit.result import THRESHOLD, AuditFork, AuditResult, NotAudited
from specsafe.audit.store import Row, Store, open_store
from specsafe.engines import NativeArm, arm_id, native, parse_arm
from specsafe.engines.arm_recorded import RECORDED_KINDS
from specsafe.engines.base import Claim, Json
from specsafe.errors import UserError
from specsafe.stats import proportion
from specsafe.study.run import Progress
from specsafe.study.schema import differences

# What an answer depends on beside its model's weights: taken over from the arm that made the answers.
TAKEN_OVER = ("model", "dtype", "chat_template", "system", "prefill", "max_tokens", "context", "stop")


class Audit(NamedTuple):
    """A result, and the seconds that the audits took; a clock's reading is no part of the result."""

    result: AuditResult
    seconds: float


def run_audit(
    path: Path,
    target: str,
    *,
    role: str | None,
    battery: str | None,
    out: Path,
    notice: Callable[[str], None] = lambda _: None,
    report: Callable[[Progress], None] = lambda _: None,
) -> Audit:
    """Audit the answers at `path` and keep what is found in `out`; started again, it continues.

    Raises UserError for anything that the user can mend; answers that were audited are kept.
    """
    answers = read_answers(path, role, battery)
    arm = target_arm(target, answers.arm)
    if not answers.arm or answers.arm.get("kind") in RECORDED_KINDS:
        notice(
            "how these answers were prompted is not known: chat template and system prompt are the target's"
        )
    for key, theirs, ours in differing(arm, answers.arm):
        notice(f"{key} of the target is {ours!r}, of the arm that answered {theirs!r}: as --target says")
    identity = arm_id(arm, native.check(arm))
    (out / "logs").mkdir(parents=True, exist_ok=True)
    with open_store(out, identity) as store:
        claims, decided = _ask(answers, arm, store, out / "logs" / "audit.log", report)
        notice(decided)
        rows, fingerprint = store.rows(), store.fingerprint() or {}
    found = {c.item: rows[claim_key(c)] for c in claims}
    result = summarize(answers, found, identity, arm.model_dump(), fingerprint, decided)
    return Audit(result, sum(row.seconds or 0.0 for row in found.values()))


def target_arm(text: str, made: Json) -> NativeArm:
    """The auditing arm, threads and slots resolved; what `text` leaves open is that of the arm that answered.

    Raises UserError for an arm that cannot audit.
    """
    arm = native.auditor(parse_arm(text))
    fields = [f for f in TAKEN_OVER if f in made and f not in arm.model_fields_set]
    taken = {f: made[f] for f in fields if made.get("kind") not in RECORDED_KINDS}
    top = {} if "top" in arm.model_fields_set else {"top": 0}  # nobody looks at them
    said = arm.model_fields_set
    arm = arm.model_copy(update={**taken, **top})
    if arm.chat_template == "off" and "system" not in said:  # a raw completion has no place for one
        arm = arm.model_copy(update={"system": ""})
    return arm.model_copy(update={"threads": native.resolved(arm)["threads"], "slots": 1})


def differing(arm: NativeArm, made: Json) -> list[tuple[str, object, object]]:
    """(key, theirs, ours) where the target was told to prompt otherwise than the arm that answered."""
    ours = arm.model_dump()
    return [(k, made[k], ours[k]) for k in TAKEN_OVER[1:4] if k in made and made[k] != ours[k]]


def _ask(
    answers: Answers, arm: NativeArm, store: Store, log: Path, report: Callable[[Progress], None]
) -> tuple[tuple[Claim, ...], str]:
    """Audit what the store does not know -> the claims as they were audited, and what was decided of token ids."""
    kept = store.fingerprint()
    if kept is not None:
        claims, decided = with_known_tokens(answers.claims, answers.fingerprint, kept)
        if not _missing(claims, store):
            return claims, decided
    session = native.open_session(arm, log)
    try:
        fingerprint = session.fingerprint()
        if kept is not None and kept != fingerprint:
            raise UserError(
                f"the target is not what this audit began with: {differences(kept, fingerprint)}",
                "restore it, or name a new --out folder",
            )
        store.set_fingerprint(fingerprint)
        claims, decided = with_known_tokens(answers.claims, answers.fingerprint, fingerprint)
        missing = _missing(claims, store)
        keys, began = {c.item: claim_key(c) for c in missing}, time.monotonic()
        for count, found in enumerate(native.audit(session, missing), 1):
            store.add(keys[found.item], found)
            left = (time.monotonic() - began) / count * (len(missing) - count)
            report(Progress(len(claims) - len(missing) + count, len(claims), left))
    finally:
        session.close()
    return claims, decided


def _missing(claims: Sequence[Claim], store: Store) -> list[Claim]:
    known = store.rows()
    return [c for c in claims if claim_key(c) not in known]


def summarize(
    answers: Answers,
    found: Mapping[str, Row],
    identity: str,
    config: Json,
    fingerprint: Json,
    decided: str,
) -> AuditResult:
    """Count what was found, item by item."""
    audited = {item: row for item, row in found.items() if row.reason is None}
    forks = [
        AuditFork(item=i, position=r.fork, gap=r.gap, rank=r.rank, retokenized=bool(r.retokenized))
        for i, r in sorted(audited.items())
        if r.fork is not None and r.gap is not None and r.rank is not None
    ]
    larger = sum(f.gap > THRESHOLD for f in forks)
    failed = {f.item: f.reason for f in answers.failed}
    failed |= {item: row.reason for item, row in found.items() if row.reason is not None}
    n = len(audited)
    return AuditResult(
        version=__version__,
        source=answers.source,
        role=answers.role,
        answers_sha256=answers.sha256,
        token_ids=decided,
        target=identity,
        config=config,
        fingerprint=fingerprint,
        answers=n + len(failed),
        audited=n,
        tokens=sum(row.tokens or 0 for row in audited.values()),
        threshold=THRESHOLD,
        exact=proportion(n - len(forks), n),
        near_ties=proportion(len(forks) - larger, n),
        larger=proportion(larger, n),
        retokenized=proportion(sum(bool(row.retokenized) for row in audited.values()), n),
        forks=forks,
        not_audited=[NotAudited(item=i, reason=reason) for i, reason in sorted(failed.items())],
    )
