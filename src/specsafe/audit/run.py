"""Audit answers with a target: read, ask what is not known yet, count."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.stats import fisher_exact

from specsafe import __version__
from specsafe.audit.answers import Answers, claim_key, read_answers, with_known_tokens
from specsafe.audit.calibrate import ANSWERS, calibrate
from specsafe.audit.result import THRESHOLD, AuditCalibration, AuditFork, AuditResult, NotAudited
from specsafe.audit.store import Row, Store, open_store
from specsafe.engines import NativeArm, Session, arm_id, check_arm, native, parse_arm
from specsafe.engines.arm_recorded import RECORDED_KINDS
from specsafe.engines.auditing import AuditArm, audit, auditor, open_audit
from specsafe.engines.base import Claim, Json
from specsafe.errors import UserError
from specsafe.stats import proportion
from specsafe.study.answers import text_hash
from specsafe.study.run import Progress
from specsafe.study.schema import differences, dump

# What an answer depends on: taken over from the arm that made the answers. A server has names of its own for models.
WEIGHTS = ("model", "dtype", "context")
PROMPTED = ("chat_template", "system", "prefill", "max_tokens", "stop")


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
    calibrate_on: int | None = None,
    notice: Callable[[str], None] = lambda _: None,
    report: Callable[[Progress], None] = lambda _: None,
) -> Audit:
    """Audit the answers at `path` and keep what is found in `out`; started again, it continues.

    calibrate_on: so many answers of the target's own are audited first; None: ANSWERS, and 0 where its arithmetic is
    proved or nobody can have it answer alone. Raises UserError for anything that the user can mend; answers that were audited are kept.
    """
    answers = read_answers(path, role, battery)
    arm = target_arm(target, answers.arm)
    if not answers.arm or answers.arm.get("kind") in RECORDED_KINDS:
        notice(
            "how these answers were prompted is not known: chat template and system prompt are the target's"
        )
    for key, theirs, ours in differing(arm, answers.arm):
        notice(f"{key} of the target is {ours!r}, of the arm that answered {theirs!r}: as --target says")
    wanted = calibration_size(arm, calibrate_on)
    if not wanted and not isinstance(arm, NativeArm):
        notice(f"no calibration: near ties are those of at most {THRESHOLD:g} nat")
    identity = arm_id(arm, check_arm(arm))
    (out / "logs").mkdir(parents=True, exist_ok=True)
    with open_store(out, identity) as store:
        asked = _Asked(arm, store, wanted, out / "logs" / "audit.log", report)
        claims, decided = _ask(answers, asked)
        notice(decided)
        rows, fingerprint = store.rows(), store.fingerprint() or {}
        calibration = asked.calibration(answers.claims)
    found = {c.item: rows[claim_key(c)] for c in claims}
    target_ = Target(identity, arm.model_dump(), fingerprint, calibration)
    result = summarize(answers, found, target_, decided)
    return Audit(result, sum(row.seconds or 0.0 for row in found.values()))


def target_arm(text: str, made: Json) -> AuditArm:
    """The auditing arm, threads and slots resolved; what `text` leaves open is that of the arm that answered.

    Raises UserError for an arm that cannot audit.
    """
    arm = auditor(parse_arm(text))
    local, kind = isinstance(arm, NativeArm), made.get("kind")
    same = kind == arm.kind != "openai" or (local and kind == "llamacpp")  # they name models alike
    known = () if kind in RECORDED_KINDS else (*WEIGHTS, *PROMPTED) if same else PROMPTED
    taken = {f: made[f] for f in known if f in made and f not in arm.model_fields_set}
    top = {} if "top" in arm.model_fields_set else {"top": 0 if local else 1}  # nobody looks at more
    said = arm.model_fields_set
    arm = arm.model_copy(update={**taken, **top})
    if arm.chat_template == "off" and "system" not in said:  # a raw completion has no place for one
        arm = arm.model_copy(update={"system": ""})
    if not isinstance(arm, NativeArm):
        return arm
    return arm.model_copy(update={"threads": native.resolved(arm)["threads"], "slots": 1})


def calibration_size(arm: AuditArm, wanted: int | None) -> int:
    """How many of its own answers the target audits first. Raises UserError where it cannot answer alone."""
    if wanted is None:
        return 0 if isinstance(arm, NativeArm) or arm.speculative else ANSWERS
    if wanted and arm.speculative:
        raise UserError(
            "--calibrate needs answers of the target alone, and this one drafts",
            "name a target without draft=",
        )
    return wanted


def differing(arm: AuditArm, made: Json) -> list[tuple[str, object, object]]:
    """(key, theirs, ours) where the target was told to prompt otherwise than the arm that answered."""
    ours = arm.model_dump()
    both = [k for k in ("dtype", "chat_template", "system") if k in made and k in ours]
    return [(k, made[k], ours[k]) for k in both if made[k] != ours[k]]


class _Asked(NamedTuple):
    """Who is asked, where it is kept, how many own answers calibrate, where it is logged, who is told how far it is."""

    arm: AuditArm
    store: Store
    calibrate_on: int
    log: Path
    report: Callable[[Progress], None]

    def calibration(self, claims: Sequence[Claim]) -> AuditCalibration | None:
        """As it is kept; None where none was made."""
        kept = self.store.calibration(_key(claims, self.calibrate_on)) if self.calibrate_on else None
        return None if kept is None else AuditCalibration.model_validate(kept)


def _key(claims: Sequence[Claim], count: int) -> str:
    """Of the prompts from which a calibration chooses, and how many it takes."""
    return text_hash(dump([sorted((c.item, c.prompt) for c in claims), count]))


def _ask(answers: Answers, asked: _Asked) -> tuple[tuple[Claim, ...], str]:
    """Audit what the store does not know -> the claims as they were audited, and what was decided of token ids."""
    store = asked.store
    kept = store.fingerprint()
    calibrated = not asked.calibrate_on or not answers.claims or asked.calibration(answers.claims) is not None
    if kept is not None:
        claims, decided = with_known_tokens(answers.claims, answers.fingerprint, kept)
        if calibrated and not _missing(claims, store):
            return claims, decided
    session = open_audit(asked.arm, asked.log)
    try:
        fingerprint = session.fingerprint()
        if kept is not None and kept != fingerprint:
            raise UserError(
                f"the target is not what this audit began with: {differences(kept, fingerprint)}",
                "restore it, or name a new --out folder",
            )
        store.set_fingerprint(fingerprint)
        if not calibrated:
            found = calibrate(asked.arm, session, answers.claims, asked.calibrate_on)
            store.set_calibration(_key(answers.claims, asked.calibrate_on), found.model_dump())
        claims, decided = with_known_tokens(answers.claims, answers.fingerprint, fingerprint)
        _audit_missing(session, claims, asked)
    finally:
        session.close()
    return claims, decided


def _audit_missing(session: Session, claims: Sequence[Claim], asked: _Asked) -> None:
    missing = _missing(claims, asked.store)
    keys, began = {c.item: claim_key(c) for c in missing}, time.monotonic()
    for count, found in enumerate(audit(asked.arm, session, missing), 1):
        asked.store.add(keys[found.item], found)
        left = (time.monotonic() - began) / count * (len(missing) - count)
        asked.report(Progress(len(claims) - len(missing) + count, len(claims), left))


def _missing(claims: Sequence[Claim], store: Store) -> list[Claim]:
    known = store.rows()
    return [c for c in claims if claim_key(c) not in known]


class Target(NamedTuple):
    """Who audited: id, configuration, what ran, and what rounding does there."""

    identity: str
    config: Json
    fingerprint: Json
    calibration: AuditCalibration | None


def summarize(answers: Answers, found: Mapping[str, Row], target: Target, decided: str) -> AuditResult:
    """Count what was found, item by item. decided: of token ids, in words."""
    audited = {item: row for item, row in found.items() if row.reason is None}
    forks = [
        AuditFork(item=i, position=r.fork, gap=r.gap, rank=r.rank, retokenized=bool(r.retokenized))
        for i, r in sorted(audited.items())
        if r.fork is not None and r.gap is not None and r.rank is not None
    ]
    calibration = target.calibration
    threshold = THRESHOLD if calibration is None else calibration.threshold
    larger = sum(f.gap > threshold for f in forks)
    failed = {f.item: f.reason for f in answers.failed}
    failed |= {item: row.reason for item, row in found.items() if row.reason is not None}
    n = len(audited)
    return AuditResult(
        version=__version__,
        source=answers.source,
        role=answers.role,
        answers_sha256=answers.sha256,
        token_ids=decided,
        target=target.identity,
        config=target.config,
        fingerprint=target.fingerprint,
        answers=n + len(failed),
        audited=n,
        tokens=sum(row.tokens or 0 for row in audited.values()),
        threshold=threshold,
        calibration=calibration,
        more_forks_p=None if calibration is None or not n else p_more_forks(len(forks), n, calibration),
        exact=proportion(n - len(forks), n),
        near_ties=proportion(len(forks) - larger, n),
        larger=proportion(larger, n),
        retokenized=proportion(sum(bool(row.retokenized) for row in audited.values()), n),
        forks=forks,
        not_audited=[NotAudited(item=i, reason=reason) for i, reason in sorted(failed.items())],
    )


def p_more_forks(forks: int, n: int, own: AuditCalibration) -> float:
    """Fisher's one-sided p that more of n answers leave the target than of its own."""
    table = np.array([[forks, n - forks], [own.forks, own.answers - own.forks]])
    return float(fisher_exact(table, alternative="greater").pvalue)
