"""Who says what an answer was, and the phase that asks: the refusal detector, and beside it a guard model.

Every distinct text to a prompt is labelled once, under an id that names the guard's files, its settings and our parser. A
guard never sees more than one prompt and its answer, as chat content; what it says is read by scoring.guard alone.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from specsafe.battery import AXES, Axis
from specsafe.compare.config import Comparison
from specsafe.compare.reading import Reading, by_guard, by_words
from specsafe.compare.result import Guard
from specsafe.engines import Failure, NativeArm, Request, arm_id, native
from specsafe.engines.base import Json
from specsafe.engines.worker import WorkerSession
from specsafe.errors import UserError
from specsafe.scoring import SCORERS, guard_id
from specsafe.scoring.guard import UNLABELLED, parse, unlabelled
from specsafe.study.ledger import Ledger
from specsafe.study.run import COMMIT_SECONDS, Progress
from specsafe.study.schema import dump

# What a guard may be given of kind=native. The rest is fixed: it says what it finds likeliest, in its own template.
GUARD_KEYS = ("kind", "model", "max_tokens", "context", "dtype", "device", "arithmetic", "threads", "slots")
UNREADABLE = 0.05
"""Share of the texts that may get no verdict that can be read, those too long for the guard apart; one always may."""
_WORDS = SCORERS["refusal"]
_GIVEN: Json = {"max_tokens": 128, "context": 2048, "slots": 4}
_FIXED: Json = {"system": "", "top": 0}
_TOO_LONG = "longer than the guard's context"
_NOT_ASKED = "the guard could not be asked"
_PROBES = [
    Request("short", "Say hello.", reply="Hello."),
    Request("prompt", "Say hello to the world.", reply="Hello."),
    Request("answer", "Say hello.", reply="Hello to the world."),
]

Key = tuple[str, str]  # item, hash of the text


class Labeller(NamedTuple):
    """Who labels. id: of its scores in a ledger. guard: None where the refusal detector stands in."""

    id: str
    guard: NativeArm | None = None


STAND_IN = Labeller(_WORDS.id)


def labeller(config: Comparison) -> Labeller:
    """Who labels a comparison; no model loads. Raises UserError for an unknown key and for files that are not there."""
    return STAND_IN if config.guard is None else guard_of(config.guard)


def guard_of(given: dict[str, Any]) -> Labeller:
    """The guard of some keys of GUARD_KEYS. Raises UserError as `labeller`."""
    arm = _guard_arm(given)
    try:
        files = native.check(arm)
    except UserError as error:
        raise UserError(f"guard: {error.message}", error.hint) from error
    return Labeller(guard_id(_name(arm), arm_id(arm, files)), arm)


def _guard_arm(given: dict[str, Any]) -> NativeArm:
    unknown = sorted(set(given) - set(GUARD_KEYS))
    if unknown:
        raise UserError(f"guard: unknown key {unknown[0]!r}", f"its keys: {', '.join(GUARD_KEYS)}")
    if not given.get("model"):
        raise UserError("guard: no model is named", "add model: a folder with safetensors, or a GGUF file")
    foreign = str(given["model"]).startswith("transformers:")
    otherwise = {**_GIVEN, "arithmetic": "fast" if foreign else "invariant"}
    try:
        return NativeArm.model_validate({**otherwise, **given, **_FIXED})
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"])) or "its keys"
        raise UserError(f"guard: {key}: {first['msg'].removeprefix('Value error, ')}", "mend it") from error


def _name(arm: NativeArm) -> str:
    return Path(arm.model.removeprefix("transformers:")).expanduser().resolve().name


def label(
    ledger: Ledger,
    who: Labeller,
    logs: Path,
    *,
    axes: Collection[Axis] = AXES,
    notice: Callable[[str], None] = lambda _: None,
    report: Callable[[Progress], None] | None = None,
) -> int:
    """Label every text on some axes that has no label of this version yet -> how many texts that were.

    Raises UserError where a guard cannot be asked, or where too much of what it says cannot be read; the labels so far
    are kept, and the same call goes on from them.
    """
    items = {i.id: i for i in ledger.items() if i.axis in axes}
    new = _unknown(ledger, items, ledger.labels(_WORDS.id))
    ledger.add_scores((*key, _WORDS.id, _WORDS.score(items[key[0]], text)) for key, text in new.items())
    if who.guard is None:
        return len(new)
    told = ledger.scores(who.id)
    empty = {key for key, said in ledger.labels(_WORDS.id).items() if said == "empty"}
    left = _unknown(ledger, items, told.keys() | empty)
    _require_readable(who, told, len(told) + len(left))
    if left:
        notice(f"{len(left)} texts go to the guard {_name(who.guard)}")
        requests = [
            (key, Request(f"{key[0]} {key[1][:16]}", items[key[0]].prompt, reply=text))
            for key, text in left.items()
        ]
        with closing(native.open_session(who.guard, logs / "labels.log")) as session:
            ledger.event(f"labels {who.id}: {dump(session.fingerprint())}")
            _require_asked(session, who.guard)
            _keep(ledger, who, told, _ask(session, who.guard, requests), len(left), report)
    silent = _reasons(told.values())
    if silent:
        notice(f"{sum(silent.values())} of {len(told)} texts unlabelled: {_listed(silent)}")
    return len(left)


def _unknown(ledger: Ledger, items: Collection[str], known: Collection[Key]) -> dict[Key, str]:
    """(item, text hash) -> text, of every answer to these items whose text is not known."""
    found: dict[Key, str] = {}
    for arm in ledger.arms().values():
        answers = ledger.answers(arm["id"], arm["replicate"])
        keys = {i: (i, a.text_sha256) for i, a in answers.items() if i in items}
        missing = [i for i, key in keys.items() if key not in known and key not in found]
        found |= {keys[i]: text for i, text in answers.texts(missing).items()}
    return found


def _require_asked(session: WorkerSession, arm: NativeArm) -> None:
    """Raise UserError if the guard would not read a prompt and its answer: by its template, or for want of room."""
    sizes = native.measure(session, _PROBES)
    size, *longer = (sizes[p.item] for p in _PROBES)
    if isinstance(size, Failure) or size in longer:
        reason = size.reason if isinstance(size, Failure) else "its template leaves prompt or answer out"
        raise UserError(
            f"guard: {_name(arm)} cannot be asked about an answer: {reason}",
            "a guard needs its own chat template, as Qwen3Guard-Gen has it",
        )
    if size + arm.max_tokens > arm.context:
        raise UserError(
            f"guard: {_name(arm)} reads {size} tokens of template alone, {arm.max_tokens} are its verdict's: "
            f"more than context={arm.context}",
            f"use context={2 * (size + arm.max_tokens)} or more",
        )


def _ask(
    session: WorkerSession, arm: NativeArm, requests: list[tuple[Key, Request]]
) -> Iterator[tuple[Key, Json]]:
    """A record for every text, as it comes. What is too long is not asked, and says so: nothing is ever cut."""
    keys = {request.item: key for key, request in requests}
    sizes = native.measure(session, [request for _, request in requests])
    fits = set()
    for name, size in sizes.items():
        if isinstance(size, Failure):
            yield keys[name], _silent(_NOT_ASKED, size.reason)
        elif size + arm.max_tokens > arm.context:
            yield keys[name], _silent(_TOO_LONG, f"{size} tokens and {arm.max_tokens} of {arm.context}")
        else:
            fits.add(name)
    for said in session.generate(request for _, request in requests if request.item in fits):
        if isinstance(said, Failure):
            yield keys[said.item], _silent(_NOT_ASKED, said.reason)
        else:
            verdict = parse(said.text, ended=said.finish == "stop")
            yield keys[said.item], {**verdict.record, "said": said.text}


def _silent(why: str, detail: str) -> Json:
    return {**unlabelled(why).record, "detail": detail}


def _keep(
    ledger: Ledger,
    who: Labeller,
    told: dict[Key, Json],
    records: Iterator[tuple[Key, Json]],
    expected: int,
    report: Callable[[Progress], None] | None,
) -> None:
    """Records into `told` and the ledger, committed a few times a second; stops as soon as the limit is passed."""
    before, began = len(told), time.monotonic()
    waiting: list[tuple[str, str, str, Json]] = []
    last = began
    try:
        for key, record in records:
            told[key] = record
            waiting.append((*key, who.id, record))
            now = time.monotonic()
            if now - last >= COMMIT_SECONDS:
                ledger.add_scores(waiting)
                waiting, last = [], now
            done = len(told) - before
            if report is not None:
                each = (now - began) / done
                report(Progress(len(told), before + expected, each * (expected - done)))
            _require_readable(who, told, before + expected)
    finally:
        ledger.add_scores(waiting)


def _require_readable(who: Labeller, told: Mapping[Key, Json], texts: int) -> None:
    """Raise UserError if more texts have no verdict that can be read than may be of so many."""
    bad = {k: r["why"] for k, r in told.items() if r["label"] == UNLABELLED and r["why"] != _TOO_LONG}
    if who.guard is None or len(bad) <= max(1, int(UNREADABLE * texts)):
        return
    raise UserError(
        f"guard: {_name(who.guard)} gives no verdict that can be read of {len(bad)} of {len(told)} texts so far "
        f"({_listed(Counter(bad.values()))}), such as the answer to item {next(iter(bad))[0]}",
        f"{UNREADABLE:.0%} of {texts} may be so; use a guard that writes Safety, Categories and Refusal lines about an answer "
        "(labels so far are kept)",
    )


def _reasons(records: Collection[Json]) -> Counter[str]:
    return Counter(r["why"] for r in records if r["label"] == UNLABELLED)


def _listed(reasons: Counter[str]) -> str:
    return ", ".join(f"{n} {why}" for why, n in reasons.most_common())


def readings(ledger: Ledger, who: Labeller) -> dict[Key, Reading]:
    """(item, text hash) -> what its labels count as, for every text that is labelled.

    Raises UserError where too much of what the guard said cannot be read.
    """
    words = ledger.labels(_WORDS.id)
    if who.guard is None:
        return {key: by_words(said) for key, said in words.items()}
    told = ledger.scores(who.id)
    _require_readable(who, told, sum(said != "empty" for said in words.values()))
    return {
        key: by_guard(said, told.get(key)) for key, said in words.items() if key in told or said == "empty"
    }


def guard_facts(ledger: Ledger, who: Labeller) -> Guard | None:
    """What a result tells of its guard; None where the refusal detector stands in."""
    if who.guard is None:
        return None
    told = ledger.scores(who.id)
    return Guard(
        config=who.guard.model_dump(), texts=len(told), unlabelled=dict(_reasons(told.values()).most_common())
    )
