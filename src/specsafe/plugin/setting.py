"""What decides on draft tokens, as a server or a request names it: a rule, a safety-aware method, or vLLM itself.

    specsafe_rule="typical:epsilon=0.09,delta=0.3"      specsafe_method="ssd-crs:control.tau=0.3"

A server names one of them in its additional_config, a request in its extra_args (over HTTP: vllm_xargs).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple, Protocol

from specsafe.decoding.rules import RULES, AcceptanceRule, make_rule, settable
from specsafe.decoding.safety.methods import METHODS, find
from specsafe.decoding.safety.parts import Method
from specsafe.errors import UserError

PREFIX = "specsafe_"
STANDARD = "standard"
_GREEDY_BELOW = 1e-5  # vLLM takes the most likely token below this temperature


@dataclass(frozen=True)
class Setting:
    """What decides. text: its name with all its numbers, the same for all spellings. Neither rule nor method: vLLM itself."""

    text: str
    rule: AcceptanceRule | None = None
    method: Method | None = None

    @property
    def lossless(self) -> bool:
        """Whether it claims to leave the target's distribution alone."""
        if self.method is not None:
            return self.text == "method vanilla"
        return self.rule is None or self.rule.lossless


class Reach(NamedTuple):
    """What a server has for a plugin to work with: drafts, and whether the draft's logits are at hand."""

    drafts: bool
    logits: bool


class Sampling(Protocol):
    """What is read of vLLM's SamplingParams."""

    temperature: float
    top_p: float
    top_k: int
    min_p: float
    min_tokens: int
    presence_penalty: float
    frequency_penalty: float
    repetition_penalty: float
    bad_words: Any
    logit_bias: Any
    allowed_token_ids: Any
    structured_outputs: Any
    thinking_token_budget: Any
    extra_args: Any


def read_fields(fields: Mapping[str, Any] | None) -> Setting | None:
    """The setting that fields name; None where none of them is ours.

    Raises UserError for an unknown field of ours, for two settings at once, and for what `setting` refuses.
    """
    ours = {k: v for k, v in (fields or {}).items() if k.startswith(PREFIX)}
    unknown = sorted(ours.keys() - {"specsafe_rule", "specsafe_method"})
    if unknown:
        raise UserError(f"unknown field {unknown[0]!r}", "fields are: specsafe_rule, specsafe_method")
    if not ours:
        return None
    if len(ours) == 2:
        raise UserError("specsafe_rule and specsafe_method exclude each other", "leave one of them out")
    key, text = ours.popitem()
    if not isinstance(text, str):
        raise UserError(f"{key} must be a text, got {text!r}", 'write it as "typical:epsilon=0.09,delta=0.3"')
    return setting(key.removeprefix(PREFIX), text)


@lru_cache(maxsize=1024)
def setting(kind: str, text: str) -> Setting:
    """kind: rule or method; text: NAME or NAME:KEY=VALUE,KEY=VALUE.

    Raises UserError for an unknown name or key, a value outside its range, and a method that vLLM cannot give.
    """
    name, _, rest = text.partition(":")
    values = dict(_pair(text, part) for part in rest.split(",")) if rest else {}
    if kind == "method":
        return _of_method(name, values)
    if name == STANDARD and not values:
        return Setting(STANDARD)
    if name == STANDARD:
        raise UserError("rule standard is vLLM's own and takes no parameter", "leave its numbers out")
    if name not in RULES:
        raise UserError(f"unknown acceptance rule {name!r}", f"rules are: {STANDARD}, {', '.join(RULES)}")
    rule = make_rule(name, **values)
    numbers = [f"{key}={getattr(rule, key):g}" for key in settable(type(rule))]
    return Setting(_named(name, numbers), rule=rule)


def _of_method(name: str, values: Mapping[str, Any]) -> Setting:
    method = find(name, values)
    reason = _out_of_reach(method)
    if reason:
        possible = [n for n, m in METHODS.items() if not _out_of_reach(m)]
        raise UserError(
            f"method {name} cannot be had inside vLLM: {reason}", f"there are: {', '.join(possible)}"
        )
    changed = [f"{key}={value}" for key, value in sorted(values.items())]
    return Setting("method " + _named(name, changed), method=method)


def _out_of_reach(method: Method) -> str:
    """Why vLLM cannot give a method; empty where it can."""
    reasons = {
        "it is an acceptance rule (specsafe_rule)": method.who == "rule",
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


def _named(name: str, numbers: list[str]) -> str:
    return f"{name}:{','.join(numbers)}" if numbers else name


def _pair(text: str, part: str) -> tuple[str, Any]:
    key, equals, value = part.partition("=")
    if not (key and equals and value):
        raise UserError(f"{part!r} of {text!r} is no KEY=VALUE", "write NAME:KEY=VALUE,KEY=VALUE")
    try:
        return key, json.loads(value)
    except json.JSONDecodeError:
        return key, value  # a word


def temperature_of(params: Sampling) -> float:
    """The temperature as vLLM applies it."""
    return 0.0 if params.temperature < _GREEDY_BELOW else params.temperature


def require_possible(asked: Setting, reach: Reach, params: Sampling | None = None) -> None:
    """Refuse what a server cannot do, for all requests (params None) or for one. Raises UserError."""
    if asked.text == STANDARD:
        return
    if not reach.drafts:
        raise UserError(
            f"{asked.text}: the server drafts nothing", "start it with --speculative-config, or leave it out"
        )
    if asked.method is not None and not reach.logits:
        raise UserError(
            f"{asked.text} needs a draft that is a model: this one has no distributions",
            'speculate with "method": "draft_model"',
        )
    if params is not None:
        _require_plain(asked, params)


def _require_plain(asked: Setting, params: Sampling) -> None:
    """Our rules know a target by its logits and a temperature, and nothing else that vLLM does to them."""
    temperature = temperature_of(params)
    if temperature and asked.method is not None:
        raise UserError(f"{asked.text} needs temperature 0, got {temperature:g}", "set temperature to 0")
    if temperature and asked.text == "greedy":
        raise UserError(f"rule greedy needs temperature 0, got {temperature:g}", "set temperature to 0")
    drawn = {"top_p": params.top_p < 1, "top_k": params.top_k > 0, "min_p": params.min_p > 0}
    shaped = {
        "presence_penalty": bool(params.presence_penalty),
        "frequency_penalty": bool(params.frequency_penalty),
        "repetition_penalty": params.repetition_penalty != 1,
        "min_tokens": params.min_tokens > 0,
        "bad_words": bool(params.bad_words),
        "logit_bias": bool(params.logit_bias),
        "allowed_token_ids": params.allowed_token_ids is not None,
        "structured_outputs": params.structured_outputs is not None,
        "thinking_token_budget": params.thinking_token_budget is not None,
    }
    found = [name for name, holds in {**(drawn if temperature else {}), **shaped}.items() if holds]
    if found:
        raise UserError(
            f"{asked.text} knows logits and a temperature alone, not {found[0]}",
            f'leave {found[0]} out, or ask for "specsafe_rule": "standard"',
        )
