"""Arms of a vLLM in a worker process, with or without specsafe's plugin in it."""

from __future__ import annotations

import json
from typing import ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from specsafe.decoding.named import named
from specsafe.engines.arm_base import LocalArm
from specsafe.engines.arm_rules import PluginArm, require_method
from specsafe.engines.openai_rules import LOSSLESS, UNNAMED

OWN = (
    "greedy",
    "rejection",
    "strict",
    "probabilistic",
    "standard",
    "block",
    "synthetic",
)  # names of vLLM's rules
PLUGIN = {
    "agreement": True,
    "one_hot": True,
    "typical": False,
    "threshold": False,
    "accumulated": False,
    "relaxed": False,
    "lenient": False,
    "leak": False,
}  # rules that specsafe's plugin puts into vLLM


class VllmArm(PluginArm, LocalArm):
    """vLLM in a worker process: its offline engine, started for this arm alone."""

    speculation_fields: ClassVar[tuple[str, ...]] = (
        *("draft", "rule", "method", "num_speculative_tokens", "draft_sample_method"),
    )
    width_fields: ClassVar[tuple[str, ...]] = ("draft", "rule", "method", "draft_sample_method")
    rules: ClassVar[dict[str, bool]] = {UNNAMED: True, **{r: LOSSLESS[r] for r in OWN}, **PLUGIN}

    kind: Literal["vllm"] = "vllm"
    model: str = Field(
        description="folder with safetensors, config and tokenizer (specsafe models export makes one)"
    )
    draft: str = Field(
        "none",
        description="none, self (the target drafts for itself), ngram or ngram:N (prompt lookup of up to N tokens), or a folder",
    )
    rule: str = Field(
        "auto",
        description=f"acceptance rule: of vLLM itself {', '.join(OWN)}, as far as its version has them; of specsafe's plugin "
        f"{', '.join(PLUGIN)}, with numbers as typical:epsilon=0.09,delta=0.3 or in keys of their own as kind=native "
        "has them; auto: vLLM's default",
    )
    method: str = Field(
        "", description="safety-aware method of specsafe's plugin, as ssd-crs or ssd-crs:control.tau=0.3"
    )
    num_speculative_tokens: int = Field(4, ge=1, le=64, description="draft tokens proposed a round")
    draft_sample_method: Literal["auto", "greedy", "probabilistic"] = Field(
        "auto", description="how the draft chooses its tokens; auto: vLLM's default"
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="of weights and arithmetic; auto: that of the weights' files"
    )
    stop: str = Field("", description="a stop string, or a JSON list of them")
    eager: bool = Field(True, description="leave out compiling and graphs: starts sooner, runs slower")
    kv_space: float = Field(
        2.0, gt=0, le=4096, description="GiB of key-value cache; too little preempts requests"
    )
    python: str = Field(
        "", description="the Python whose environment holds vLLM; empty: the one that runs specsafe"
    )

    @field_validator("rule")
    @classmethod
    def _known_rule(cls, rule: str) -> str:
        name, colon, _ = rule.partition(":")
        if rule != "auto" and name not in cls.rules:
            raise ValueError(f"unknown rule {rule!r}; known: {', '.join((*OWN, *PLUGIN))}")
        if colon or name in PLUGIN:
            named("rule", rule)
        return rule

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        require_method(self.method, self.rule, self.temperature)
        if not self.speculative and (self.method or self.rule != "auto"):
            raise ValueError("a rule or a method decides on draft tokens; add draft=")
        if self.rule == "greedy" and self.temperature > 0:
            raise ValueError("rule=greedy needs temperature=0")
        if self.stop.startswith("["):
            _texts(self.stop)
        return self

    @property
    def stops(self) -> tuple[str, ...]:
        """The stop strings."""
        if not self.stop.startswith("["):
            return (self.stop,) if self.stop else ()
        return _texts(self.stop)

    @property
    def needs_plugin(self) -> bool:
        """Whether something decides that vLLM itself does not have."""
        return bool(self.method) or self.rule_in_force.partition(":")[0] in PLUGIN

    def width_arm(self) -> Self:
        """The target drafts for itself, by vLLM's own rule."""
        plain = {"draft": "self", "rule": "auto", "method": "", "draft_sample_method": "auto"}
        return self.model_copy(update=plain)

    def leak_arm(self, rate: float) -> Self | None:
        """The plugin's leak; a prompt lookup drafts too little for it to show."""
        if self.draft.startswith("ngram"):
            return None
        return self.model_copy(update={"rule": f"leak:rate={rate:g}", "method": ""})


def _texts(text: str) -> tuple[str, ...]:
    try:
        values = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"stop begins with [ and is no JSON list: {error.msg}") from error
    if not values or not all(isinstance(v, str) and v for v in values):
        raise ValueError("stop must be a JSON list of texts, not empty")
    return tuple(values)
