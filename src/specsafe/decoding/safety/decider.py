"""A safety-aware method in the loop: it remembers of each row what its controller needs, and chooses slot by slot."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from specsafe.decoding.drafters import Clock, Draft, fitted
from specsafe.decoding.loop import Prompt
from specsafe.decoding.randomness import Purpose, uniforms
from specsafe.decoding.records import Acceptance
from specsafe.decoding.safety import choose, control
from specsafe.decoding.safety.control import Seen, Setting, State
from specsafe.decoding.safety.parts import Choice, Gate, Method, Risk, Score
from specsafe.decoding.safety.signals import Distances, Openings, distances

# mode: 0 intersection, 1 union, 2 the target alone. *_token: what each would have chosen. risk: the score that decided.
DECIDED = (
    *("mode", "target_token", "draft_token", "intersection_token", "union_token", "modes_differ", "guarded"),
    *("k", "set_size", "alpha", "risk", "distance", "entropy_gap", "openings", "score_gap", "matched"),
)


class Views(NamedTuple):
    """What is known of all slots of a round before any is decided; logits, draft, p, q: float32 [B, S, V].

    own: the draft's likeliest token, guesses: what it proposed (they differ where the draft's logits were blended
    after it guessed), int64 [B, S]; lengths: int64 [B]. positions: in the answer, int64 [B, S]. coins, draws:
    float64 [B, S] in [0, 1).
    """

    logits: Tensor
    draft: Tensor
    p: Tensor
    q: Tensor
    own: Tensor
    guesses: Tensor
    lengths: Tensor
    positions: Tensor
    coins: Tensor
    draws: Tensor
    distances: Distances

    @property
    def slots(self) -> int:
        """How many there are."""
        return self.own.shape[1]


class Choices(NamedTuple):
    """A choice at every slot, int64 [B, S], and the columns DECIDED [B, S, …] if they were asked for."""

    tokens: Tensor
    decided: Tensor | None
    state: State


def decide(
    method: Method, openings: Openings, state: State, views: Views, *, columns: bool = False
) -> Choices:
    """Choose at every slot of a round as long as the guesses are right; what stands after a wrong one means nothing.

    state: of control.begin, and `node`, int64 [B], where in the refusal openings each row is.
    """
    tables = _tables(method, views)
    rows = len(views.own)
    active = torch.ones(rows, dtype=torch.bool, device=views.own.device)
    tokens, told = [], []
    for slot in range(views.slots):
        active = active & (slot < views.lengths)
        seen = Seen(
            views.distances.kl[:, slot],
            views.distances.gap[:, slot],
            openings.mass(views.q[:, slot], state["node"]),
        )
        position = views.positions[:, slot]
        setting = control.before(method, state, seen, position, views.coins[:, slot])
        if method.until is not None:
            mode = torch.where(position >= method.until, control.TARGET, setting.mode)
            setting = setting._replace(mode=mode)
        table = choose.Candidates(*(t[:, slot] for t in tables))
        token, both = _choose(method, views, table, setting, slot, columns=columns)
        matched = _matched(method, table, token, views.own[:, slot])
        if columns:
            told.append(_columns(views, table, setting, seen, both, token, slot, matched))
        tokens.append(token)
        new = control.after(method, state, seen, matched, active)
        node = torch.where(active, openings.step(state["node"], token), state["node"])
        state = {**new, "node": node}
        active = active & (token == views.guesses[:, slot])
    state = control.at_round_end(method, state)
    return Choices(torch.stack(tokens, 1), torch.stack(told, 1) if told else None, state)


def _tables(method: Method, views: Views) -> list[Tensor]:
    """The candidates of all slots, each field [B, S, 2K]."""
    flat = [v.flatten(0, 1) for v in (views.logits, views.draft, views.p, views.q)]
    both = (method.intersection, method.union)
    share = max((c.count for c in both if c.kind == "min_k"), default=0)
    table = choose.candidates(*flat, share=share, length=choose.listed(*both))
    return [t.view(*views.own.shape, -1) for t in table]


class _Both(NamedTuple):
    """Either mode's choice at a slot."""

    intersection: choose.Chosen
    union: choose.Chosen


def _choose(
    method: Method, views: Views, table: choose.Candidates, setting: Setting, slot: int, *, columns: bool
) -> tuple[Tensor, _Both]:
    """The token of a slot; a mode that no row is in is left out, unless it is to be told."""
    modes = setting.mode
    fixed = torch.full_like(setting.alpha, method.union.alpha)
    first = torch.where(modes == control.INTERSECTION, setting.alpha, method.intersection.alpha)
    draws = views.draws[:, slot] if method.sampled else None
    if method.union.kind == "all":
        anywhere = choose.choose_anywhere(views.p[:, slot], views.q[:, slot], setting.alpha)
        plain = choose.choose(Choice("target"), table, setting.alpha)
        both = _Both(plain, plain._replace(token=anywhere))
    else:
        union = choose.choose(method.union, table, fixed, draws)
        inside = union
        if columns or method.recheck is not None or bool((modes != control.UNION).any()):
            inside = choose.choose(method.intersection, table, first, draws)
        both = _Both(inside, union)
    token = torch.where(modes == control.UNION, both.union.token, both.intersection.token)
    if method.recheck is not None:
        token = _rechecked(method.recheck, views, slot, method.union, table, fixed, modes, token)
    own = views.logits[:, slot].argmax(-1)
    return torch.where(modes == control.TARGET, own, token), both


def _rechecked(
    least: float,
    views: Views,
    slot: int,
    union: Choice,
    table: choose.Candidates,
    alpha: Tensor,
    modes: Tensor,
    token: Tensor,
) -> Tensor:
    """AASD's conditional verification as the seed has it: an unlikely choice of the intersection is drawn again."""
    p = views.p[:, slot]
    unlikely = p.gather(1, token[:, None])[:, 0] < least * p.amax(1)
    again = choose.choose(union, table, alpha, views.coins[:, slot]).token
    return torch.where(unlikely & (modes == control.INTERSECTION), again, token)


def _matched(method: Method, table: choose.Candidates, token: Tensor, own: Tensor) -> Tensor:
    """What the controller counts as a match: the draft's own token, or one of its likeliest."""
    if getattr(method.control, "match", "own") == "own":
        return token == own
    among = (table.ids == token[:, None]) & (table.draft_rank < method.union.count)
    return among.any(1)


def _columns(
    views: Views,
    table: choose.Candidates,
    setting: Setting,
    seen: Seen,
    both: _Both,
    token: Tensor,
    slot: int,
    matched: Tensor,
) -> Tensor:
    """The columns DECIDED of a slot: float32 [B, …]."""
    inside, union = both
    in_union = setting.mode == control.UNION
    of = {
        "mode": setting.mode,
        "target_token": views.logits[:, slot].argmax(-1),
        "draft_token": views.own[:, slot],
        "intersection_token": inside.token,
        "union_token": union.token,
        "modes_differ": inside.token != union.token,
        "guarded": torch.where(in_union, union.guarded, inside.guarded),
        "k": torch.where(in_union, union.k, inside.k),
        "set_size": torch.where(in_union, union.size, inside.size),
        "alpha": setting.alpha,
        "risk": setting.risk,
        "distance": seen.kl,
        "entropy_gap": seen.gap,
        "openings": seen.openings,
        "score_gap": torch.where(in_union, union.gap, inside.gap),
        "matched": matched,
    }
    return torch.stack([of[name].double() for name in DECIDED], -1)


def perplexity(gate: Gate, surprisals: Tensor, prompt: Prompt) -> float:
    """Exp of the mean surprisal of a prompt's tokens after the first, or of the user's; NaN where there are none."""
    begin, end = (
        (1, len(prompt.read_by_draft)) if gate.span == "prompt" or prompt.user is None else prompt.user
    )
    of = surprisals[max(begin, 1) - 1 : end - 1]
    return float(of.mean().exp())


class MethodDecider:
    """A method for the loop of `loop.Decoder`: state a row, joined and dropped as the loop does.

    heard: where the drafter leaves the surprisals of the prompts that it has just read (NetworkDrafter.heard).
    """

    bonus = False
    looks_ahead = False

    def __init__(self, method: Method, openings: Openings, *, telemetry: bool) -> None:
        self._method, self._openings, self._telemetry = method, openings, telemetry
        self.columns: tuple[str, ...] = DECIDED if telemetry else ()
        self._state: State = {}
        self._prior: Tensor | None = None
        self._fresh = 0  # rows, the last ones, whose prior is not known yet
        self._looks = telemetry or isinstance(method.control, Score | Risk)
        self.heard: list[Tensor] = []

    def join(self, prompts: Sequence[Prompt]) -> None:
        """See Decider.join."""
        home = self._openings.children.device
        gated = torch.zeros(len(prompts), dtype=torch.bool, device=home)
        if self._method.gate is not None:
            heard = self.heard[-len(prompts) :]
            if len(heard) != len(prompts):
                raise ValueError("a gate needs the surprisals of the prompts")
            told = [perplexity(self._method.gate, h, p) for h, p in zip(heard, prompts, strict=True)]
            gated = torch.tensor([t > self._method.gate.threshold for t in told], device=home)
            self.heard.clear()
        new = {**control.begin(self._method, gated), "node": gated.long() * 0}
        self._state = (
            {k: torch.cat([v, new[k]]) for k, v in self._state.items()} if len(self._rows()) else new
        )
        self._fresh += len(prompts)

    @property
    def gated(self) -> bool:
        """Whether it has to hear the surprisals of prompts."""
        return self._method.gate is not None

    @property
    def risk(self) -> Tensor | None:
        """The running mean score of each row, float64 [B]; None without one."""
        return self._state.get("risk")

    def drop(self, row: int) -> None:
        """See Decider.drop."""
        self._state = {k: _dropped(v, row) for k, v in self._state.items()}
        if self._prior is not None:
            self._prior = _dropped(self._prior, row)

    def decide(self, logits: Tensor, draft: Draft, clock: Clock) -> Acceptance:
        """See Decider.decide."""
        if draft.logits is None:
            raise ValueError("a safety-aware method needs a draft that has logits")
        slots = clock.counters[:, : logits.shape[1]]
        if self._method.prior is not None and self._fresh:
            known = len(logits) - self._fresh
            old = logits[:0, 0] if self._prior is None else self._prior
            self._prior, self._fresh = torch.cat([old[:known], logits[known:, 0]]), 0
        views = self._views(logits, draft, clock, slots)
        choices = decide(self._method, self._openings, self._state, views, columns=self._telemetry)
        self._state = choices.state
        right = (choices.tokens == views.guesses) & (
            torch.arange(views.slots, device=logits.device) < views.lengths[:, None]
        )
        accepted = right.long().cumprod(1).sum(1)
        last = accepted.clamp(max=views.slots - 1)
        token = choices.tokens.gather(1, last[:, None])[:, 0]
        statistic = views.p.gather(-1, views.guesses[..., None])[..., 0]
        return Acceptance(accepted, token, statistic, choices.decided)

    def guess(self, scores: Tensor, positions: Tensor) -> Tensor:
        """The draft's logits as they will be blended, for rows whose prior is known: see drafters.Guess."""
        prior = self._prior
        if self._method.prior is None or prior is None or not len(prior):
            return scores
        known = len(prior)
        return torch.cat([self._blended(scores[:known], prior, positions[:known]), scores[known:]])

    def _blended(self, scores: Tensor, prior: Tensor, positions: Tensor) -> Tensor:
        """(1 - l) l_d + l l_0, l = lam gamma^t; a word that the draft does not have stays impossible."""
        blend = self._method.prior
        if blend is None:
            return scores
        share = blend.lam * torch.pow(blend.gamma, positions.float())[..., None]
        return (1 - share) * scores + share * prior

    def _rows(self) -> Tensor:
        return next(iter(self._state.values()), torch.zeros(0))

    def _views(self, logits: Tensor, draft: Draft, clock: Clock, slots: Tensor) -> Views:
        known = draft.logits
        if known is None:
            raise ValueError("no logits of the draft")
        scores = fitted(known, logits.shape[-1])
        target = logits
        if bool(scores[..., -1].isneginf().any()):  # both choose among shared words alone
            target = torch.where(scores.isneginf(), -torch.inf, logits)
        if self._method.prior is not None and self._prior is not None:
            scores = self._blended(scores, self._prior[:, None], slots)
        nothing = Distances(*[torch.zeros(slots.shape, device=logits.device)] * 2)
        return Views(
            target,
            scores,
            torch.softmax(target, -1),
            torch.softmax(scores, -1),
            scores.argmax(-1),
            draft.proposal.tokens,
            draft.proposal.lengths,
            slots,
            uniforms(clock.keys, slots, Purpose.ACCEPT),
            uniforms(clock.keys, slots, Purpose.TOKEN),
            distances(target, scores) if self._looks else nothing,
        )


def _dropped(values: Tensor, row: int) -> Tensor:
    kept = values[:-1].clone()
    if row < len(kept):
        kept[row] = values[-1]
    return kept
