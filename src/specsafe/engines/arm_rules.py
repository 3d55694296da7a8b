"""One spelling of rules and methods for all kinds of arms.

The native engine has a key for each number: rule=typical,epsilon=0.2 and method=ssd-crs,changes={"control.tau": 0.3}.
A server is told a text: rule=typical:epsilon=0.2 and method=ssd-crs:control.tau=0.3. Every kind takes both.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import model_validator

from specsafe.decoding.named import RULE_FACTS, named, split, value_of
from specsafe.decoding.safety.methods import parse_changes
from specsafe.engines.arm_base import LiveArm
from specsafe.engines.openai_rules import UNNAMED

NUMBERS = ("epsilon", "delta", "posterior_temperature", "threshold", "top_k", "beta", "leak")
_CALLED = {"rate": "leak"}  # what the native engine calls a number of a rule, where it is another word
ALSO = (*NUMBERS, *_CALLED, "changes")  # keys of an arm that become part of its rule= or method=


class PluginArm(LiveArm):
    """An arm whose rule or method is a text, as specsafe's plugin for vLLM understands it; it takes the native spelling too."""

    also: ClassVar[tuple[str, ...]] = ALSO
    method: str = ""

    @model_validator(mode="before")
    @classmethod
    def _one_spelling(cls, given: Any) -> Any:
        return as_text(given) if isinstance(given, Mapping) else given

    @property
    def rule_is_known(self) -> bool:
        """See LiveArm.rule_is_known; an unknown one is no arm."""
        return True

    @property
    def lossless(self) -> bool:
        """See LiveArm.lossless; a rule may have numbers behind its name."""
        if self.method:
            return self.method == "vanilla"
        return self.rules.get(self.rule_in_force.partition(":")[0], True)

    def _auto_rule(self) -> str:
        return f"method {self.method}" if self.method else UNNAMED


def key_of(number: str) -> str:
    """What an arm calls a number of a rule."""
    return _CALLED.get(number, number)


def as_text(given: Mapping[str, Any]) -> dict[str, Any]:
    """Keys of an arm with numbers and changes written into rule and method, in one order. Raises ValueError."""
    left = {k: v for k, v in given.items() if k not in ALSO}
    words = {own: number for number, own in _CALLED.items()}
    numbers = {words.get(k, k): given[k] for k in (*NUMBERS, *_CALLED) if given.get(k) is not None}
    rule, method = str(given.get("rule") or "auto"), str(given.get("method") or "")
    changes = parse_changes(given.get("changes") or "")
    if numbers and rule == "auto":
        raise ValueError(f"{next(iter(numbers))} is a number of a rule; add rule=…")
    if changes and not method:
        raise ValueError("changes belong to a method; add method=…")
    if numbers or ":" in rule:
        left["rule"] = _spelled(rule, numbers)
    if changes or ":" in method:
        left["method"] = _spelled(method, changes)
    return left


def as_keys(given: Mapping[str, Any]) -> dict[str, Any]:
    """Keys of an arm with what rule and method name beside their names as keys of their own. Raises ValueError."""
    found = dict(given)
    for key in ("rule", "method"):
        text = given.get(key)
        if not isinstance(text, str) or ":" not in text:
            continue
        name, values = split(text)
        beside = (
            {key_of(k): v for k, v in values.items()} if key == "rule" else {"changes": json.dumps(values)}
        )
        twice = [k for k in beside if given.get(k) not in (None, "")]
        if twice:
            raise ValueError(f"{twice[0]} is said twice")
        if key == "rule" and not set(beside) <= set(NUMBERS):
            named("rule", text)  # says which is unknown
        found |= {key: name, **beside}
    return found


def require_method(method: str, rule: str, temperature: float) -> None:
    """Raises ValueError and UserError for a method that vLLM cannot be told of; "" is none."""
    if not method:
        return
    if rule != "auto":
        raise ValueError("rule and method exclude each other")
    named("method", method)
    if temperature:
        raise ValueError(f"method={method} needs temperature=0, got {temperature:g}")


def _spelled(text: str, more: Mapping[str, Any]) -> str:
    """A text with further values, in the rule's order or an alphabetical one. Raises ValueError for one said twice."""
    name, values = split(text)
    twice = [k for k in more if k in values]
    if twice:
        raise ValueError(f"{twice[0]} is said twice")
    found = {**values, **{k: value_of(v) if isinstance(v, str) else v for k, v in more.items()}}
    own = list(RULE_FACTS[name].numbers) if name in RULE_FACTS else []
    keys = sorted(found, key=lambda k: (own.index(k) if k in own else len(own), k))
    told = [f"{k}={v if isinstance(v := found[k], str) else json.dumps(v)}" for k in keys]
    return f"{name}:{','.join(told)}" if told else name
