"""What runs behind an address: dialect, version, model, and what the server itself says of speculation."""

from __future__ import annotations

import hashlib
import json
import random
from typing import Any, NamedTuple

from specsafe.engines.arm_openai import OpenAIArm
from specsafe.engines.base import Json
from specsafe.engines.openai_client import Client, GaveUp, Passing, Refused, patiently
from specsafe.engines.openai_dialects import part
from specsafe.errors import UserError

_OWNERS = {"vllm": "vllm", "llamacpp": "llamacpp", "sglang": "sglang"}
_VERSIONS = {
    "vllm": ("/version",),
    "llamacpp": (),
    "sglang": ("/server_info", "/get_server_info"),
    "plain": ("/api/version", "/info"),
}
LETTERS = "ABCDEFGHIJ"


class Server(NamedTuple):
    """What a server says of itself.

    model: the name to ask for. told: facts for the fingerprint. rule: the acceptance rule that it names itself, or "".
    letters: token id -> option letter, where tokens come as ids.
    """

    dialect: str
    version: str
    model: str
    told: Json
    rule: str
    letters: dict[int, str]


async def look_at(client: Client, arm: OpenAIArm) -> Server:
    """Ask a server who it is. Raises UserError where it does not answer, or does not serve the model."""
    try:
        listed = (await patiently(arm, lambda: client.look("/models", api=True), random.Random())).value
    except GaveUp as error:
        raise gone(arm, error) from error
    if listed.status in (401, 403):
        raise UserError(
            f"the server at {arm.url} does not let us in: {listed.status}",
            "name the variable that holds the key with key_env=",
        )
    cards = (
        [c for c in _json(listed.body).get("data") or () if isinstance(c, dict)]
        if listed.status == 200
        else []
    )
    card = _card(arm, cards)
    owner = part(card, "owned_by")
    dialect = arm.dialect if arm.dialect != "auto" else _OWNERS.get(str(owner), "plain")
    version = await _version(client, arm, dialect)
    told: Json = {"owner": _text(owner), "root": _text(card.get("root"))}
    rule = ""
    if dialect == "llamacpp":
        props = await _object(client, arm, "/props")
        version = _text(props.get("build_info")) or version
        told |= _props(props)
    if dialect == "vllm":
        told["max_model_len"] = card.get("max_model_len") if type(card.get("max_model_len")) is int else None
        speculation = await _speculation(client, arm)
        told |= speculation
        rule = str(speculation.get("rejection_sample_method") or "")
    letters = (
        await _letters(client, str(card.get("id") or arm.model)) if dialect == "vllm" and arm.top else {}
    )
    return Server(dialect, version, str(card.get("id") or arm.model), told, rule, letters)


def gone(arm: OpenAIArm, error: GaveUp) -> UserError:
    """The server does not answer at all."""
    tries = len(error.reasons)
    return UserError(
        f"the server at {arm.url} does not answer ({tries} {'try' if tries == 1 else 'tries'}): {error}",
        "start it, then run the same command; finished answers are kept",
    )


def _card(arm: OpenAIArm, cards: list[Json]) -> Json:
    """The entry of the list of models that the arm means; {} if the server keeps no list."""
    named = [str(c.get("id"))[:80] for c in cards]
    if arm.model:
        found = next((c for c in cards if c.get("id") == arm.model), None)
        if cards and found is None:
            raise UserError(
                f"the server at {arm.url} does not serve {arm.model!r}", f"it serves {', '.join(named[:8])}"
            )
        return found or {}
    if len(cards) != 1:
        served = f"serves {', '.join(named[:8])}" if cards else "does not say what it serves"
        raise UserError(f"the server at {arm.url} {served}", "name one with model=")
    return cards[0]


async def _version(client: Client, arm: OpenAIArm, dialect: str) -> str:
    for path in _VERSIONS.get(dialect, ()):
        version = _text((await _object(client, arm, path)).get("version"))
        if version:
            return version
    return ""


def _props(props: Json) -> Json:
    """Of llama-server's /props what stays the same from call to call."""
    template = props.get("chat_template")
    slots, context = props.get("total_slots"), part(props, "default_generation_settings", "n_ctx")
    return {
        "weights": _text(props.get("model_ftype")),
        "root": _text(props.get("model_path")),
        "slots": slots if type(slots) is int else None,
        "context_per_slot": context if type(context) is int else None,
        "chat_template_sha256": hashlib.sha256(template.encode("utf-8", "replace")).hexdigest()
        if isinstance(template, str)
        else None,
    }


async def _speculation(client: Client, arm: OpenAIArm) -> Json:
    """The configuration of speculation that vLLM itself shows, in development mode alone (VLLM_SERVER_DEV_MODE=1)."""
    config = part(await _object(client, arm, "/server_info?config_format=json"), "vllm_config")
    if not isinstance(config, dict):
        return {}
    speculative = config.get("speculative_config") or {}
    names = ("method", "rejection_sample_method", "draft_sample_method", "num_speculative_tokens", "model")
    told = {("draft" if n == "model" else n): part(speculative, n) for n in names}
    return {
        "speculation": "told by the server",
        "dtype": _text(part(config, "model_config", "dtype")),
        **{name: value for name, value in told.items() if isinstance(value, str | int)},
    }


async def _letters(client: Client, model: str) -> dict[int, str]:
    """The tokens that spell an option letter alone, with or without a blank before it."""
    found: dict[int, str] = {}
    for letter in LETTERS:
        for spelled in (letter, f" {letter}"):
            body: Json = {"model": model, "prompt": spelled, "add_special_tokens": False}
            try:
                tokens = (await client.post("/tokenize", body, api=False)).get("tokens")
            except (Passing, Refused, UserError):
                return {}  # a server without this page: letters are then not read from likelihoods
            if isinstance(tokens, list) and len(tokens) == 1 and type(tokens[0]) is int:
                found[tokens[0]] = letter
    return found


async def _object(client: Client, arm: OpenAIArm, path: str) -> Json:
    """A page that a server may have or not; {} where it has not, or never lets anybody see it."""
    try:
        got = (await patiently(arm, lambda: client.look(path), random.Random())).value
    except GaveUp:
        return {}
    return _json(got.body) if got.status == 200 else {}


def _json(body: bytes) -> Json:
    try:
        value: Any = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _text(value: Any) -> str | None:
    """A short text of a server for the fingerprint: printable, cut; None for anything else."""
    if not isinstance(value, str) or not value:
        return None
    return "".join(c if c.isprintable() else "?" for c in value)[:200]
