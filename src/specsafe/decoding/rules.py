"""The table of acceptance rules by name, and how a named rule with parameters is made."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from specsafe.decoding.named import require_rule
from specsafe.decoding.records import Acceptance, AcceptanceRule, Proposal, Target
from specsafe.decoding.rules_lossless import Agreement, Block, Greedy, OneHotRejection, Rejection
from specsafe.decoding.rules_lossy import Accumulated, Leak, Lenient, Relaxed, Threshold, Typical

__all__ = [
    "RULES",
    "Acceptance",
    "AcceptanceRule",
    "Accumulated",
    "Agreement",
    "Block",
    "Greedy",
    "Leak",
    "Lenient",
    "OneHotRejection",
    "Proposal",
    "Rejection",
    "Relaxed",
    "Target",
    "Threshold",
    "Typical",
    "make_rule",
]

RULES: Mapping[str, type[AcceptanceRule]] = {
    "greedy": Greedy,
    "agreement": Agreement,
    "one_hot": OneHotRejection,
    "rejection": Rejection,
    "block": Block,
    "typical": Typical,
    "threshold": Threshold,
    "accumulated": Accumulated,
    "relaxed": Relaxed,
    "lenient": Lenient,
    "leak": Leak,
}


def make_rule(name: str, **parameters: Any) -> AcceptanceRule:
    """The rule `name` of RULES with its parameters (numbers). Raises UserError, see named.require_rule."""
    require_rule(name, parameters)
    return RULES[name](**parameters)
