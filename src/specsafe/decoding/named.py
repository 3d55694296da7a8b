"""What decides on draft tokens, as a text names it: NAME or NAME:KEY=VALUE,KEY=VALUE. This module needs no torch.

A server's setting, a field of a request and an arm's key are such texts. The rules themselves are in `rules`; a test
holds the table below against them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

from specsafe.decoding.safety.methods import METHODS, find
from specsafe.decoding.safety.parts import Method
from specsafe.errors import UserError

STANDARD = "standard"  # vLLM's own rule
Kind = Literal["rule", "method"]


class RuleFacts(NamedTuple):
    """lossless: leaves the target's distribution alone. numbers: parameter -> default, None where it must be named."""

    lossless: bool
    numbers: Mapping[str, float | None] = {}


RULE_FACTS: Mapping[str, RuleFacts] = {
    "greedy": RuleFacts(True),
    "agreement": RuleFacts(True),
    "one_hot": RuleFacts(True),
    "rejection": RuleFacts(True),
    "block": RuleFacts(True),
    "typical": RuleFacts(False, {"epsilon": 0.09, "delta": 0.3, "posterior_temperature": 1.0}),
    "threshold": RuleFacts(False, {"threshold": None, "posterior_temperature": 1.0}),
    "accumulated": RuleFacts(False, {"threshold": None, "posterior_temperature": 1.0}),
    "relaxed": RuleFacts(False, {"top_k": None, "delta": 1.0, "posterior_temperature": 1.0}),
    "lenient": RuleFacts(False, {"beta": None, "posterior_temperature": 1.0}),
    "leak": RuleFacts(False, {"rate": None}),
}


class _Range(NamedTuple):
    words: str
    holds: Callable[[float], bool]


_RANGES: Mapping[str, _Range] = {
    "epsilon": _Range("above 0 and at most 1", lambda x: 0 < x <= 1),
    "delta": _Range("above 0", lambda x: x > 0),
    "posterior_temperature": _Range("0 or above", lambda x: x >= 0),
    "threshold": _Range("above 0 and at most 1", lambda x: 0 < x <= 1),
    "top_k": _Range("a whole number, 1 or above", lambda x: isinstance(x, int) and x >= 1),
    "beta": _Range("above 0 and at most 1", lambda x: 0 < x <= 1),
    "rate": _Range("between 0 and 1", lambda x: 0 <= x <= 1),
}


class Named(NamedTuple):
    """text: the name with all numbers of a rule, or the changed parts of a method: the same for all spellings."""

    text: str
    name: str
    values: Mapping[str, Any]
    lossless: bool


def named(kind: Kind, text: str) -> Named:
    """What a text names, inside vLLM: `standard`, a rule of ours, or a method that can be had there.

    Raises UserError for an unknown name or key, a value outside its range, and a method that vLLM cannot give.
    """
    name, values = split(text)
    if kind == "method":
        require_inside_vllm(name, find(name, values))
        changed = [f"{key}={value}" for key, value in sorted(values.items())]
        return Named(f"method {_joined(name, changed)}", name, values, name == "vanilla")
    if name == STANDARD:
        if values:
            raise UserError("rule standard is vLLM's own and takes no parameter", "leave its numbers out")
        return Named(STANDARD, name, values, True)
    if name not in RULE_FACTS:
        raise UserError(
            f"unknown acceptance rule {name!r}", f"rules are: {STANDARD}, {', '.join(RULE_FACTS)}"
        )
    require_rule(name, values)
    numbers = {**RULE_FACTS[name].numbers, **values}
    return Named(
        _joined(name, [f"{key}={value:g}" for key, value in numbers.items()]),
        name,
        values,
        RULE_FACTS[name].lossless,
    )


def split(text: str) -> tuple[str, dict[str, Any]]:
    """NAME:KEY=VALUE,… -> name and values. Raises UserError for a part that is no pair, or comes twice."""
    name, _, rest = text.partition(":")
    pairs = [_pair(text, part) for part in rest.split(",")] if rest else []
    values = dict(pairs)
    if len(values) < len(pairs):
        raise UserError(f"{text!r} says a key twice", "say each once")
    return name.strip(), values


def require_rule(name: str, values: Mapping[str, Any]) -> None:
    """Raises UserError for an unknown rule, an unknown or missing parameter, and a value outside its range."""
    if name not in RULE_FACTS:
        raise UserError(f"unknown acceptance rule {name!r}", f"rules are: {', '.join(RULE_FACTS)}")
    taken = RULE_FACTS[name].numbers
    for key in values:
        if key not in taken:
            known = f"it takes: {', '.join(taken)}" if taken else "it takes no parameter; leave it out"
            raise UserError(f"rule {name!r} has no parameter {key!r}", known)
    for key, default in taken.items():
        if key in values:
            _require_in_range(name, key, values[key])
        elif default is None:
            raise UserError(f"rule {name!r} needs {key!r}", f"add {key}=…, {_RANGES[key].words}")


def _require_in_range(name: str, key: str, value: object) -> None:
    words, holds = _RANGES[key]
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not number or not holds(value):  # type: ignore[arg-type]
        raise UserError(
            f"{key} of rule {name!r} must be {words}, got {value!r}", f"{key} takes a number: {words}"
        )


def require_inside_vllm(name: str, method: Method) -> None:
    """Raises UserError for a method that vLLM cannot give, with the reason."""
    reason = _out_of_reach(method)
    if reason:
        possible = [n for n, m in METHODS.items() if not _out_of_reach(m)]
        raise UserError(
            f"method {name} cannot be had inside vLLM: {reason}", f"there are: {', '.join(possible)}"
        )


def _out_of_reach(method: Method) -> str:
    """Why vLLM cannot give a method; empty where it can."""
    reasons = {
        "it is an acceptance rule (rule=, specsafe_rule)": method.who == "rule",
        "target or draft answers alone there": method.who in ("target", "draft"),
        "the draft has a prompt or a network of its own there": bool(method.draft or method.target_system),
        "its gate reads what the draft thinks of the prompt, which nobody sees there": method.gate
        is not None,
        "the first token comes from the target alone there, and it works on the first tokens": method.prior
        is not None
        or method.until is not None,
        "the draft cannot be steered there": method.steering is not None,
        "it draws its tokens": method.sampled,
    }
    return next((reason for reason, holds in reasons.items() if holds), "")


def _joined(name: str, numbers: list[str]) -> str:
    return f"{name}:{','.join(numbers)}" if numbers else name


def _pair(text: str, part: str) -> tuple[str, Any]:
    key, equals, value = (x.strip() for x in part.partition("="))
    if not (key and equals and value):
        raise UserError(f"{part!r} of {text!r} is no KEY=VALUE", "write NAME:KEY=VALUE,KEY=VALUE")
    return key, value_of(value)


def value_of(text: str) -> Any:
    """A number or another JSON value, else the text itself: a word."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text
