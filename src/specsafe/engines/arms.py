"""Arms: one complete way to answer, as a typed configuration with an id that is the hash of all of it."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError

from specsafe.engines.arm_base import LiveArm
from specsafe.engines.arm_llamacpp import LlamaCppArm
from specsafe.engines.arm_native import NativeArm
from specsafe.engines.arm_openai import OpenAIArm
from specsafe.engines.arm_recorded import AnswersArm, InspectArm, LmEvalArm, RecordedArm
from specsafe.engines.arm_vllm import VllmArm
from specsafe.errors import UserError

__all__ = [
    "AnswersArm",
    "AnyArm",
    "Arm",
    "InspectArm",
    "LiveArm",
    "LlamaCppArm",
    "LmEvalArm",
    "NativeArm",
    "OpenAIArm",
    "RecordedArm",
    "VllmArm",
    "arm_id",
    "parse_arm",
]
AnyArm = LlamaCppArm | NativeArm | OpenAIArm | RecordedArm | InspectArm | LmEvalArm | VllmArm
Arm = Annotated[AnyArm, Field(discriminator="kind")]
_ARM: TypeAdapter[AnyArm] = TypeAdapter(Arm)
_KINDS: dict[str, type[AnyArm]] = {
    "llamacpp": LlamaCppArm,
    "native": NativeArm,
    "openai": OpenAIArm,
    "recorded": RecordedArm,
    "inspect": InspectArm,
    "lm_eval": LmEvalArm,
    "vllm": VllmArm,
}
_PAIR = re.compile(r'\s*([A-Za-z_]+)\s*=\s*("(?:[^"\\]|\\.)*"|[^,"]*)\s*(?:,|$)')


def parse_arm(text: str, inherit: AnyArm | None = None, otherwise: Mapping[str, Any] | None = None) -> AnyArm:
    """`kind=llamacpp,draft=self,n_max=4` -> an arm; a value with commas goes in double quotes.

    inherit: an arm of the same kind whose other fields are taken over (a speculative arm inherits from
    its target). otherwise: fields that have these values where the text leaves them open. Raises UserError with the
    unknown or bad key.
    """
    given: dict[str, Any] = {}
    position = 0
    while position < len(text):
        match = _PAIR.match(text, position)
        if match is None:
            raise UserError(
                f"cannot read arm {text!r} at {text[position:]!r}",
                "write kind=llamacpp,key=value,…; a value with commas goes in double quotes",
            )
        value = match[2]
        given[match[1]] = _unquote(text, value) if value.startswith('"') else value.strip()
        position = match.end()
    given.setdefault("kind", inherit.kind if inherit else "llamacpp")
    kind = given["kind"]
    if kind not in _KINDS:
        raise UserError(f"unknown engine kind {kind!r}", f"use one of: {', '.join(_KINDS)}")
    known = (*_KINDS[kind].model_fields, *_KINDS[kind].also)
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise UserError(f"unknown key {unknown[0]!r} for kind={kind}", f"keys: {', '.join(known)}")
    if isinstance(inherit, LiveArm) and inherit.kind == kind:
        given = {**inherit.handed_on(given), **given}
    given = {**(otherwise or {}), **given}
    try:
        return _ARM.validate_python(given)
    except ValidationError as error:
        first = error.errors()[0]
        key = next((str(part) for part in first["loc"] if part in _KINDS[kind].model_fields), "arm")
        what = first["msg"].removeprefix("Value error, ")
        raise UserError(f"arm {text!r}: {key}: {what}", "mend that key") from error


def _unquote(text: str, value: str) -> str:
    try:
        return str(json.loads(value))
    except json.JSONDecodeError as error:
        raise UserError(
            f"cannot read {value} in arm {text!r}: {error.msg}", "write it as a JSON string"
        ) from error


def arm_id(arm: AnyArm, files: dict[str, str]) -> str:
    """Hash of the whole configuration and of the files behind it, 16 hex digits."""
    content = json.dumps([arm.model_dump(), files], sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(content.encode()).hexdigest()[:16]
