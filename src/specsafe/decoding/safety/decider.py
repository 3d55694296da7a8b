"""A safety-aware method in the loop: it remembers of each row what its controller needs, and chooses slot by slot."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from specsafe.decoding.drafters import Clock, Draft
from specsafe.decoding.loop import Prompt
from specsafe.decoding.records import Acceptance
from specsafe.decoding.safety import control
from specsafe.decoding.safety.choose import Allowed, Array, Candidates, allowed, gap, pick, taken
from specsafe.decoding.safety.control import Seen, Setting, State
from specsafe.decoding.safety.parts import Gate, Method
from specsafe.decoding.safety.signals import Openings
from specsafe.decoding.safety.views import Views, Wanted, longer, look, wanted

# mode: 0 intersection, 1 union, 2 the target alone. *_token: what each would have chosen. risk: the score that decided.
DECIDED = (
    *("mode", "target_token", "draft_token", "intersection_token", "union_token", "modes_differ", "guarded"),
    *("k", "set_size", "alpha", "risk", "distance", "entropy_gap", "openings", "score_gap", "matched"),
)


class Choices(NamedTuple):
    """Choices at the first slots, as far as any row got: tokens, int64 [B, ≤S]; what stands after a wrong guess means nothing.

    decided: the columns DECIDED of all slots, float64 [B, S, …], if they were asked for. state: of control.begin, and
    `node`, int64 [B], where in the refusal openings each row is.
    """

    tokens: Array
    decided: Array | None
    state: State


class _Slot(NamedTuple):
    """What was found at a slot, or at all: arrays [B, …]."""

    token: Array
    mode: Array
    alpha: Array
    risk: Array
    openings: Array
    matched: Array


def decide(
    method: Method, openings: Openings, state: State, views: Views, *, columns: bool = False
) -> Choices | None:
    """Choose at every slot of a round as long as guesses are right; the sets of all slots are made at once.

    None: the lists of candidates must be longer.
    """
    sets = allowed(method.intersection, views.table), allowed(method.union, views.table)
    lacking = [s.short & views.finite for s in sets]
    doubtful = any(x.any() for x in lacking)
    active, none, found = np.ones(len(views.guesses), bool), np.zeros(len(views.guesses)), []
    for slot in range(views.guesses.shape[1]):
        active = active & (slot < views.lengths)
        if not (columns or active.any()):
            break
        heard = views.openings[:, slot]
        mass = openings.mass(heard, state["node"]) if heard.size else none
        seen = Seen(views.kl[:, slot], views.gap[:, slot], mass)
        position = views.positions[:, slot]
        setting = control.before(method, state, seen, position, views.coins[:, slot])
        if method.until is not None:
            mode = np.where(position >= method.until, control.TARGET, setting.mode)
            setting = setting._replace(mode=mode)
        again = columns or method.recheck is not None  # then the union is drawn from in intersection too
        used = columns | (setting.mode == control.INTERSECTION), again | (setting.mode == control.UNION)
        if doubtful and any((active & u & x[:, slot]).any() for u, x in zip(used, lacking, strict=True)):
            return None
        token, matched = _chosen(method, views, sets, setting, slot)
        found.append(_Slot(token, *setting, mass, matched))
        new = control.after(method, state, seen, matched, active)
        if heard.size:
            new = {**new, "node": np.where(active, openings.step(state["node"], token), state["node"])}
        state = new
        active = active & (token == views.guesses[:, slot])
    tokens = np.stack([f.token for f in found], 1)
    told = _columns(method, views, sets, found) if columns else None
    return Choices(tokens, told, control.at_round_end(method, state))


_Sets = tuple[Allowed, Allowed]  # of intersection and of union, [B, S, …]


def _chosen(method: Method, views: Views, sets: _Sets, setting: Setting, slot: int) -> tuple[Array, Array]:
    """The token of a slot, and whether the controller counts it as a match: the draft's own, or one of its likeliest."""
    table = Candidates(*(t[:, slot] for t in views.table))
    narrow, wide = (s.inside[:, slot] for s in sets)
    inside = np.where((setting.mode == control.UNION)[:, None], wide, narrow)
    place = pick(inside, table, setting.alpha, views.draws[:, slot] if method.sampled else None)
    if method.recheck is not None:
        # AASD's conditional verification as the seed has it: an unlikely choice of the intersection is drawn again
        unlikely = taken(table.p, place) < method.recheck * table.p[:, 0]
        again = pick(wide, table, np.full(len(place), method.union.alpha), views.coins[:, slot])
        place = np.where(unlikely & (setting.mode == control.INTERSECTION), again, place)
    if method.until is not None:
        place = np.where(setting.mode == control.TARGET, 0, place)
    token = taken(table.ids, place)
    if getattr(method.control, "match", "own") == "own":
        return token, token == views.own[:, slot]
    return token, taken(table.draft_rank, place) < method.union.count


def _columns(method: Method, views: Views, sets: _Sets, slots: Sequence[_Slot]) -> Array:
    """The columns DECIDED of all slots: float64 [B, S, …]."""
    found = _Slot(*(np.stack(parts, 1) for parts in zip(*slots, strict=True)))
    table, in_union = views.table, found.mode == control.UNION
    draws = views.draws if method.sampled else None
    alphas = (
        np.where(found.mode == control.INTERSECTION, found.alpha, method.intersection.alpha),
        np.where(in_union, found.alpha, method.union.alpha),
    )
    narrow, wide = (
        taken(table.ids, pick(s.inside, table, a, draws)) for s, a in zip(sets, alphas, strict=True)
    )
    gaps = [gap(s.inside, table, a) for s, a in zip(sets, alphas, strict=True)]
    of = {
        "mode": found.mode,
        "target_token": table.ids[..., 0],
        "draft_token": views.own,
        "intersection_token": narrow,
        "union_token": wide,
        "modes_differ": narrow != wide,
        "guarded": np.where(in_union, sets[1].guarded, sets[0].guarded),
        "k": np.where(in_union, sets[1].k, sets[0].k),
        "set_size": np.where(in_union, sets[1].size, sets[0].size),
        "alpha": found.alpha,
        "risk": found.risk,
        "distance": views.kl,
        "entropy_gap": views.gap,
        "openings": found.openings,
        "score_gap": np.where(in_union, gaps[1], gaps[0]),
        "matched": found.matched,
    }
    return np.stack([of[name].astype(np.float64) for name in DECIDED], -1)


def decide_round(
    method: Method,
    openings: Openings,
    state: State,
    logits: Tensor,
    draft: Draft,
    clock: Clock,
    want: Wanted,
    *,
    columns: bool = False,
) -> tuple[Acceptance, State]:
    """What a method makes of a round, and the state after it; pure.

    logits: float32 [B, S, V] of the target, draft.logits those of the draft, S slots of each. state: of control.begin,
    and `node`. A row whose guesses all stand gets the last of them again as `token`: there is no bonus.
    """
    if draft.logits is None:
        raise ValueError("a safety-aware method needs a draft that has logits")
    views, length = look(logits, draft.logits, draft.proposal, clock, want), want.length
    while (choices := decide(method, openings, state, views, columns=columns)) is None:
        length = min(4 * length, want.words)
        views = longer(views, logits, draft.logits, length, want.words)
    seen = choices.tokens.shape[1]
    real = np.arange(seen) < views.lengths[:, None]
    accepted = ((choices.tokens == views.guesses[:, :seen]) & real).cumprod(1).sum(1)
    token = taken(choices.tokens, np.minimum(accepted, seen - 1))
    home, told = logits.device, choices.decided
    acceptance = Acceptance(
        torch.from_numpy(accepted).to(home),
        torch.from_numpy(token).to(home),
        torch.from_numpy(views.told).float().to(home),
        None if told is None else torch.from_numpy(told).to(home),
    )
    return acceptance, choices.state


def begin_rows(method: Method, gated: Array) -> State:
    """The state of new rows as decide_round takes it; gated: bool [B], the gate fired for the prompt."""
    return {**control.begin(method, gated), "node": np.zeros(len(gated), np.int64)}


def perplexity(gate: Gate, surprisals: Tensor, prompt: Prompt) -> float:
    """Exp of the mean surprisal of a prompt's tokens after the first, or of the user's; NaN where there are none."""
    begin, end = (
        (1, len(prompt.read_by_draft)) if gate.span == "prompt" or prompt.user is None else prompt.user
    )
    of = surprisals[max(begin, 1) - 1 : end - 1]
    return float(of.mean().exp())


class MethodDecider:
    """A method for the loop of `loop.Decoder`: state a row, joined and dropped as the loop does.

    words: how many words target and draft both have, the first ones of each, if not all; they choose among these alone.
    heard: where the drafter leaves the surprisals of the prompts that it has just read (NetworkDrafter.heard).
    """

    bonus = False
    looks_ahead = False

    def __init__(
        self, method: Method, openings: Openings, *, telemetry: bool, words: int | None = None
    ) -> None:
        self._method, self._openings, self._telemetry = method, openings, telemetry
        self._wanted = wanted(method, openings, words or len(openings.restart), telemetry=telemetry)
        self.columns: tuple[str, ...] = DECIDED if telemetry else ()
        self._state: State = {}
        self._prior: Tensor | None = None
        self._fresh = 0  # rows, the last ones, whose prior is not known yet
        self.heard: list[Tensor] = []

    def join(self, prompts: Sequence[Prompt]) -> None:
        """See Decider.join."""
        gated = np.zeros(len(prompts), bool)
        if self._method.gate is not None:
            heard = self.heard[-len(prompts) :]
            if len(heard) != len(prompts):
                raise ValueError("a gate needs the surprisals of the prompts")
            told = [perplexity(self._method.gate, h, p) for h, p in zip(heard, prompts, strict=True)]
            gated = np.array(told) > self._method.gate.threshold
            self.heard.clear()
        new = begin_rows(self._method, gated)
        self._state = {k: np.concatenate([self._state.get(k, v[:0]), v]) for k, v in new.items()}
        self._fresh += len(prompts)

    @property
    def gated(self) -> bool:
        """Whether it has to hear the surprisals of prompts."""
        return self._method.gate is not None

    @property
    def risk(self) -> Tensor | None:
        """The running mean score of each row, float64 [B]; None without one."""
        risk = self._state.get("risk")
        return None if risk is None else torch.from_numpy(risk)

    def drop(self, row: int) -> None:
        """See Decider.drop."""
        kept = np.arange(len(self._state["node"]) - 1)
        kept[row : row + 1] = len(kept)
        self._state = {k: v[kept] for k, v in self._state.items()}
        if self._prior is not None:
            self._prior = self._prior[torch.from_numpy(kept).to(self._prior.device)]

    def decide(self, logits: Tensor, draft: Draft, clock: Clock) -> Acceptance:
        """See Decider.decide."""
        scores, words = draft.logits, self._wanted.words
        if scores is None:
            raise ValueError("a safety-aware method needs a draft that has logits")
        if self._method.prior is not None:
            prior, slots = self._priors(logits[:, 0, :words]), clock.counters[:, : logits.shape[1]]
            scores = self._blended(scores[..., :words], prior[:, None], slots)
        acceptance, self._state = decide_round(
            self._method,
            self._openings,
            self._state,
            logits,
            draft._replace(logits=scores),
            clock,
            self._wanted,
            columns=self._telemetry,
        )
        return acceptance

    def guess(self, scores: Tensor, positions: Tensor) -> Tensor:
        """The draft's logits as they will be blended, for rows whose prior is known: see drafters.Guess."""
        prior, shared = self._prior, scores[:, : self._wanted.words]
        if self._method.prior is None or prior is None or not len(prior):
            return scores
        known = len(prior)
        return torch.cat([self._blended(shared[:known], prior, positions[:known]), shared[known:]])

    def _priors(self, now: Tensor) -> Tensor:
        """The prior of each row [B, V]; of a new one it is what the target says now."""
        if self._prior is None or self._fresh:
            known = len(now) - self._fresh
            old = now[:0] if self._prior is None else self._prior
            self._prior, self._fresh = torch.cat([old, now[known:]]), 0
        return self._prior

    def _blended(self, scores: Tensor, prior: Tensor, positions: Tensor) -> Tensor:
        """(1 - l) l_d + l l_0, l = lam gamma^t."""
        blend = self._method.prior
        if blend is None:
            return scores
        share = blend.lam * torch.pow(blend.gamma, positions.float())[..., None]
        return (1 - share) * scores + share * prior
