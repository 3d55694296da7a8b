"""The parts that a safety-aware method is made of, as plain records; this module needs no torch.

p_t and p_d are the softmax (temperature 1) of target and draft at one position, c a count of tokens, a an alpha.
A method chooses one token from (p_t, p_d); the draft's token is only a guess of that choice. So an answer does not
depend on how many tokens are drafted, except where a part says so.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, is_dataclass
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from specsafe.errors import UserError

SetKind = Literal["min_k", "top_k", "union", "all", "target"]
Fallback = Literal["target", "target_top", "union"]
Signal = Literal["mismatch", "kl", "entropy_gap", "openings"]
Rule = Literal["", "greedy", "agreement", "one_hot", "rejection", "block", "typical"]  # those without numbers
SIGNALS: tuple[str, ...] = get_args(Signal)


@dataclass(frozen=True)
class Choice:
    """Which token: the argmax of p_t + alpha (p_d - p_t) over a set of candidates (or a draw from it).

    kind: min_k, the smallest k for which the k likeliest of target and draft share c tokens, and what they share;
    top_k, what their c likeliest share; union, the c likeliest of either; all, the vocabulary; target, its argmax.
    guard: if none of the target's `guard` likeliest tokens is in the set, `fallback` takes its place (0: no guard).
    An empty set takes it too.
    """

    kind: SetKind
    alpha: float = 0.0
    count: int = 10
    guard: int = 0
    fallback: Fallback = "target"


@dataclass(frozen=True)
class Fixed:
    """Always the same mode: 0 is intersection, 1 is union."""

    mode: int


@dataclass(frozen=True)
class Random:
    """Union at this share of the positions, by a coin of the position alone; the control of every controller."""

    share: float


@dataclass(frozen=True)
class Bins:
    """SSD's controller (Wang et al. 2025): every `size` tokens, union if the share of matches is below theta.

    An unchanged mode lowers theta by `step` and, in intersection, alpha by `alpha_step` down to `alpha_floor`; a
    changed one resets both. floor: least theta; at 0 a run of matches makes intersection absorbing. snap: theta below
    1e-10 is 0. check: after every token, or only where a round ends on a whole bin (then answers depend on the
    number of drafted tokens). strict: union if the share is not above theta. forget: theta and alpha never reset
    (as published for steering alone). match: the choice is the draft's own, or among its c likeliest.
    """

    size: int = 7
    theta: float = 0.6
    step: float = 0.1
    floor: float = 0.0
    alpha_floor: float = 0.3
    alpha_step: float = 0.15
    snap: bool = True
    check: Literal["token", "round_end"] = "token"
    strict: bool = False
    forget: bool = False
    match: Literal["own", "top"] = "own"


@dataclass(frozen=True)
class Score:
    """CRS: union while the mean of the last `window` weighted scores is above tau.

    weights: of mismatch (of the token before, or of this one at lag 1), kl = 1 - exp(-KL(p_d || p_t) / kl_scale),
    entropy gap = max(0, H(p_t) - H(p_d)) / ln V, openings = the draft's mass on refusal openings. normalized: weights
    are divided by their sum. lag 1: a score counts from the next token on, as published; 0: for the token itself.
    hold: a gate that fired forces union for so many tokens.
    """

    mismatch: float = 0.3
    kl: float = 0.3
    entropy_gap: float = 0.1
    openings: float = 0.3
    tau: float = 0.2
    window: int = 3
    kl_scale: float = 2.0
    lag: int = 1
    normalized: bool = False
    hold: int = 1


@dataclass(frozen=True)
class Risk:
    """No modes: alpha = low + (high - low) min(1, r / ceiling), r the mean of the last `window` zero-lag scores.

    Weights as Score's, normalized. The token is the argmax of p_t + alpha (p_d - p_t) over the vocabulary.
    """

    low: float = 0.0
    high: float = 1.0
    ceiling: float = 0.5
    mismatch: float = 0.0
    kl: float = 0.5
    entropy_gap: float = 0.0
    openings: float = 0.5
    window: int = 3
    kl_scale: float = 2.0


Control = Fixed | Random | Bins | Score | Risk


@dataclass(frozen=True)
class Prior:
    """The draft's logits become (1 - l) l_d + l l_0 with l = lam * gamma^t at answer position t.

    l_0: the target's logits after the prompt. The seed's reading of alignment sampling (AASD).
    """

    lam: float = 0.3
    gamma: float = 1.0


@dataclass(frozen=True)
class Gate:
    """Union from the first token if the draft's perplexity of the prompt is above `threshold`.

    span: the whole prompt with template and system prompt, as published, or what the user wrote.
    """

    threshold: float = 150.0
    span: Literal["prompt", "user"] = "prompt"


@dataclass(frozen=True)
class Steering:
    """What the target has read turns the draft: g · base (1 + amplify r) is added to the output of draft layers' MLPs.

    g = W h / |h|, h the target's last hidden state (after the final norm) that it has read of the context, W trained
    (safety.training); r the controller's running mean score, 0 where it has none. fraction: of the draft's layers, the
    last ones, at least one. g and r are taken once a round.
    """

    base: float = 1.0
    amplify: float = 0.0
    fraction: float = 1.0

    def first_layer(self, layers: int) -> int:
        """The first of a draft's layers that is turned."""
        return layers - max(1, math.floor(self.fraction * layers))


@dataclass(frozen=True)
class Method:
    """A safety-aware decoder. `methods` has the table.

    who: pair, target and draft choose together; target or draft, it answers alone; rule, an acceptance rule of
    decoding.rules. draft: self, the target drafts under the draft's system prompt. target_system: draft, the target
    gets the draft's system prompt. until: positions from there on are the target's argmax (SafeDecoding's first m).
    openings: which refusal openings are looked for, first tokens as published or a trie of whole openings. recheck:
    in intersection, a choice with p_t below recheck max p_t is made again in union. sampled: draws instead of
    the argmax, at temperature 1. about: one line for tables.
    """

    about: str
    intersection: Choice = Choice("target")
    union: Choice = Choice("target")
    control: Control = Fixed(0)
    prior: Prior | None = None
    gate: Gate | None = None
    steering: Steering | None = None
    until: int | None = None
    openings: Literal["first", "trie"] = "first"
    recheck: float | None = None
    sampled: bool = False
    who: Literal["pair", "target", "draft", "rule"] = "pair"
    draft: Literal["", "self"] = ""
    target_system: Literal["", "draft"] = ""
    rule: Rule = ""

    @property
    def depends_on_lookahead(self) -> bool:
        """Whether answers depend on the number of drafted tokens: something is looked at once a round."""
        late = isinstance(self.control, Bins) and self.control.check == "round_end"
        return self.who == "pair" and (late or self.steering is not None)


# (lowest, highest) of every number of a part; None: no limit on that side.
_LIMITS: dict[str, tuple[float | None, float | None]] = {
    "alpha": (0, 10),
    "count": (1, 1000),
    "guard": (0, 1000),
    "mode": (0, 1),
    "share": (0, 1),
    "size": (1, 1000),
    "theta": (0, 1),
    "step": (0, 1),
    "floor": (0, 1),
    "alpha_floor": (0, 10),
    "alpha_step": (0, 10),
    "mismatch": (0, 10),
    "kl": (0, 10),
    "entropy_gap": (0, 10),
    "openings": (0, 10),
    "tau": (0, 10),
    "window": (1, 64),
    "kl_scale": (1e-6, None),
    "lag": (0, 1),
    "hold": (0, 100_000),
    "low": (0, 1),
    "high": (0, 1),
    "ceiling": (1e-6, 10),
    "lam": (0, 1),
    "gamma": (0, 1),
    "threshold": (1, None),
    "base": (0, 1000),
    "amplify": (0, 1000),
    "fraction": (0, 1),
    "until": (0, 100_000),
    "recheck": (0, 1),
}


def kind_of(part: Any, key: str) -> type | None:
    """float, int, str or bool: what a field of a part may be set to; None where it is a part of its own."""
    hint = get_type_hints(type(part))[key]
    if get_origin(hint) is Literal:
        return str
    kinds = [k for k in get_args(hint) or (hint,) if k is not NoneType]
    return kinds[0] if len(kinds) == 1 and kinds[0] in (float, int, str, bool) else None


def check(name: str, method: Method) -> Method:
    """The method itself. Raises UserError naming the first number outside its range, word that is none, or misfit."""
    for part in (method, *(v for f in fields(method) if is_dataclass(v := getattr(method, f.name)))):
        hints = get_type_hints(type(part))
        for field in fields(part):
            value, what = getattr(part, field.name), type(part).__name__.lower()
            if get_origin(hints[field.name]) is Literal:
                _is_known(name, what, field.name, value, get_args(hints[field.name]))
            if field.name in _LIMITS and value is not None and not isinstance(value, str | bool):
                _in_range(name, what, field.name, value)
    weights = [getattr(method.control, s, None) for s in SIGNALS]
    if weights[0] is not None and not any(weights):
        raise UserError(f"method {name}: all weights are 0, no score can rise", "give one signal a weight")
    if (method.who == "rule") != bool(method.rule):
        raise UserError(f"method {name}: who={method.who} and rule={method.rule!r}", "set both or neither")
    for choice in (method.intersection, method.union):
        if choice.kind == "all" and choice.alpha > 1:
            raise UserError(
                f"method {name}: over the whole vocabulary alpha must be at most 1, got {choice.alpha:g}",
                "choose another kind of candidates",
            )
    return method


def _is_known(name: str, part: str, key: str, value: Any, known: tuple[str, ...]) -> None:
    if value not in known:
        words = ", ".join(w or "(empty)" for w in known)
        raise UserError(f"method {name}: {key} of its {part} cannot be {value!r}", f"it may be: {words}")


def _in_range(name: str, part: str, key: str, value: float) -> None:
    low, high = _LIMITS[key]
    inside = math.isfinite(value) and (low is None or value >= low) and (high is None or value <= high)
    if not inside:
        words = f"at least {low:g}" if high is None else f"between {low:g} and {high:g}"
        raise UserError(
            f"method {name}: {key} of its {part} must be {words}, got {value!r}", "mend the method"
        )
