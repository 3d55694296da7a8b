"""One spelling of rules and methods for all kinds of arms.

The native engine has a key for each number: rule=typical,epsilon=0.2 and method=ssd-crs,changes={"control.tau": 0.3}.
A server is told a text: rule=typical:epsilon=0.2 and method=ssd-crs:control.tau=0.3. Every kind takes both.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from specsafe.decoding.named import named, split
from specsafe.decoding.safety.methods import parse_changes

NUMBERS = ("epsilon", "delta", "posterior_temperature", "threshold", "top_k", "beta", "leak")
ALSO = (*NUMBERS, "changes")  # keys of an arm that become part of its rule= or method=
_CALLED = {"rate": "leak"}  # what the native engine calls a number of a rule, where it is another word


def key_of(number: str) -> str:
    """What an arm calls a number of a rule."""
    return _CALLED.get(number, number)


def as_text(given: Mapping[str, Any]) -> dict[str, Any]:
    """Keys of an arm with numbers and changes written into rule and method. Raises ValueError where there is neither."""
    left = {k: v for k, v in given.items() if k not in ALSO}
    numbers = {k: given[k] for k in NUMBERS if given.get(k) is not None}
    if numbers:
        rule = str(given.get("rule") or "auto")
        if rule == "auto":
            raise ValueError(f"{next(iter(numbers))}= is a number of a rule; add rule=…")
        words = {"leak": "rate"}
        left["rule"] = _with(rule, {words.get(k, k): v for k, v in numbers.items()})
    changes = parse_changes(given.get("changes") or "")
    if changes:
        if not given.get("method"):
            raise ValueError("changes belong to a method; add method=…")
        left["method"] = _with(str(given["method"]), changes)
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


def _with(text: str, more: Mapping[str, Any]) -> str:
    """A text with further values. Raises ValueError for one that it has already."""
    name, values = split(text)
    twice = [k for k in more if k in values]
    if twice:
        raise ValueError(f"{twice[0]} is said twice")
    told = [f"{k}={v if isinstance(v, str) else json.dumps(v)}" for k, v in {**values, **more}.items()]
    return f"{name}:{','.join(told)}"
