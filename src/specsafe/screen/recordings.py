"""Recorded arms: whether two were asked the same, and what there is to say of each before it is compared."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from specsafe.battery import Item
from specsafe.engines import AnswersArm, Arm, Request
from specsafe.engines.base import Json
from specsafe.engines.recorded import RecordedSession, open_session, read_answers
from specsafe.errors import UserError
from specsafe.study.schema import differences

_SOURCE = {"inspect": "Inspect log", "lm_eval": "lm-eval samples"}


def require_alike(arms: Mapping[str, Arm], items: Sequence[Item]) -> None:
    """Every recorded arm must be asked as the target was, as far as the files tell. Raises UserError where not."""
    recorded = {role: arm for role, arm in arms.items() if isinstance(arm, AnswersArm)}
    target = recorded.pop("target")
    base, requests = open_session(target), [Request(i.id, i.prompt) for i in items]
    for role, arm in recorded.items():
        other = open_session(arm)
        differing = _differing(base.fingerprint(), other.fingerprint())
        if differing:
            raise UserError(
                f"target and {role} arm were not asked alike: {differing}",
                "record both with the same settings",
            )
        _require_same_words(role, base, other, requests)


def _differing(one: Json, other: Json) -> str:
    """Which settings of two recordings differ; "" if none, or if they cannot be compared."""
    a, b = one["temperature"], other["temperature"]
    if None not in (a, b) and a != b:
        return differences({"temperature": a}, {"temperature": b})
    if one["engine"] != other["engine"] or "settings" not in one:
        return ""
    return differences(one["settings"], other["settings"])


def _require_same_words(
    role: str, base: RecordedSession, other: RecordedSession, requests: Sequence[Request]
) -> None:
    ours, theirs = base.find(requests), other.find(requests)
    both = [i for i in ours if i in theirs and None not in (ours[i].sent, theirs[i].sent)]
    changed = [i for i in both if ours[i].sent != theirs[i].sent]
    if changed:
        raise UserError(
            f"target and {role} arm were asked in other words on {len(changed)} of {len(both)} items, "
            f"{changed[0]!r} first: system prompt, template or examples differ",
            "record both with the same solver and prompts",
        )


def recording_remarks(role: str, arm: AnswersArm, items: Sequence[Item]) -> Iterator[str]:
    """What there is to say of a recorded arm: what its file cannot tell, what weakens it, what matched no item."""
    recording, session = read_answers(arm), open_session(arm)
    requests = [Request(i.id, i.prompt) for i in items]
    if recording.unknown:
        yield f"{role} arm: {_described(arm, recording.facts)}, {len(recording.answers)} answers. {recording.unknown}"
    if recording.facts["temperature"] is None:
        yield f"{role} arm: at which temperature its answers were made is not known"
    yield from (f"{role} arm: {remark}" for remark in recording.remarks)
    prompts = {i.id: i.prompt for i in items}
    found = {i: r for i, r in session.find(requests).items() if r.asked is not None}
    other = sum(r.asked != prompts[i] for i, r in found.items())
    if other:
        yield (
            f"{role} arm: {other} of {len(found)} answers were asked in other words than the item's prompt alone "
            "(a template, a description or examples around it)"
        )
    lost = session.unmatched(requests)
    if lost:
        yield f"{lost} recorded answers of the {role} arm match no item of the battery, or one that has an answer already"


def _described(arm: AnswersArm, facts: Json) -> str:
    tasks, model = ", ".join(facts.get("tasks", ())), facts.get("model")
    return f"{_SOURCE[arm.kind]}, {tasks}" + (f", model {model}" if model else "")
