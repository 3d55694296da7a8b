"""The table of methods: every published decoder, its missing controls, and what we would do instead.

Numbers are those of the sources (docs/safety.md names them). To add a method, copy a row.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from specsafe.decoding.safety.parts import (
    Bins,
    Choice,
    Fixed,
    Gate,
    Method,
    Prior,
    Random,
    Risk,
    Score,
    Steering,
    check,
    kind_of,
)
from specsafe.errors import UserError

_I = Choice("min_k", alpha=0.5, guard=1)
_U = Choice("union", alpha=0.5)
_SSD = Method(
    "SSD, official: Llama-2's alphas",
    replace(_I, alpha=0.3),
    replace(_U, alpha=0.8),
    Bins(),
)
_SEED = Method(
    "SSD as the seed wrote it: bins looked at only where a round ends, theta not snapped",
    _I,
    _U,
    Bins(check="round_end", snap=False),
    gate=Gate(150),
)
_CRS = Method("SSD-CRS, default weights, one token late", _I, _U, Score())
_BEST = replace(_CRS, about="SSD-CRS, the published best weights", control=Score(0, 0.3, 0, 0.3))
_ZERO = Score(lag=0, normalized=True, tau=0.2)
# The published base of .003 times |h| of about 295, by which its training (and not its decoding) multiplied it
_SCALE = 0.9
_HUGE = 10**300  # above it an integer is no float

METHODS: Mapping[str, Method] = {
    "vanilla": Method("the target's argmax on this engine, drafts verified"),
    "ssd": _SSD,
    "ssd-seed": _SEED,
    "ssd-floor": replace(_SSD, about="SSD whose theta never falls below 1/7", control=Bins(floor=1 / 7)),
    "ssd-crs": _CRS,
    "ssd-crs-best": _BEST,
    "ssd-crs-gated": replace(_CRS, about="SSD-CRS behind the published perplexity gate", gate=Gate(150)),
    "ssd-crs-user-gate": replace(
        _CRS,
        about="SSD-CRS, gate over the user's words, held 7 tokens",
        gate=Gate(150, "user"),
        control=Score(hold=7),
    ),
    "ssd-crs-zero-lag": replace(
        _CRS, about="SSD-CRS without the lag, weights divided by their sum", control=_ZERO
    ),
    "ssd-crs-trie": replace(
        _CRS, about="SSD-CRS without the lag, over whole refusal openings", control=_ZERO, openings="trie"
    ),
    "ssd-steering": replace(
        _SEED,
        about="SSD as the seed wrote it, its draft steered; bins never reset, as published",
        control=Bins(check="round_end", snap=False, forget=True),
        steering=Steering(_SCALE),
    ),
    "ssd-crs-steering": replace(
        _CRS, about="SSD-CRS, its draft steered the more the higher the score", steering=Steering(_SCALE, 5.0)
    ),
    "continuous": Method(
        "no modes: alpha is a function of the risk", union=Choice("all"), control=Risk(), openings="trie"
    ),
    "aasd-frozen": Method(
        "the target's first logits blended into the draft's, constant; samples",
        Choice("top_k", 0.3, guard=2, fallback="target_top"),
        Choice("union", 0.8),
        Bins(strict=True, match="top"),
        prior=Prior(0.3, 1.0),
        recheck=0.5,
        sampled=True,
    ),
    "aasd-decay": replace(
        _SSD, about="the same blend, decaying, under SSD's controller; greedy", prior=Prior(0.3, 0.92)
    ),
    "ssd-crs-aasd": replace(
        _BEST, about="SSD-CRS best weights and the decaying blend", prior=Prior(0.3, 0.92)
    ),
    "safedecoding": Method(
        "SafeDecoding, official: the first two tokens",
        Choice("min_k", 3.0, 5),
        Choice("min_k", 3.0, 5),
        until=2,
    ),
    "safedecoding-seed": Method(
        "SafeDecoding as the seed wrote it: five tokens, fixed sets",
        Choice("top_k", 2.0, 5, fallback="union"),
        Choice("top_k", 2.0, 5, fallback="union"),
        until=5,
    ),
    "typical": Method("typical acceptance, for reference", who="rule", rule="typical"),
    "rejection": Method(
        "rejection sampling at temperature 1, for reference", who="rule", rule="rejection", sampled=True
    ),
    "always-intersection": Method("control: intersection at every token", _I, _U, Fixed(0)),
    "always-union": Method("control: union at every token", _I, _U, Fixed(1)),
    "random-mode": Method(
        "control: union by a coin; set control.share to a method's own share", _I, _U, Random(0.3)
    ),
    "composite": Method(
        "control: one alpha at every token, over the whole vocabulary",
        union=Choice("all", 0.5),
        control=Fixed(1),
    ),
    "draft-alone": Method("control: the draft answers", who="draft"),
    "self-draft": replace(
        _CRS, about="control: the target drafts for itself under the draft's system prompt", draft="self"
    ),
    "safe-prompt": Method(
        "control: the target alone, under the draft's system prompt", who="target", target_system="draft"
    ),
}


def find(name: str, changes: Mapping[str, Any] | None = None) -> Method:
    """A method of the table, with parts changed: {"control.tau": 0.3, "union.alpha": 0.8, "until": 5}.

    Raises UserError for an unknown method, part or key, a part that the method does not have, a value of another
    type, and a number outside its range.
    """
    if name not in METHODS:
        raise UserError(f"unknown method {name!r}", f"methods are: {', '.join(METHODS)}")
    method = METHODS[name]
    for path, value in (changes or {}).items():
        method = _changed(name, method, path, value)
    return check(name, method)


def parse_changes(text: str) -> dict[str, Any]:
    """The JSON object of an arm's `changes`; empty text is none. Raises ValueError."""
    try:
        values = json.loads(text) if text else {}
    except json.JSONDecodeError:
        values = None
    if not isinstance(values, dict):
        raise ValueError('changes must be a JSON object such as {"control.tau": 0.3}')
    return values


def _changed(name: str, record: Any, path: str, value: Any) -> Any:
    key, _, rest = path.partition(".")
    known = [f.name for f in dataclasses.fields(record) if f.name != "about"]
    if key not in known:
        raise UserError(f"method {name} has no part or number {key!r}", f"there are: {', '.join(known)}")
    now, kind = getattr(record, key), kind_of(record, key)
    if rest:
        if not dataclasses.is_dataclass(now):
            raise UserError(f"method {name} has no {key}, so {path!r} cannot be set", "choose another method")
        return replace(record, **{key: _changed(name, now, rest, value)})
    if kind is None:
        raise UserError(f"method {name}: {path} is no number or word, got {value!r}", "set a part of it")
    number = isinstance(value, float) or (type(value) is int and abs(value) < _HUGE)
    fits = number if kind is float else number and value == value // 1 if kind is int else type(value) is kind
    if not fits:
        raise UserError(
            f"method {name}: {path}={value!r} is of another type than {kind.__name__}", "mend the value"
        )
    return replace(record, **{key: kind(value)})
