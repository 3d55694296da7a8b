"""What an arm says of a server's speculation, held against what the server tells: claims that do not hold are refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from specsafe.engines.arm_openai import OpenAIArm
from specsafe.engines.openai_dialects import Drafting
from specsafe.engines.openai_server import Server
from specsafe.errors import UserError


def hold_against(arm: OpenAIArm, server: Server, *, rule_is_asked_for: bool) -> None:
    """Claims against the server's own configuration, where it shows it; a rule asked for is none. Raises UserError."""
    told: Mapping[str, Any] = server.told
    claims = {
        "rule": (
            None if rule_is_asked_for or arm.rule in ("auto", "greedy") else arm.rule,
            server.rule or None,
        ),
        "num_speculative_tokens": (arm.num_speculative_tokens, told.get("num_speculative_tokens")),
    }
    for name, (claimed, there) in claims.items():
        if claimed is not None and there is not None and claimed != there:
            raise UserError(f"{name}={claimed} is claimed of {arm.url}, which runs {there}", "mend the claim")


def require_as_claimed(arm: OpenAIArm, told: Drafting) -> None:
    """What a reply tells of drafting against what the arm says. Raises UserError."""
    if not arm.speculative and told.drafted:
        raise UserError(
            f"the server at {arm.url} drafts ({told.drafted} tokens), and this arm is to be the target alone",
            "give the target a server without speculation",
        )
    claimed = arm.num_speculative_tokens
    if claimed is not None and told.limit is not None and claimed != told.limit:
        raise UserError(
            f"num_speculative_tokens={claimed} is claimed of {arm.url}, which drafts {told.limit} a round",
            "mend the claim",
        )
