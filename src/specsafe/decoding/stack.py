"""From a configuration to something that decodes: networks, tokenizer, rule, drafter, plan.

The configuration is that of engines.arm_native.NativeArm as a plain mapping, its files already found: `model_path`
and, where another model drafts, `draft_path`; `keep`: layers of the target that draft; `lookup`: longest n-gram;
`steering_path`: the projection of a method that is steered, empty while it is trained.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from specsafe.decoding.drafters import Drafter, LookupDrafter, NetworkDrafter, ScriptedDrafter
from specsafe.decoding.loop import Decoder, Plan, Prompt
from specsafe.decoding.rules import AcceptanceRule, Agreement, make_rule
from specsafe.decoding.safety.decider import MethodDecider
from specsafe.decoding.safety.methods import find, parse_changes
from specsafe.decoding.safety.parts import Method
from specsafe.decoding.safety.signals import Openings, first_tokens, trie
from specsafe.decoding.safety.steering import Steerer, load_projection
from specsafe.decoding.stopping import StopRule
from specsafe.errors import UserError
from specsafe.models.checkpoint import load_checkpoint
from specsafe.models.invariant import Proof, make_invariant
from specsafe.models.network import LlamaNetwork, Network, network_of
from specsafe.models.tokenizer import Tokenizer, load_tokenizer, same_vocabulary

Json = Mapping[str, Any]
# Networks by what they were read from and how: a stack that follows another one takes over those that both need.
Loaded = dict[tuple[object, ...], tuple[Network, Proof | None]]
LETTERS = "ABCDEFGHIJ"


@dataclass(frozen=True)
class Stack:
    """An arm that is loaded: `decoder` makes a fresh loop over it."""

    config: Json
    tokenizer: Tokenizer
    target: Network
    draft: Network | None
    proofs: dict[str, Proof]
    rule: AcceptanceRule
    letters: dict[str, tuple[int, ...]]
    draft_tokenizer: Tokenizer
    method: Method | None = None
    projection: Tensor | None = None

    def decoder(self) -> Decoder:
        """A loop with empty caches."""
        c, who = self.config, self.method.who if self.method else "rule"
        alone = who in ("target", "draft") or c["draft"] == "none"
        plan = Plan(
            rule=self.rule,
            stop=self.stop_rule(),
            drafted=0 if alone else c["num_speculative_tokens"],
            temperature=c["temperature"],
            seed=c["seed"],
            slots=c["slots"],
            capacity=c["context"],
            width=c["width"],
            top=c["top"],
            watch=tuple(t for tokens in self.letters.values() for t in tokens),
            telemetry=c["telemetry"] == "on",
        )
        if who == "draft" and self.draft is not None:
            return Decoder(self.draft, None, plan)
        if who != "pair":
            return Decoder(self.target, None if alone else self._drafter(plan), plan)
        drafter, decider = self._drafter(plan), self._decider(plan)
        if not isinstance(drafter, NetworkDrafter):
            raise ValueError(f"no network for draft={c['draft']}")
        drafter.guess, drafter.heard = decider.guess, decider.heard if decider.gated else None
        steerer = self._steerer(decider)
        drafter.steer = None if steerer is None else steerer.push
        return Decoder(self.target, drafter, plan, decider, steerer)

    def _decider(self, plan: Plan) -> MethodDecider:
        if self.method is None:
            raise ValueError("no method")
        shared = min(self.target.vocabulary, (self.draft or self.target).vocabulary)
        return MethodDecider(self.method, self.openings(self.method), words=shared, telemetry=plan.telemetry)

    def _steerer(self, decider: MethodDecider) -> Steerer | None:
        if self.method is None or self.method.steering is None:
            return None
        if self.projection is None:
            raise ValueError("no projection: this stack is for its training")
        target, draft = self.steerable()
        return Steerer(self.method.steering, self.projection, target, draft, lambda: decider.risk)

    def steerable(self) -> tuple[LlamaNetwork, LlamaNetwork]:
        """Target and draft, if the one can steer the other. Raises UserError otherwise."""
        if not isinstance(self.target, LlamaNetwork) or not isinstance(self.draft, LlamaNetwork):
            raise UserError(
                "a method that is steered needs target and draft of the Llama family",
                "models read through transformers: cannot be steered",
            )
        return self.target, self.draft

    def openings(self, method: Method) -> Openings:
        """The refusal openings that a method looks for, in the target's words."""
        words, home = self.target.vocabulary, self.target.device
        if method.openings == "trie":
            pieces = ((t, self.tokenizer.bytes_of(t)) for t in range(self.tokenizer.vocab_size))
            return trie(self.tokenizer.encode, pieces, words, home)
        return first_tokens(self.tokenizer.encode, words, home)

    def stop_rule(self) -> StopRule:
        """When an answer ends."""
        return StopRule(
            self.tokenizer.end_ids,
            tuple(self.config["stops"]),
            self.config["max_tokens"],
            self.tokenizer.bytes_of,
        )

    def prompt(self, item: str, text: str, replicate: int = 0, reply: str | None = None) -> Prompt:
        """What target and draft read before the first token of an answer, or of what they say of a reply."""
        c, method = self.config, self.method
        theirs = c["draft_system"] or c["system"]
        if method is not None and method.who == "draft":
            return Prompt(item, self._tokens(self.draft_tokenizer, text, theirs, reply), replicate)
        safe = method is not None and method.target_system == "draft"
        tokens = self._tokens(self.tokenizer, text, theirs if safe else c["system"], reply)
        if self.draft is None:
            return Prompt(item, tokens, replicate)
        other = self.draft_tokenizer
        read = self._tokens(other, text, theirs, reply)
        gate = method.gate if method is not None else None
        if gate is None or gate.span != "user":
            return Prompt(item, tokens, replicate, read)
        return Prompt(item, tokens, replicate, read, _changed(read, self._tokens(other, "", theirs, reply)))

    def prompt_tokens(self, text: str) -> tuple[int, ...]:
        """What the target reads."""
        return self.prompt("", text).tokens

    def _tokens(
        self, tokenizer: Tokenizer, text: str, system: str, reply: str | None = None
    ) -> tuple[int, ...]:
        prefill = self.config["prefill"]
        if self.config["chat_template"] == "on":
            return tuple(tokenizer.chat(text, system, prefill, reply))
        if reply is not None:
            raise UserError("only a chat template tells a prompt from its answer", "use chat_template=on")
        return tuple(tokenizer.raw(text + (f" {prefill}" if prefill else "")))

    def letter_logprobs(self, watched: tuple[float, ...]) -> list[tuple[str, float]]:
        """Log-probability of each option letter as first token, its best spelling."""
        values = iter(watched)
        best = {
            letter: max((next(values) for _ in ids), default=None) for letter, ids in self.letters.items()
        }
        return [(letter, value) for letter, value in best.items() if value is not None]

    def _drafter(self, plan: Plan) -> Drafter | None:
        kind, device = self.config["draft"], self.target.device
        if kind == "none":
            return None
        pair = self.method is not None and self.method.who == "pair"
        if kind == "script":
            return ScriptedDrafter(device, script_tokens(self.config["script"], self.tokenizer))
        if self.config["lookup"]:
            return LookupDrafter(device, self.config["lookup"])
        if self.draft is None:
            raise ValueError(f"no network for draft={kind}")
        return NetworkDrafter(
            self.draft,
            plan.slots,
            plan.capacity + plan.drafted + 1,
            device,
            temperature=plan.temperature,
            sampled=plan.temperature > 0 and self.rule.needs_q and not pair,
            vocabulary=self.target.vocabulary,
        )


def open_stack(config: Json, loaded: Loaded | None = None) -> Stack:
    """Load what a configuration names. Raises UserError for everything that cannot work.

    loaded: networks of the stack before, which holds those of this one afterwards; where the configuration says hold, the
    others stay too.
    """
    torch.set_num_threads(config["threads"])
    dtype = getattr(torch, config["dtype"])
    tokenizer = load_tokenizer(_folder(config["model_path"]))
    before = {} if loaded is None else dict(loaded)
    now: Loaded = {} if loaded is None else loaded
    if not config.get("hold"):
        now.clear()

    def once(role: str, path: str, device: str) -> tuple[Network, Proof | None]:
        key = (path, dtype, device, config["arithmetic"], config["context"], config["threads"])
        now[key] = before.get(key) or now.get(key) or _network(role, config, path, dtype, device)
        return now[key]

    target, proof = once("target", config["model_path"], config["device"])
    found = {"target": proof} if proof else {}
    if target.vocabulary < tokenizer.vocab_size:
        raise UserError(
            f"the target has {target.vocabulary} rows of vocabulary, its tokenizer {tokenizer.vocab_size} tokens",
            "resize the model's embedding to its tokenizer, or use the tokenizer that it was trained with",
        )
    method = find(config["method"], parse_changes(config["changes"])) if config["method"] else None
    if method is not None and method.draft == "self":
        config = {**config, "draft": "self", "draft_path": "", "keep": ()}
    draft = _draft(config, target, tokenizer, once)
    if draft is not None and draft[1] is not None:
        found["draft"] = draft[1]
    if method is not None:
        rule = make_rule(method.rule) if method.rule else Agreement()
    else:
        drafts = config["draft"] != "none"
        rule = make_rule(config["rule"], **config["rule_parameters"]) if drafts else Agreement()
    read_by_draft = load_tokenizer(_folder(config["draft_path"])) if config["draft_path"] else tokenizer
    drafting, letters = draft[0] if draft else None, _letters(tokenizer)
    stack = Stack(config, tokenizer, target, drafting, found, rule, letters, read_by_draft, method)
    return _steered(stack) if method is not None and method.steering is not None else stack


def _steered(stack: Stack) -> Stack:
    """The same stack with its projection, if there is one yet."""
    target, draft = stack.steerable()
    path = stack.config["steering_path"]
    return replace(stack, projection=load_projection(Path(path), draft, target)) if path else stack


def _changed(tokens: tuple[int, ...], without: tuple[int, ...]) -> tuple[int, int]:
    """Where tokens differ from those of the same template around nothing: the user's words, from and up to."""
    shorter, begin, end = min(len(tokens), len(without)), 0, 0
    while begin < shorter and tokens[begin] == without[begin]:
        begin += 1
    while end < shorter - begin and tokens[-1 - end] == without[-1 - end]:
        end += 1
    return begin, len(tokens) - end


def script_tokens(script: str, tokenizer: Tokenizer) -> list[int]:
    """A script as token ids: a JSON list of them, or a text. Raises UserError for an id that is no token."""
    ids = json.loads(script) if script.startswith("[") else tokenizer.encode(script)
    wrong = [i for i in ids if not 0 <= i < tokenizer.vocab_size]
    if wrong:
        raise UserError(
            f"the script names token {wrong[0]}, the vocabulary has {tokenizer.vocab_size}", "mend script="
        )
    return list(ids)


def _network(
    role: str, config: Json, path: str, dtype: torch.dtype, device: str
) -> tuple[Network, Proof | None]:
    where, invariant = _device(device), config["arithmetic"] == "invariant"
    if path.startswith("transformers:"):
        from specsafe.models.adapter import TransformersNetwork

        if invariant:
            raise UserError(
                "a model read through transformers has no invariant arithmetic", "use arithmetic=fast"
            )
        other = TransformersNetwork(_folder(path), dtype, where)
        _require_context(config, other, role)
        return other, None
    network = network_of(load_checkpoint(Path(path), dtype), where)
    _require_context(config, network, role)
    if not invariant:
        return network, None
    proved, proof = make_invariant(network, config["context"])
    return proved, proof


def _draft(
    config: Json,
    target: Network,
    tokenizer: Tokenizer,
    once: Callable[[str, str, str], tuple[Network, Proof | None]],
) -> tuple[Network, Proof | None] | None:
    """The network that drafts, and its proof if it is not part of the target."""
    kind = config["draft"]
    if kind in ("none", "script") or config["lookup"]:
        return None
    if kind == "self":
        return target, None
    if config["keep"]:
        if not isinstance(target, LlamaNetwork):
            raise UserError(f"draft={kind} needs a network of the Llama family", "name another draft")
        keep = config["keep"]
        if max(keep) >= target.layers:
            raise UserError(
                f"draft={kind}: the target has layers 0 to {target.layers - 1}", "name some of them"
            )
        return target.with_layers(keep), None
    path = config["draft_path"]
    other = load_tokenizer(_folder(path))
    if not same_vocabulary(tokenizer, other):
        raise UserError(
            f"draft {kind} has another tokenizer ({other.sha256[:12]}…) than the target ({tokenizer.sha256[:12]}…)",
            "choose a draft of the same family, or draft=layers:…",
        )
    draft, proof = once("draft", path, config["draft_device"] or config["device"])
    if draft.vocabulary < tokenizer.vocab_size:
        raise UserError(
            f"draft {kind} has {draft.vocabulary} rows of vocabulary, the tokenizer {tokenizer.vocab_size} tokens",
            "choose a draft whose embedding holds every token",
        )
    return draft, proof


def _letters(tokenizer: Tokenizer) -> dict[str, tuple[int, ...]]:
    """Option letter -> the single tokens that spell it, with and without a space before."""
    spellings = {a: [tokenizer.encode(text) for text in (a, f" {a}")] for a in LETTERS}
    return {a: tuple(dict.fromkeys(s[0] for s in found if len(s) == 1)) for a, found in spellings.items()}


def _require_context(config: Json, network: Network, role: str) -> None:
    if config["context"] > network.context:
        raise UserError(
            f"context={config['context']} is longer than the {role}'s {network.context} positions",
            f"use context={network.context} or less",
        )


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
        if device.type not in ("cpu", "cuda"):
            raise UserError(f"device {name!r} is not one that this engine knows", "use cpu, cuda or cuda:N")
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"device {name!r} cannot be used: {str(error).splitlines()[0]}", "use cpu") from error
    return device


def _folder(path: str) -> Path:
    return Path(path.removeprefix("transformers:"))
