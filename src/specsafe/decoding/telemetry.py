"""What is told of each emitted token, computed where the logits are and brought over in one piece a round."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from specsafe.decoding.drafters import Draft
from specsafe.decoding.rules import Acceptance
from specsafe.decoding.sums import log_normalizer, total

NOTHING = float("nan")
# Of the target: margin = log-probability of its best token minus that of the second; p_* its probabilities.
# Of the draft: q_* its probabilities, kl = KL(draft || target). All from raw logits (temperature 1), in nats.
# statistic is what the rule compared. Values are missing where there was no draft token or no draft network.
MEASURED = (
    "drafted_token",
    "statistic",
    "margin",
    "entropy",
    "p_emitted",
    "p_drafted",
    "p_top",
    "draft_entropy",
    "q_emitted",
    "q_drafted",
    "q_top",
    "kl",
)
COUNTED = ("round", "slot", "accepted", "target_forwards", "draft_forwards")
COLUMNS = (*COUNTED, *MEASURED)


class Round(NamedTuple):
    """One round on the host, lists by row. logprob, top, measured: by slot; finite: by slot, are the logits numbers."""

    accepted: list[int]
    token: list[int]
    drafts: list[list[int]]
    lengths: list[int]
    finite: list[list[bool]]
    logprob: list[list[float]]
    top: list[list[list[tuple[int, float]]]]
    watched: list[list[float]]
    measured: list[list[list[float]]]


def collect(
    logits: Tensor, draft: Draft, acceptance: Acceptance, *, top: int, watch: Tensor, telemetry: bool
) -> Round:
    """Everything that the host wants to know of a round, in one transfer.

    logits: float32 [B, S, V] of the target. watch: int64 [W], tokens whose log-probability at slot 0 is wanted.
    """
    rows, slots, _ = logits.shape
    proposal = draft.proposal
    normalizer = log_normalizer(logits)
    emitted = _emitted(acceptance, proposal.tokens, slots)
    parts: dict[str, Tensor] = {
        "accepted": acceptance.accepted[:, None],
        "token": acceptance.token[:, None],
        "lengths": proposal.lengths[:, None],
        "drafts": proposal.tokens,
        "finite": _finite(logits, draft),
        "logprob": logits.gather(-1, emitted[..., None])[..., 0] - normalizer,
        "watched": logits[:, 0].index_select(-1, watch) - normalizer[:, :1],
    }
    if top:
        values, indices = logits.topk(top, -1)
        parts["top_ids"], parts["top"] = indices.flatten(1), (values - normalizer[..., None]).flatten(1)
    if telemetry:
        measured = _measure(logits, normalizer, draft, acceptance, emitted)
        if acceptance.decided is not None:
            measured = torch.cat([measured, acceptance.decided], -1)
        parts["measured"] = measured.flatten(1)
    host = torch.cat([p.double() for p in parts.values()], 1).cpu()
    split = dict(zip(parts, torch.split(host, [p.shape[1] for p in parts.values()], 1), strict=True))
    return Round(
        accepted=_ints(split["accepted"][:, 0]),
        token=_ints(split["token"][:, 0]),
        drafts=_ints(split["drafts"]),
        lengths=_ints(split["lengths"][:, 0]),
        finite=split["finite"].bool().tolist(),
        logprob=split["logprob"].tolist(),
        top=_tops(split, rows, slots, top),
        watched=split["watched"].tolist(),
        measured=split["measured"].view(rows, slots, -1).tolist() if telemetry else [],
    )


def _tops(split: dict[str, Tensor], rows: int, slots: int, top: int) -> list[list[list[tuple[int, float]]]]:
    if not top:
        return []
    ids = _ints(split["top_ids"].view(rows, slots, top))
    values = split["top"].view(rows, slots, top).tolist()
    return [
        [list(zip(i, v, strict=True)) for i, v in zip(*row, strict=True)]
        for row in zip(ids, values, strict=True)
    ]


def _ints(values: Tensor) -> list:  # type: ignore[type-arg]
    """Token ids and counts survive float64 whole."""
    numbers: list = values.long().tolist()  # type: ignore[type-arg]
    return numbers


def _finite(logits: Tensor, draft: Draft) -> Tensor:
    """Whether target and draft gave numbers at each slot: bool [B, S]. A maximum hands NaN and infinity on."""
    finite = logits.amax(-1).isfinite()
    if draft.logits is not None:
        finite[:, : draft.logits.shape[1]] &= draft.logits.amax(-1).isfinite()
    return finite


def _emitted(acceptance: Acceptance, drafts: Tensor, slots: int) -> Tensor:
    """The token emitted at each slot [B, S]: accepted draft tokens, then the rule's own; past that the latter again."""
    own = acceptance.token[:, None].expand(-1, slots).clone()
    width = drafts.shape[1]
    taken = torch.arange(width, device=drafts.device) < acceptance.accepted[:, None]
    own[:, :width] = torch.where(taken, drafts, own[:, :width])
    return own


def _measure(
    logits: Tensor, normalizer: Tensor, draft: Draft, acceptance: Acceptance, emitted: Tensor
) -> Tensor:
    """The columns MEASURED of every slot: float32 [B, S, 12]."""
    tokens, lengths = draft.proposal.tokens, draft.proposal.lengths
    rows, slots, _ = logits.shape
    width = tokens.shape[1]
    logp = logits - normalizer[..., None]
    p = logp.exp()
    missing = torch.full((rows, slots), NOTHING, device=logits.device)
    real = torch.arange(width, device=logits.device) < lengths[:, None]

    def on_drafts(values: Tensor) -> Tensor:
        """[B, T] -> [B, S] with NaN where no token was drafted."""
        filled = missing.clone()
        filled[:, :width] = torch.where(real, values.float(), NOTHING)
        return filled

    def of(source: Tensor, chosen: Tensor) -> Tensor:
        return source.gather(-1, chosen[..., None])[..., 0]

    two = logp.topk(2, -1).values
    drafted = tokens.where(real, 0)
    own = [
        on_drafts(tokens),
        on_drafts(acceptance.statistic),
        two[..., 0] - two[..., 1],
        -total(p * logp),
        of(p, emitted),
        on_drafts(of(p[:, :width], drafted)),
        two[..., 0].exp(),
    ]
    if draft.logits is None:
        return torch.stack([*own, *[missing] * 5], -1)
    logq = torch.log_softmax(draft.logits, -1)
    q = logq.exp()
    known = torch.where(q > 0, logq, 0.0)  # a word that the draft does not have adds nothing to a sum
    of_draft = [
        -total(q * known),
        of(q, emitted[:, :width]),
        of(q, drafted),
        q.amax(-1),
        total(q * (known - logp[:, :width])),
    ]
    return torch.stack([*own, *map(on_drafts, of_draft)], -1)
