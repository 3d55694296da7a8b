"""A check-up of one server before it is screened: what runs there, does it draft, can its answers be trusted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict

from specsafe.battery import Item, load_battery
from specsafe.engines import AnyArm, OpenAIArm, Request, Sample, openai
from specsafe.engines.base import Json
from specsafe.engines.openai_counters import Counters
from specsafe.errors import UserError
from specsafe.stats import Proportion, proportion

PROBES = 10
UNTRUSTED = 2


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Checkup(_Record):
    """What a check-up found; faults: reasons why a screen could not be trusted, none of them if it could."""

    url: str
    fingerprint: Json
    plays: str
    probes: int
    answered: int
    drafted: int | None
    accepted: int | None
    counters_moved: bool | None
    again: Proportion
    together: Proportion
    lacks: list[str]
    faults: list[str]

    @property
    def exit_code(self) -> int:
        """0, or 2 if a screen of this server could not be trusted."""
        return UNTRUSTED if self.faults else 0


class _Pass(NamedTuple):
    """The probes asked once: answers by item, and by how much the counters moved; None where there are none."""

    answers: dict[str, Sample]
    moved: Counters | None


def examine(arm: AnyArm) -> Checkup:
    """Ask a server ten questions of the starter battery three times: twice one by one, once together.

    Raises UserError where it does not answer at all, refuses, or tells impossible counts.
    """
    if not isinstance(arm, OpenAIArm):
        raise UserError(
            f"specsafe doctor looks at servers, not at kind={arm.kind}",
            "add --engine kind=openai,url=http://…/v1",
        )
    probes = load_battery("starter").on("capability")[:PROBES]
    served = arm.as_speculative()
    alone = openai.open_session(served.model_copy(update={"concurrency": 1}))
    try:
        first, second = _ask(alone, probes), _ask(alone, probes)
        fingerprint, tells, dialect = alone.fingerprint(), alone.tells, alone.server.dialect
    finally:
        alone.close()
    beside = openai.open_session(served.model_copy(update={"concurrency": PROBES}))
    try:
        third = _ask(beside, probes[::-1])
    finally:
        beside.close()
    told = [s for s in first.answers.values() if s.drafted is not None]
    drafted = sum(s.drafted or 0 for s in told) if told else None
    accepted = sum(s.accepted or 0 for s in told) if told else None
    return Checkup(
        url=arm.address,
        fingerprint=fingerprint | {"concurrency": arm.concurrency},
        plays="speculative" if drafted else "unknown" if drafted is None and _may_draft(tells) else "target",
        probes=len(probes),
        answered=len(first.answers),
        drafted=drafted,
        accepted=accepted,
        counters_moved=None if first.moved is None else bool(first.moved.drafted),
        again=_same(first, second),
        together=_same(first, third),
        lacks=list(_lacks(arm, tells, fingerprint, dialect, bool(drafted))),
        faults=list(_faults(arm, len(probes), first, second, drafted)),
    )


def _ask(session: openai.OpenAISession, probes: Sequence[Item]) -> _Pass:
    before = session.counters()
    answers = [
        a for a in session.generate([Request(i.id, i.prompt) for i in probes]) if isinstance(a, Sample)
    ]
    after = session.counters()
    moved = after.since(before) if before is not None and after is not None else None
    return _Pass({a.item: a for a in answers}, moved)


def _same(one: _Pass, other: _Pass) -> Proportion:
    """How many probes have the same answer in both passes, of those answered in both."""
    both = [i for i in one.answers if i in other.answers]
    return proportion(sum(_said(one.answers[i]) == _said(other.answers[i]) for i in both), len(both))


def _said(sample: Sample) -> object:
    return (sample.text, sample.token_ids, sample.finish)


def _may_draft(tells: openai.Tells) -> bool:
    return tells.drafting == "none"


def _lacks(arm: OpenAIArm, tells: openai.Tells, fingerprint: Json, dialect: str, drafts: bool) -> list[str]:
    """Capabilities that the server has not, each with what follows."""
    lacking = {
        "token ids: forks cannot be found": not tells.token_ids,
        "log-probabilities: forks cannot be explained": not tells.logprobs,
        "the most likely tokens by id: gaps of forks are not known": tells.logprobs and not tells.top,
        "counts of drafting: nothing shows that it speculates": tells.drafting == "none",
        "counts of drafting a request: one request at a time": tells.drafting == "counters",
        "answers that begin with a given text: no prefill control": not openai.can_prefill(arm, dialect),
        "the name of its acceptance rule: the rule is a claim": drafts and not fingerprint["rule_proved"],
        "specsafe's plugin: no rule a request, no leak control": dialect == "vllm"
        and drafts
        and "plugin" not in fingerprint,
    }
    return [text for text, lacks in lacking.items() if lacks]


def _faults(arm: OpenAIArm, probes: int, first: _Pass, second: _Pass, drafted: int | None) -> list[str]:
    """Why a screen of this server could not be trusted."""
    same = _same(first, second)
    told = _told(first)
    moved = first.moved
    off = moved is not None and told is not None and (moved.drafted, moved.accepted) != told
    found = {
        f"{probes - len(first.answers)} of {probes} probes were not answered": len(first.answers) < probes,
        f"{same.n - same.k} of {same.n} probes were answered otherwise when asked again, one at a time, at temperature 0": arm.temperature
        == 0
        and same.k < same.n,
        "it is said to draft and drafted nothing on the probes": arm.speculative
        and arm.telemetry != "none"
        and not drafted,
        f"requests tell of {told} drafted and accepted tokens, counters of {moved and (moved.drafted, moved.accepted)}: "
        "somebody else uses the server, or they count different things": off,
    }
    return [text for text, holds in found.items() if holds]


def _told(one: _Pass) -> tuple[int, int] | None:
    """Drafted and accepted tokens as the answers tell them; None unless every answer does."""
    answers = list(one.answers.values())
    if not answers or any(a.drafted is None or a.accepted is None for a in answers):
        return None
    return sum(a.drafted or 0 for a in answers), sum(a.accepted or 0 for a in answers)
