"""The networks of network.py once more, as plainly as they can be written, for what has to be differentiated.

One sequence, no packed weights, no padding. What is constant (weights, what stands before) needs no gradient; `push`
carries it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import embedding, linear, scaled_dot_product_attention, silu

from specsafe.models.checkpoint import Checkpoint
from specsafe.models.network import rotary_tables


class Seen(NamedTuple):
    """Keys and values of one layer for what was read: [kv_heads, tokens, head_dim] each."""

    keys: Tensor
    values: Tensor


class Read(NamedTuple):
    """Hidden states [L, H] before the final norm, and what the next pass sees: an entry a layer."""

    hidden: Tensor
    seen: tuple[Seen, ...]


class Differentiable:
    """A checkpoint's network, or some layers of it, in the dtype of its tensors."""

    def __init__(self, checkpoint: Checkpoint, keep: Sequence[int] = (), device: torch.device | str = "cpu"):
        a = self.architecture = checkpoint.architecture
        self._tensors = {name: t.to(device) for name, t in checkpoint.tensors.items()}
        self._keep = tuple(keep) or tuple(range(a.layers))
        self._embed = self._tensors["embed_tokens.weight"]
        self.device = self._embed.device
        self._cos, self._sin = rotary_tables(a, self._embed.dtype, self._embed.device)

    def read(
        self, tokens: Tensor, seen: Sequence[Seen] = (), push: Tensor | None = None, first: int = 0
    ) -> Read:
        """Read tokens [L] after what was seen; push: [L, H], added to the output of the MLPs of layers first..."""
        x = embedding(tokens, self._embed)
        before = seen[0].keys.shape[1] if seen else 0
        count = len(tokens)
        cos, sin = (t[before : before + count] for t in (self._cos, self._sin))
        mask = torch.ones(count, before + count, dtype=torch.bool, device=x.device).tril(before)
        told = []
        for index, layer in enumerate(self._keep):
            q, k, v = self._heads(layer, self._normed(x, f"layers.{layer}.input_layernorm"), cos, sin)
            if seen:
                k, v = torch.cat([seen[index].keys, k], 1), torch.cat([seen[index].values, v], 1)
            told.append(Seen(k, v))
            group = self.architecture.heads // self.architecture.kv_heads
            k, v = k.repeat_interleave(group, 0), v.repeat_interleave(group, 0)
            out = scaled_dot_product_attention(q, k, v, attn_mask=mask)
            x = x + self._linear(f"layers.{layer}.self_attn.o_proj", out.transpose(0, 1).flatten(1))
            y = self._normed(x, f"layers.{layer}.post_attention_layernorm")
            gate, up = (self._linear(f"layers.{layer}.mlp.{n}_proj", y) for n in ("gate", "up"))
            out = self._linear(f"layers.{layer}.mlp.down_proj", silu(gate) * up)
            x = x + (out if push is None or index < first else out + push)
        return Read(x, tuple(told))

    def logits(self, hidden: Tensor) -> Tensor:
        """Hidden states [N, H] -> [N, V]."""
        head = self._embed if self.architecture.tied else self._tensors["lm_head.weight"]
        return linear(self._normed(hidden, "norm"), head)

    def _heads(self, layer: int, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values [heads, L, head_dim], turned to their positions."""
        half = self.architecture.head_dim // 2
        made = []
        for name in "qkv":
            y = self._linear(f"layers.{layer}.self_attn.{name}_proj", x)
            y = y.view(len(x), -1, self.architecture.head_dim)
            if name != "v":
                y = self._normed(y, f"layers.{layer}.self_attn.{name}_norm")
                y = y * cos[:, None] + y.roll(half, -1) * sin[:, None]
            made.append(y.transpose(0, 1))
        return made[0], made[1], made[2]

    def _linear(self, name: str, x: Tensor) -> Tensor:
        return linear(x, self._tensors[f"{name}.weight"], self._tensors.get(f"{name}.bias"))

    def _normed(self, x: Tensor, name: str) -> Tensor:
        """Root mean square norm; a norm that the network does not have leaves x alone."""
        weight = self._tensors.get(f"{name}.weight")
        if weight is None:
            return x
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.architecture.norm_eps) * weight
