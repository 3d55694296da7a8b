"""What decides on draft tokens, as a server or a request names it: a rule, a safety-aware method, or vLLM itself.

    specsafe_rule="typical:epsilon=0.09,delta=0.3"      specsafe_method="ssd-crs:control.tau=0.3"

A server names one of them in its additional_config, a request in its extra_args (over HTTP: vllm_xargs).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple, Protocol

from specsafe.decoding.named import STANDARD, Kind, named
from specsafe.decoding.rules import AcceptanceRule, make_rule
from specsafe.decoding.safety.methods import find
from specsafe.decoding.safety.parts import Method
from specsafe.errors import UserError

PREFIX = "specsafe_"
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
    return setting("method" if key == "specsafe_method" else "rule", text)


@lru_cache(maxsize=1024)
def setting(kind: Kind, text: str) -> Setting:
    """kind: rule or method; text: NAME or NAME:KEY=VALUE,KEY=VALUE. Raises UserError, see decoding.named."""
    asked = named(kind, text)
    if kind == "method":
        return Setting(asked.text, method=find(asked.name, asked.values))
    if asked.name == STANDARD:
        return Setting(STANDARD)
    return Setting(asked.text, rule=make_rule(asked.name, **asked.values))


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
