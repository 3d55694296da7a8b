"""Acceptance rules by the names that servers have for them: which leave the target alone, and which build knows which."""

from __future__ import annotations

import re
from typing import NamedTuple

from specsafe.decoding.named import RULE_FACTS
from specsafe.errors import UserError

_ELSE = "; with specsafe's plugin in it, it would know this one too"
UNNAMED = "unnamed"  # nobody said which; a server's default claims to be lossless, and is held to it
LOSSLESS = {
    UNNAMED: True,
    "greedy": True,
    "agreement": True,
    "rejection": True,
    "strict": True,
    "probabilistic": True,
    "standard": True,
    "block": True,
    "one_hot": True,
    "typical": False,
    "threshold": False,
    "accumulated": False,
    "relaxed": False,
    "lenient": False,
    "leak": False,
    "method": False,
    "synthetic": False,
}


class Era(NamedTuple):
    """Rules that builds from a version on can produce, by their own names."""

    since: tuple[int, ...]
    rules: tuple[str, ...]


# vLLM: V0 had a typical sampler, V1 began with rejection alone; strict and probabilistic are both lossless and gave way
# to standard and block. In which release between 0.20 and 0.25 they did is not verified: both sets are taken there.
ERAS = {
    "vllm": (
        Era((0, 0), ("rejection", "typical")),
        Era((0, 10), ("rejection",)),
        Era((0, 17), ("strict", "probabilistic")),
        Era((0, 20), ("strict", "probabilistic", "standard", "block", "synthetic")),
        Era((0, 26), ("standard", "block", "synthetic")),
    ),
    "llamacpp": (Era((0,), ("agreement", "synthetic")),),
    "sglang": (Era((0,), ("rejection", "threshold")),),
}


def require_producible(
    rule: str, dialect: str, version: str, temperature: float, *, plugin: bool = False
) -> None:
    """Refuse a rule that this build cannot produce. Raises UserError; what is not known of a build refuses nothing.

    plugin: specsafe's own is in it, which names its rule itself.
    """
    if rule in (UNNAMED, "none") or dialect not in ERAS or plugin:
        return
    numbers = tuple(int(n) for n in re.findall(r"\d+", version)[:2])
    known = [e.rules for e in ERAS[dialect] if not numbers or e.since <= numbers]
    # every rule but a lossy one is greedy at temperature 0
    possible = {r for rules in (known[-1:] if numbers else known) for r in rules}
    possible |= {"greedy"} if temperature == 0 else set()
    if rule not in possible:
        more = _ELSE if dialect == "vllm" and rule in RULE_FACTS else ""
        raise UserError(
            f"rule={rule}: {dialect} {version or '(version unknown)'} cannot produce it",
            f"it knows {', '.join(sorted(possible))}{more}; or leave rule= out",
        )
