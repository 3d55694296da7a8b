"""Steering in the loop: what the target has read turns the draft, a direction a row and round.

    g = W h / |h|        h: the target's state after the final norm at the last token that it has read of the context
    out + g · base (1 + amplify r)        out: of the MLP of each of the draft's last layers

The newest token of an answer is read in the round that begins, so h is the state that predicted it. The draft reads
each token once, under the g of the round in which it does: the newest one under the new g, prompts under none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from specsafe.decoding.prefill import Look
from specsafe.decoding.safety.parts import Steering
from specsafe.decoding.safety.projection import TENSOR, require_shape
from specsafe.errors import UserError
from specsafe.models.network import LlamaNetwork, Push

_LEAST = 1e-8  # of |h|: no state is divided by nothing


def load_projection(path: Path, draft: LlamaNetwork, target: LlamaNetwork) -> Tensor:
    """W, float32 [H of the draft, H of the target], on the draft's device. Raises UserError if the file has another."""
    try:
        with safe_open(path, framework="pt", device=str(draft.device)) as opened:
            weight: Tensor = opened.get_tensor(TENSOR).clone()
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"steering={path} cannot be read: {error}", "train it again: specsafe steer"
        ) from error
    require_shape(path, weight.shape, (draft.architecture.hidden_size, target.architecture.hidden_size))
    if not weight.isfinite().all():
        raise UserError(f"steering={path} holds NaN or infinite numbers", "train it again: specsafe steer")
    return weight


def directions(weight: Tensor, hidden: Tensor) -> Tensor:
    """W h / |h| of rows h [N, H_t] -> float32 [N, H_d].

    Row by row: a product over all of them may round a row otherwise than one over it alone.
    """
    return torch.stack([weight @ (h / (h.norm() + _LEAST)) for h in hidden.float().to(weight.device)])


def scales(steering: Steering, risk: Tensor | None, rows: int) -> Tensor:
    """Scales base (1 + amplify r), float64 [rows]; risk: r, float64 [rows], None is 0."""
    score = torch.zeros(rows, dtype=torch.float64) if risk is None else risk
    return steering.base * (1 + steering.amplify * score)


class Steerer:
    """A steering part for the loop: the direction of each row; see loop.Follower. `push` is for the drafter.

    risk: gives the running mean score of each row, as MethodDecider.risk.
    """

    def __init__(
        self,
        steering: Steering,
        weight: Tensor,
        target: LlamaNetwork,
        draft: LlamaNetwork,
        risk: Callable[[], Tensor | None],
    ) -> None:
        self._steering, self._weight, self._target, self._risk = steering, weight, target, risk
        self._first = steering.first_layer(draft.layers)
        self._rows = weight.new_zeros(0, weight.shape[0])

    def push(self) -> Push:
        """What is added to the draft's layers in the round that begins."""
        scale = scales(self._steering, self._risk(), len(self._rows)).to(self._rows)
        return Push(self._rows * scale[:, None], self._first)

    def join(self, lengths: Sequence[int]) -> Look:
        """See Follower.join; nothing turns the draft of a row of which nothing is read yet."""
        begin = len(self._rows)
        self._rows = torch.cat([self._rows, self._weight.new_zeros(len(lengths), self._weight.shape[0])])

        def look(first: int, start: int, hidden: Tensor) -> None:
            for row, states in enumerate(hidden, first):
                last = lengths[row] - 1 - start
                if 0 <= last < len(states):
                    self._rows[begin + row] = self._directions(states[last : last + 1])[0]

        return look

    def follow(self, hidden: Tensor, accepted: Tensor) -> None:
        """See Follower.follow: the last slot whose token stays in the context."""
        last = accepted.clamp(max=hidden.shape[1] - 1)
        self._rows = self._directions(hidden[torch.arange(len(last), device=last.device), last])

    def drop(self, row: int) -> None:
        """See Follower.drop."""
        self._rows[row] = self._rows[-1]
        self._rows = self._rows[:-1]

    def _directions(self, hidden: Tensor) -> Tensor:
        return directions(self._weight, self._target.final(hidden))
