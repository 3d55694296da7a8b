"""llama.cpp arms."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import Field

from specsafe.engines.arm_base import LocalArm


class LlamaCppArm(LocalArm):
    """llama.cpp in a worker process, through xllamacpp."""

    speculation_fields: ClassVar[tuple[str, ...]] = ("draft", "n_max", "p_min", "rule", "leak")
    width_fields: ClassVar[tuple[str, ...]] = ("draft", "rule", "leak")
    rules: ClassVar[dict[str, bool]] = {"greedy": True, "agreement": True, "synthetic": False}

    kind: Literal["llamacpp"] = "llamacpp"
    draft: str = Field(
        "none",
        description="none, self (the target drafts for itself), layers:0-9+12-29 (the target with only these "
        "layers), ngram-cache, ngram-simple, ngram-map-k, ngram-mod, or the path of a GGUF file",
    )
    rule: Literal["auto", "greedy", "agreement", "synthetic", "rejection", "typical"] = Field(
        "auto", description="acceptance rule; auto is greedy at temperature 0 and agreement above"
    )
    leak: float = Field(
        0.0, ge=0, le=1, description="rule=synthetic: the share of draft tokens waved through"
    )
    n_max: int = Field(3, ge=1, le=64, description="draft tokens proposed a round (num_speculative_tokens)")
    p_min: float = Field(0.4, ge=0, le=1, description="stop drafting below this draft probability")
    prompt_cache: bool = Field(
        False,
        description="reuse a shared prompt prefix; its rounding may then depend on what was asked before",
    )

    def _auto_rule(self) -> str:
        return "greedy" if self.temperature == 0 else "agreement"

    def width_arm(self) -> Self:
        """The target drafts for itself."""
        return self.model_copy(update={"draft": "self", "rule": "auto", "leak": 0.0})

    def leak_arm(self, rate: float) -> Self | None:
        """llama.cpp's own synthetic acceptance; an n-gram drafts too little for it to show."""
        if self.draft.startswith("ngram"):
            return None
        return self.model_copy(update={"rule": "synthetic", "leak": rate})
