"""The table of acceptance rules by name, and how a named rule with parameters is made."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, fields
from typing import Any, NamedTuple

from specsafe.decoding.records import Acceptance, AcceptanceRule, Proposal, Target
from specsafe.decoding.rules_lossless import Agreement, Block, Greedy, OneHotRejection, Rejection
from specsafe.decoding.rules_lossy import Accumulated, Leak, Lenient, Relaxed, Threshold, Typical
from specsafe.errors import UserError

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
    "settable",
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


def make_rule(name: str, **parameters: Any) -> AcceptanceRule:
    """The rule `name` of RULES with its parameters (numbers).

    Raises UserError for an unknown rule, an unknown or missing parameter, and a value outside its range.
    """
    if name not in RULES:
        raise UserError(f"unknown acceptance rule {name!r}", f"rules are: {', '.join(RULES)}")
    taken = settable(RULES[name])
    for parameter in parameters:
        if parameter not in taken:
            known = f"it takes: {', '.join(taken)}" if taken else "it takes no parameter; leave it out"
            raise UserError(f"rule {name!r} has no parameter {parameter!r}", known)
    for parameter, declared in taken.items():
        if parameter in parameters:
            _check(name, parameter, parameters[parameter])
        elif declared.default is MISSING:
            raise UserError(
                f"rule {name!r} needs {parameter!r}", f"add {parameter}=…, {_RANGES[parameter].words}"
            )
    return RULES[name](**parameters)


def settable(rule: type) -> dict[str, Field[Any]]:
    """What a user may set: `accumulated` is chosen by the rule's name instead."""
    return {field.name: field for field in fields(rule) if field.name in _RANGES}


def _check(name: str, parameter: str, value: object) -> None:
    words, holds = _RANGES[parameter]
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not number or not holds(value):  # type: ignore[arg-type]
        raise UserError(
            f"{parameter} of rule {name!r} must be {words}, got {value!r}",
            f"set {parameter} to a number {words}",
        )
