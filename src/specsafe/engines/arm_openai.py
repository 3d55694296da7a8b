"""Arms behind a server that speaks OpenAI's protocol: vLLM, llama-server, SGLang, Ollama, TGI."""

from __future__ import annotations

import ipaddress
import json
import shlex
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any, ClassVar, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from specsafe.decoding.named import RULE_FACTS, STANDARD, named
from specsafe.engines.arm_base import Auto, Count
from specsafe.engines.arm_rules import PluginArm, require_method
from specsafe.engines.openai_rules import LOSSLESS

Dialect = Literal["vllm", "llamacpp", "sglang", "plain"]
_ASKED_FOR = (STANDARD, *RULE_FACTS)
SERVED = "served"  # a draft that the user did not name


class OpenAIArm(PluginArm):
    """A server, asked over HTTP: one that runs already, or one that specsafe starts.

    What the arm says of speculation is a claim, held against what the server tells; but a vLLM with specsafe's plugin
    is asked for the arm's rule or method in each request.
    """

    rules: ClassVar[dict[str, bool]] = LOSSLESS
    speculation_fields: ClassVar[tuple[str, ...]] = (
        *("url", "serve", "model", "draft", "rule", "method", "num_speculative_tokens"),
        *("key_env", "insecure", "dialect", "telemetry"),
    )
    width_fields: ClassVar[tuple[str, ...]] = speculation_fields

    kind: Literal["openai"] = "openai"
    url: str = Field("", description="address of the API, as http://127.0.0.1:8000/v1")
    serve: str = Field(
        "",
        description="instead of url: the command that starts the server, with {port} where the port goes; no shell reads it. "
        "It is started on this machine, and ended with all its processes",
    )
    serve_timeout: float = Field(
        900, gt=0, le=86400, description="seconds until a server that was started must answer"
    )
    model: str = Field("", description="name of the model on the server; empty: the only one it serves")
    draft: str = Field(
        "none",
        description="claim: what drafts there, in your words; none: nothing; the speculative arm begins with served, "
        "which names nothing",
    )
    rule: str = Field(
        "auto",
        description="the acceptance rule. A vLLM with specsafe's plugin is asked for it in each request: "
        f"{', '.join(_ASKED_FOR)}, with numbers as typical:epsilon=0.09,delta=0.3 or in keys of their own as "
        "kind=native has them. Of any other server it is a claim: "
        f"{', '.join(r for r in LOSSLESS if r not in _ASKED_FOR)}, or a name from above; auto names none "
        "and claims to be lossless",
    )
    method: str = Field(
        "",
        description="a safety-aware method that a vLLM with specsafe's plugin is asked for in each request, as ssd-crs "
        "or ssd-crs:control.tau=0.3",
    )
    num_speculative_tokens: int | None = Field(
        None, ge=1, le=1024, description="claim: draft tokens proposed a round"
    )
    stop: str = Field("", description="a stop string, or a JSON list of them")
    concurrency: Count | Auto = Field(
        "auto",
        description="requests in flight, a recorded factor; auto is 8, and 1 where only counters tell of drafting",
    )
    dialect: Dialect | Auto = Field(
        "auto", description="whose extras are asked for; auto: the server is asked"
    )
    telemetry: Literal["auto", "none"] = Field(
        "auto", description="none: go on although nothing shows that the server drafts; the page says so"
    )
    timeout: float = Field(300, gt=0, le=86400, description="seconds that one attempt may take as a whole")
    retries: int = Field(4, ge=0, le=100, description="further attempts after a fault that may pass")
    patience: float = Field(
        900, gt=0, le=604800, description="seconds that an item may take, all attempts and waits together"
    )
    key_env: str = Field(
        "", pattern="^([A-Za-z_][A-Za-z0-9_]*)?$", description="environment variable that holds the API key"
    )
    insecure: bool = Field(False, description="allow plain http to another machine")

    @field_validator("url")
    @classmethod
    def _plain_address(cls, url: str) -> str:
        if not url:
            return ""
        try:
            parts = urlsplit(url)
            host, _ = parts.hostname, parts.port
        except ValueError as error:
            raise ValueError(f"this is no address: {error}") from error
        if parts.scheme not in ("http", "https") or not host:
            raise ValueError("an address begins with http:// or https:// and names a host")
        if parts.username is not None or parts.password is not None or "@" in parts.netloc:
            raise ValueError("an address with a name or a key in it would be stored; use key_env=")
        if parts.query or parts.fragment:
            raise ValueError("an address ends with its path; keys go into key_env=")
        if not url.isascii() or not url.isprintable() or " " in url:
            raise ValueError("an address holds printable ASCII characters alone")
        return url.rstrip("/")

    @field_validator("rule")
    @classmethod
    def _known_rule(cls, rule: str) -> str:
        name, colon, _ = rule.partition(":")
        if rule != "auto" and name not in LOSSLESS:
            raise ValueError(f"unknown rule {rule!r}; known: {', '.join(LOSSLESS)}")
        if colon:
            named("rule", rule)
        return rule

    @field_validator("serve")
    @classmethod
    def _startable(cls, serve: str) -> str:
        if not serve:
            return ""
        try:
            words = shlex.split(serve)
        except ValueError as error:
            raise ValueError(f"this is no command: {error}") from error
        if not any("{port}" in word for word in words):
            raise ValueError("the command must say where its port goes: --port {port}")
        if any(word.startswith("--api-key") for word in words):
            raise ValueError(
                "a key in the command would be stored; give the server its key by its environment, and name it with key_env="
            )
        return serve

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if bool(self.url) == bool(self.serve):
            raise ValueError("name url= (a server that runs) or serve= (a command that starts one), not both")
        if self.url.startswith("http://") and not self.loopback and not self.insecure:
            raise ValueError(
                "prompts and key would cross the network in the clear; use https, or insecure=true"
            )
        require_method(self.method, self.rule, self.temperature)
        if self.stop.startswith("["):
            _require_texts(self.stop)
        return self

    @property
    def speculative(self) -> bool:
        """See LiveArm.speculative; any claim about a draft makes an arm one."""
        named_ = self.rule != "auto" or bool(self.method)
        return self.draft != "none" or named_ or self.num_speculative_tokens is not None

    @property
    def address(self) -> str:
        """Where it is, or the command that starts it: what tells one server from another."""
        return self.url or self.serve

    def handed_on(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """See LiveArm.handed_on: of url and serve only what is not given anew."""
        replaced = {"url", "serve"} if {"url", "serve"} & set(given) else set()
        return {k: v for k, v in self.model_dump().items() if k not in replaced}

    @property
    def loopback(self) -> bool:
        """Whether the server is on this machine, by its address alone: no name is looked up."""
        if not self.url:
            return True
        host = urlsplit(self.url).hostname or ""
        try:
            return ipaddress.ip_address(host).is_loopback
        except ValueError:
            return host == "localhost"

    @property
    def stops(self) -> tuple[str, ...]:
        """The stop strings."""
        if not self.stop.startswith("["):
            return (self.stop,) if self.stop else ()
        return tuple(json.loads(self.stop))

    @property
    def must_ask(self) -> bool:
        """Whether rule or method are no claim, whatever the server: one with its numbers can only be asked for."""
        return bool(self.method) or ":" in self.rule

    def as_speculative(self) -> Self:
        """The same arm with a draft that nobody named, unless one is named."""
        return self if self.draft != "none" else self.model_copy(update={"draft": SERVED})

    def width_arm(self) -> None:
        """A server of somebody else's cannot be made to draft for itself; --width names one that does."""

    def leak_arm(self, rate: float) -> Self | None:
        """The leak of specsafe's plugin; whether the server has it is known when it is asked."""
        if self.dialect not in ("auto", "vllm"):
            return None
        return self.model_copy(update={"rule": f"leak:rate={rate:g}", "method": ""})

    def by_its_own_rule(self) -> Self:
        """The same arm where nothing is asked for or claimed of a rule."""
        return self.model_copy(update={"rule": "auto", "method": ""})


def serve_words(serve: str) -> set[str]:
    """Programs and modules that a command names, without folders: python -m vllm.entrypoints.… names vllm."""
    return {PurePath(word).name for word in shlex.split(serve)} | {
        word.partition(".")[0] for word in shlex.split(serve) if "/" not in word
    }


def _require_texts(text: str) -> None:
    try:
        values = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"stop begins with [ and is no JSON list: {error.msg}") from error
    if not values or not all(isinstance(v, str) and v for v in values):
        raise ValueError("stop must be a JSON list of texts, not empty")
