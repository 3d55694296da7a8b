"""The cheap baseline: answers of the target that need no decoding, as an audit proves what it would say.

In invariant arithmetic (models.invariant) the logits of one prefill over prompt and answer are, bit for bit, those of
decoding. If each token of a speculative answer is their greedy choice and the answer ends where the target's limits
end it, then it is the target's answer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from specsafe.engines import NativeArm, Sample, native
from specsafe.engines.base import Audited, Claim, Failure
from specsafe.study.ledger import Ledger
from specsafe.study.run import Job, Progress, run_jobs

Report = Callable[[Progress], None]


def prove_first(
    jobs: Sequence[Job], ledger: Ledger, *, logs: Path | None = None, report: Report | None = None
) -> None:
    """Let the speculative arm answer, and enter what an audit proves of it as answers of the target.

    What is there already stays; items that could not be proved are left for the target to answer.
    """
    for job in jobs:  # in the order of the plan, which the result keeps
        ledger.describe_arm(job.role, job.arm_id, job.replicate, job.arm.model_dump(), len(job.items))
    target, speculative = (next(j for j in jobs if j.role == r) for r in ("target", "speculative"))
    run_jobs([speculative], ledger, at_once=1, logs=logs, report=report)
    claims = _claims(target, speculative, ledger)
    if not claims or not isinstance(target.arm, NativeArm):
        return
    session = native.open_session(target.arm, logs / "audit.log" if logs else None)
    try:
        ledger.set_fingerprint(target.role, session.fingerprint())
        for found in native.audit(session, claims.values()):
            sample = proved_sample(claims[found.item], found)
            if sample is not None:
                ledger.add(target.arm_id, target.replicate, sample)
                ledger.commit()
    finally:
        session.close()


def proved_sample(claim: Claim, found: Audited | Failure) -> Sample | None:
    """The answer of the target, if the audit proves it: same text, same tokens, and no time of decoding."""
    if isinstance(found, Failure) or not found.complete or found.retokenized:
        return None
    return Sample(
        item=claim.item,
        text=claim.text,
        finish=claim.finish,
        token_ids=claim.token_ids,
        logprobs=found.logprobs,
        top=found.top,
        letters=found.letters,
        prompt_tokens=found.prompt_tokens,
        proved=True,
    )


def _claims(target: Job, speculative: Job, ledger: Ledger) -> dict[str, Claim]:
    """Answers of the speculative arm to items that the target has not settled yet, by item."""
    settled = ledger.settled(target.arm_id, target.replicate)
    answers = ledger.answers(speculative.arm_id, speculative.replicate)
    items = {i.id: i.prompt for i in target.items if i.id in answers and i.id not in settled}
    texts, tokens = answers.texts(items), answers.tokens(items)
    return {
        item: Claim(item, prompt, texts[item], tokens[item].ids, answers[item].finish)
        for item, prompt in items.items()
        if item in tokens
    }
