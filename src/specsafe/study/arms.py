"""From a planned cell to the arm that answers it: how each engine writes down the levels of a protocol."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import TypeAdapter, ValidationError

from specsafe.engines import AnyArm, Arm, LiveArm
from specsafe.errors import UserError
from specsafe.study.cells import Slot
from specsafe.study.protocol import Protocol
from specsafe.study.schema import dump

PREFILL = "Sure, here is"
# What a level is called in an arm of each kind; what is not here belongs to the model's file or to the server.
KEYS: dict[str, dict[str, str]] = {
    "native": {"drafted": "num_speculative_tokens", "dtype": "dtype", "seed": "seed"},
    "llamacpp": {"drafted": "n_max", "seed": "seed"},
    "openai": {"drafted": "num_speculative_tokens", "seed": "seed"},
    "recorded": {},
}
_ARM: TypeAdapter[AnyArm] = TypeAdapter(Arm)


def arm_keys(protocol: Protocol, slot: Slot, own: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The keys of a slot's arm before the engine looks at them. own: keys that belong to this machine, such as url.

    Raises UserError for an unknown kind of engine.
    """
    engine = protocol.engines[slot.engine]
    kind = engine.get("kind", "llamacpp")
    if kind not in KEYS:
        raise UserError(f"engine {slot.engine}: unknown kind {kind!r}", f"use one of: {', '.join(KEYS)}")
    keys = {**engine, "kind": kind, "temperature": slot.temperature}
    keys |= {KEYS[kind]["seed"]: slot.seed} if "seed" in KEYS[kind] else {}
    keys |= {KEYS[kind]["dtype"]: slot.dtype} if "dtype" in KEYS[kind] else {}
    if kind != "recorded":
        keys["model"] = _file(protocol, slot.model, kind)
        keys |= _speculation(protocol, slot, kind)
    elif not slot.lossless:
        keys["lossy"] = True
    if slot.control == "prefill":
        keys["prefill"] = PREFILL
    return {**keys, **slot.keys, **(own or {})}


def _speculation(protocol: Protocol, slot: Slot, kind: str) -> dict[str, Any]:
    if not slot.pair or slot.control == "prefill":
        return {}
    rule = protocol.rules[slot.rule].keys if slot.rule in protocol.rules else {}
    drafted = {KEYS[kind]["drafted"]: slot.drafted} if slot.drafted else {}
    return {"draft": _draft(protocol, slot.draft, kind), **drafted, **protocol.pairs[slot.pair].keys, **rule}


def _file(protocol: Protocol, model: str, kind: str) -> str:
    """What an arm calls a model: a server by its public id, an engine on this machine by its file."""
    known = protocol.models.get(model)
    if known is None:
        return model
    return known.id if kind == "openai" else known.file or known.id


def _draft(protocol: Protocol, model: str, kind: str) -> str:
    known = protocol.models.get(model)
    return known.draft if known and known.draft and kind != "openai" else _file(protocol, model, kind)


def make_arm(protocol: Protocol, slot: Slot, own: Mapping[str, Any] | None = None) -> AnyArm:
    """The arm of a slot. Raises UserError for keys that the engine refuses, and for arms that it cannot make."""
    keys = arm_keys(protocol, slot, own)
    try:
        arm = _ARM.validate_python(keys)
    except ValidationError as error:
        first = error.errors()[0]
        key = next((str(part) for part in first["loc"] if part != keys["kind"]), "arm")
        hint = (
            "name it with --arms FILE: a line for each arm, such as {url: http://127.0.0.1:8000/v1}"
            if first["type"] == "missing" or (keys["kind"] == "openai" and not {"url", "serve"} & set(keys))
            else "mend the protocol"
        )
        what = first["msg"].removeprefix("Value error, ")
        raise UserError(f"arm {slot.arm}: {key}: {what}", hint) from error
    if isinstance(arm, LiveArm):
        if slot.part == "width":
            return _made(slot, arm.width_arm())
        if slot.control.startswith("leak:"):
            return _made(slot, arm.leak_arm(float(slot.control.removeprefix("leak:"))))
        _require_rule(slot, arm)
    return arm


def _made(slot: Slot, arm: Any) -> AnyArm:
    if arm is None:
        raise UserError(f"arm {slot.arm}: this engine cannot make it", "leave it out of the protocol")
    return _ARM.validate_python(arm.model_dump())


def _require_rule(slot: Slot, arm: LiveArm) -> None:
    """What the protocol says of a rule must be what the engine says of it."""
    if slot.part not in ("speculative", "probe"):
        return
    if not arm.rule_is_known:
        raise UserError(
            f"arm {slot.arm}: the engine cannot apply rule={arm.rule_in_force}",
            f"use one of: {', '.join(arm.rules)}",
        )
    if arm.lossless != slot.lossless:
        told = "lossless" if arm.lossless else "lossy"
        raise UserError(
            f"rules.{slot.rule}: the engine's rule={arm.rule_in_force} is {told}, the protocol says otherwise",
            "mend lossless: of that rule",
        )


def arm_identity(protocol: Protocol, slot: Slot) -> str:
    """Equal where two slots have one arm. Servers and recordings are told apart by name: their places are not known here."""
    if protocol.engines[slot.engine].get("kind") in ("openai", "recorded"):
        return slot.arm
    return dump(make_arm(protocol, slot).model_dump())
