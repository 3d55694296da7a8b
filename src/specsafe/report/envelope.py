"""The JSON document of a command: one on stdout, with a published schema (docs/schema)."""

from __future__ import annotations

import json
from typing import Any

from pydantic import BaseModel, ConfigDict

from specsafe import __version__
from specsafe.audit.result import AuditResult
from specsafe.screen.doctor import Checkup
from specsafe.screen.plan import Reach
from specsafe.screen.result import ScreenResult

SCHEMA = "specsafe.screen/1"


class Failure(BaseModel):
    """What went wrong and how to mend it."""

    message: str
    hint: str


class PlanDocument(BaseModel):
    """What `screen --plan` counts: answers by role, and what the rule can say of each axis."""

    answers: dict[str, int]
    total: int
    gates: list[Reach]


class Envelope(BaseModel):
    """Exactly one of result and error is there."""

    model_config = ConfigDict(frozen=True)

    schema_version: str = SCHEMA
    tool: str = "specsafe"
    version: str = __version__
    command: str
    exit_code: int
    result: ScreenResult | list[ScreenResult] | PlanDocument | AuditResult | Checkup | None = None
    error: Failure | None = None


def to_json(envelope: Envelope) -> str:
    """The document as text; characters outside ASCII are escaped, so no terminal can be driven by it."""
    return json.dumps(envelope.model_dump(mode="json"), indent=1, allow_nan=False)


def json_schema() -> dict[str, Any]:
    """The published JSON Schema of the document."""
    return Envelope.model_json_schema(mode="serialization")
