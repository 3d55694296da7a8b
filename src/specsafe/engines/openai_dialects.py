"""What each server understands beyond OpenAI's protocol, and where its replies keep what a sample needs: one table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from specsafe.engines.arm_openai import OpenAIArm
from specsafe.engines.base import Json


class Drafting(NamedTuple):
    """What a reply tells of its drafting; None where it does not. limit: num_speculative_tokens as the server has it."""

    drafted: int | None = None
    accepted: int | None = None
    rounds: int | None = None
    accepted_at: tuple[int, ...] | None = None
    limit: int | None = None


class Dialect(NamedTuple):
    """One server.

    asks: keys of every request. prefill: keys of a chat request whose last message is the beginning of the answer;
    None where the server would answer that message instead of continuing it. token_ids: reply and choice -> the
    answer's token ids, unchecked. drafting: reply and choice -> what was drafted. counters: how its Prometheus
    counters of speculation begin; "" if it has none that this specsafe knows. cannot_audit: why it cannot tell what its
    model says of given tokens; "" if it can.
    """

    asks: Callable[[OpenAIArm], Json]
    prefill: Json | None
    token_ids: Callable[[Json, Json], Any]
    drafting: Callable[[Json, Json], Drafting]
    counters: str
    cannot_audit: str


class ReplyError(Exception):
    """A reply that is not what the protocol says; asking again may help."""


class ImpossibleCounts(Exception):  # noqa: N818  what is told of drafting cannot be; asking again would not mend it
    """Counts of drafting that contradict themselves."""


def count(value: Any, name: str) -> int | None:
    """A count of a reply, or None where it is not told. Raises ImpossibleCounts for anything else."""
    if value is None:
        return None
    if type(value) is not int or not 0 <= value < 2**53:
        raise ImpossibleCounts(f"{name} is no count")
    return value


def possible(told: Drafting) -> Drafting:
    """What was told, if it can be. Raises ImpossibleCounts where more was accepted than drafted, or in more rounds."""
    if told.drafted is not None and told.accepted is not None and told.accepted > told.drafted:
        raise ImpossibleCounts(f"{told.accepted} accepted of {told.drafted} drafted tokens")
    if told.rounds is not None and max(told.accepted_at or (), default=0) > told.rounds:
        raise ImpossibleCounts(f"accepted in more rounds than the {told.rounds} there were")
    if None not in (told.drafted, told.rounds, told.limit):
        most = (told.rounds or 0) * (told.limit or 0)
        if (told.drafted or 0) > most:
            raise ImpossibleCounts(
                f"{told.drafted} drafted in {told.rounds} rounds of at most {told.limit} tokens"
            )
    return told


def part(value: Any, *names: str) -> Any:
    """value[names[0]][names[1]]…, None where something on the way is not there."""
    for name in names:
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def at_least(histogram: Any) -> tuple[int, ...] | None:
    """How often exactly 0, 1, 2, … were accepted -> how often at least 1, 2, …; None for anything else."""
    if not isinstance(histogram, list) or not histogram:
        return None
    exactly = [count(n, "the acceptance histogram") or 0 for n in histogram]
    return tuple(sum(exactly[k:]) for k in range(1, len(exactly)))


def _vllm_drafting(reply: Json, choice: Json) -> Drafting:
    told = part(reply, "metrics", "speculative_decoding")
    if not isinstance(told, Mapping):
        return Drafting()
    return Drafting(
        drafted=count(told.get("num_draft_tokens"), "num_draft_tokens"),
        accepted=count(told.get("num_accepted_draft_tokens"), "num_accepted_draft_tokens"),
        rounds=count(told.get("num_spec_steps"), "num_spec_steps"),
        accepted_at=at_least(told.get("acceptance_histogram")),
        limit=count(told.get("num_spec_tokens"), "num_spec_tokens"),
    )


def _llamacpp_drafting(reply: Json, choice: Json) -> Drafting:
    told = part(reply, "timings")
    drafted = count(part(told, "draft_n"), "draft_n")
    if drafted is None:
        # no counts in timings: there is no draft, or it proposed nothing; without `verbose` neither is known
        settings = part(reply, "__verbose", "generation_settings")
        return Drafting(drafted=0, accepted=0) if part(settings, "speculative.types") else Drafting()
    return Drafting(drafted=drafted, accepted=count(part(told, "draft_n_accepted"), "draft_n_accepted"))


def _sglang_drafting(reply: Json, choice: Json) -> Drafting:
    told = part(choice, "meta_info")
    if part(told, "spec_verify_ct") is None:
        return Drafting()
    return Drafting(
        drafted=count(part(told, "spec_draft_token_num"), "spec_draft_token_num"),
        accepted=count(part(told, "spec_accept_token_num"), "spec_accept_token_num"),
        rounds=count(part(told, "spec_verify_ct"), "spec_verify_ct"),
        accepted_at=at_least(part(told, "spec_accept_histogram")),
    )


def _sglang_tokens(reply: Json, choice: Json) -> Any:
    """Rows of [log-probability, token id, text]."""
    rows = part(choice, "meta_info", "output_token_logprobs")
    return [row[1] for row in rows] if isinstance(rows, list) and all(map(_is_row, rows)) else None


def _is_row(row: Any) -> bool:
    return isinstance(row, list) and len(row) > 1


def _nothing(arm: OpenAIArm) -> Json:
    return {}


# A server may have sampling defaults of its own, as vLLM takes them from the model's generation_config.json: each is set.
DIALECTS = {
    "vllm": Dialect(
        asks=lambda arm: {
            "return_token_ids": True,
            "return_tokens_as_token_ids": True,
            "top_k": -1,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
        },
        prefill={"add_generation_prompt": False, "continue_final_message": True},
        token_ids=lambda reply, choice: choice.get("token_ids"),
        drafting=_vllm_drafting,
        counters="vllm:spec_decode_",
        cannot_audit="",
    ),
    "llamacpp": Dialect(
        asks=lambda arm: {
            "return_tokens": True,
            "verbose": True,
            "cache_prompt": False,
            "top_k": 0 if arm.temperature else 40,
            "min_p": 0.0,
            "repeat_penalty": 1.0,
        },
        prefill={},
        token_ids=lambda reply, choice: part(reply, "__verbose", "tokens") or reply.get("tokens"),
        drafting=_llamacpp_drafting,
        counters="llamacpp:spec_decode_",
        cannot_audit="llama-server tells no log-probabilities of a prompt",
    ),
    "sglang": Dialect(
        asks=lambda arm: {
            "return_meta_info": True,
            "top_k": -1,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
        },
        prefill={"continue_final_message": True},
        token_ids=_sglang_tokens,
        drafting=_sglang_drafting,
        counters="",
        cannot_audit="its log-probabilities of a prompt come in a form that is not read here",
    ),
    "plain": Dialect(
        asks=_nothing,
        prefill=None,
        token_ids=lambda reply, choice: None,
        drafting=lambda reply, choice: Drafting(),
        counters="",
        cannot_audit="nothing says that it tells log-probabilities of a prompt",
    ),
}
