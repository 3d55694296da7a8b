"""The networks of the Llama family (Llama, SmolLM, Mistral, Qwen2, Qwen3) as one forward pass.

    x = embed(tokens)
    for each layer:  x += o(attention(rope(q), rope(k), v));  x += down(silu(gate) * up)
    logits = head(norm(x))

Sources: Touvron et al. 2023 (arXiv 2302.13971), Ainslie et al. 2023 (grouped queries, 2305.13245), Su et al. 2021
(rotary positions, 2104.09864), Zhang & Sennrich 2019 (RMSNorm, 1910.07467), Shazeer 2020 (SwiGLU, 2002.05202).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, ClassVar, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn.functional import embedding, linear, pad, scaled_dot_product_attention, silu

from specsafe.errors import UserError
from specsafe.fetch import cache_folder
from specsafe.models.architecture import Architecture
from specsafe.models.cache import Cache, SlotCache
from specsafe.models.checkpoint import Checkpoint

_BLOCK = 128  # slots of the cache that one product of the invariant attention reads
_BUCKET = 64  # slots to whose multiples any attention reads
_MANY = 8  # bfloat16 rows from which products over all of them are faster than the fused kernel; in float32 they always are


class Push(NamedTuple):
    """What is added to the output of the MLPs of the layers from `first` on: rows [B, H], one a sequence of a pass."""

    rows: Tensor
    first: int


class Network(Protocol):
    """What the decoding loop knows of a network. Tokens and positions are int64, logits float32."""

    vocabulary: int
    context: int
    layers: int
    device: torch.device
    computes: torch.dtype
    """Of all that is made of the weights."""
    library: str
    """What takes the products."""
    bytes: int
    reads_together: bool
    """Whether several new rows may be read in one pass beside rows in flight."""

    def new_cache(self, rows: int, capacity: int) -> Cache:
        """An empty cache for at most so many sequences of at most `capacity` tokens."""

    def forward(self, tokens: Tensor, cache: Any, first: int = 0, push: Push | None = None) -> Tensor:
        """Read tokens [B, W] as the next ones of cache rows first.. -> hidden states [B, W, H].

        `cache` is one of its own; `cache.truncate` takes back what turns out not to belong there. push: see Push;
        UserError where a network cannot.
        """

    def logits(self, hidden: Tensor) -> Tensor:
        """Hidden states [N, H] -> [N, V]."""


class Matrix(NamedTuple):
    """A linear map: weight [out, in], bias [out]."""

    weight: Tensor
    bias: Tensor | None = None

    def __call__(self, x: Tensor) -> Tensor:
        """X [rows, in] -> x @ weight.T + bias [rows, out]."""
        return linear(x, self.weight, self.bias)


class _Layer(NamedTuple):
    norm: Tensor
    qkv: Matrix
    q_norm: Tensor | None
    k_norm: Tensor | None
    o: Matrix
    mlp_norm: Tensor
    gate_up: Matrix
    down: Matrix


class LlamaNetwork:
    """Weights of the family on one device, run by PyTorch; see Network, and compiled.CompiledNetwork for processors."""

    reads_together = True
    tiles: ClassVar[tuple[int, ...]] = (2, 3, 6, 8)
    """Where invariant arithmetic is looked for: rows to whose multiples products are padded, the cheapest first."""
    library = f"torch {torch.__version__}"

    def __init__(self, checkpoint: Checkpoint, device: torch.device | str = "cpu") -> None:
        self.architecture = a = checkpoint.architecture
        tensors, self.device = checkpoint.tensors, torch.device(device)
        self.invariant, self.tile = False, 1
        self.vocabulary, self.context, self.layers = a.vocab_size, a.max_positions, a.layers
        self._embed = tensors["embed_tokens.weight"].to(self.device)
        self.computes = self._embed.dtype
        self._norm = tensors["norm.weight"].to(self.device)
        self._eps = torch.tensor(a.norm_eps, dtype=torch.float32, device=self.device)
        self._head = Matrix(self._embed if a.tied else tensors["lm_head.weight"].to(self.device))
        self._stack = [_layer(tensors, i, self.device) for i in range(a.layers)]
        self._cos, self._sin = rotary_tables(a, self.computes, self.device)
        parts = [
            p for s in self._stack for m in s if m is not None for p in (m if isinstance(m, Matrix) else [m])
        ]
        kept = [self._embed, self._head.weight, self._norm, *(p for p in parts if p is not None)]
        once = {t.data_ptr(): t for t in kept}.values()  # a tied head is the embedding
        self.bytes = sum(t.nbytes for t in once)

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights; `computes` is that of all that is made of them."""
        return self._embed.dtype

    def with_layers(self, keep: Sequence[int]) -> LlamaNetwork:
        """The network with only these layers; it shares all weights with this one."""
        other = object.__new__(LlamaNetwork)
        other.__dict__.update(self.__dict__)
        other._stack = [self._stack[i] for i in keep]
        other.layers, other.bytes = len(keep), 0
        return other

    def in_tiles(self, tile: int) -> LlamaNetwork:
        """The same weights in invariant arithmetic, as far as invariant.prove says that it is; the constructor's is fast.

        tile: rows to whose multiples a product is padded; all rows together, in attention each sequence's.
        """
        other = self.with_layers(range(self.layers))
        other.invariant, other.tile, other.bytes = True, tile, self.bytes
        return other

    def new_cache(self, rows: int, capacity: int) -> SlotCache:
        """An empty cache; capacity is rounded up so that padding rows and whole buckets fit."""
        a = self.architecture
        unit = _BLOCK if self.invariant else _BUCKET
        room = -(-(capacity + self.tile) // unit) * unit
        shape = (self.layers, rows, a.kv_heads, a.head_dim)
        return SlotCache(shape, room, dtype=self.computes, device=self.device, unit=unit)

    @torch.inference_mode()
    def forward(self, tokens: Tensor, cache: SlotCache, first: int = 0, push: Push | None = None) -> Tensor:
        """See Network.forward."""
        batch, width = tokens.shape
        cache.require_room(first, batch, width)
        rows = _Rows.of(self, tokens, cache, first)
        x = self._whole_tiles(embedding(tokens.reshape(-1), self._embed))
        pushed = x if push is None else self._whole_tiles(push.rows.to(x.dtype).repeat_interleave(width, 0))
        for index, layer in enumerate(self._stack):
            x = x + layer.o(self._attend(layer, index, self._normed(x, layer.norm), rows, cache))
            gate, up = layer.gate_up(self._normed(x, layer.mlp_norm)).chunk(2, -1)
            out = layer.down(silu(gate) * up)
            x = x + (out if push is None or index < push.first else out + pushed)
        cache.append(first, batch, width)
        return x[: batch * width].view(batch, width, -1)

    @torch.inference_mode()
    def logits(self, hidden: Tensor) -> Tensor:
        """See Network.logits."""
        whole = self._whole_tiles(hidden)
        return self._head(self._normed(whole, self._norm))[: hidden.shape[0]].float()

    @torch.inference_mode()
    def final(self, hidden: Tensor) -> Tensor:
        """Hidden states [N, H] after the final norm: what the output head reads."""
        return self._normed(self._whole_tiles(hidden), self._norm)[: hidden.shape[0]]

    def _whole_tiles(self, x: Tensor) -> Tensor:
        """Rows [N, H] made a multiple of the tile where the arithmetic is invariant."""
        padding = -x.shape[0] % self.tile if self.invariant else 0
        return pad(x, (0, 0, 0, padding)) if padding else x

    def _normed(self, x: Tensor, weight: Tensor) -> Tensor:
        """Root mean square norm: x / sqrt(mean(x^2) + eps) * weight over the last dimension, the division in float32."""
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
        scale = torch.addcmul(self._eps, norm, norm, value=1 / x.shape[-1]).rsqrt_()
        return (x * scale).to(x.dtype) * weight

    def _attend(self, layer: _Layer, index: int, x: Tensor, rows: _Rows, cache: SlotCache) -> Tensor:
        """Attention of rows x [N, H] over their own sequences -> [N, heads * head_dim]."""
        a, count = self.architecture, rows.batch * rows.width
        heads = layer.qkv(x)[:count].view(count, a.heads + 2 * a.kv_heads, a.head_dim)
        qk, v = heads[:, : a.heads + a.kv_heads], heads[:, a.heads + a.kv_heads :]
        if layer.q_norm is not None and layer.k_norm is not None:
            q, k = qk[:, : a.heads], qk[:, a.heads :]
            qk = torch.cat([self._normed(q, layer.q_norm), self._normed(k, layer.k_norm)], 1)
        # rotate each pair (i, i + D/2): cos * x + sin * swapped x, the sign of the swap lying in sin
        qk = torch.addcmul(qk * rows.cos, qk.roll(a.head_dim // 2, -1), rows.sin)
        q, k = qk[:, : a.heads], qk[:, a.heads :]
        for part, new in ((cache.keys, k), (cache.values, v)):
            part[index].view(-1, a.head_dim).index_copy_(0, rows.slots, new.reshape(-1, a.head_dim))
        seen = slice(rows.first, rows.first + rows.batch)
        keys, values = (part[index, seen, :, : rows.length] for part in (cache.keys, cache.values))
        out = rows.ungrouped(self._weighted(rows.grouped(q, a.kv_heads), keys, values, rows))
        return self._whole_tiles(out)

    def _weighted(self, q: Tensor, keys: Tensor, values: Tensor, rows: _Rows) -> Tensor:
        """softmax(q k' / sqrt(D) + mask) v for q [B, kv_heads, W * group, D].

        Invariant: products over blocks of one size, for how a library sums over slots depends on their number.
        """
        if not self.invariant and self.computes != torch.float32 and rows.batch * rows.width < _MANY:
            return scaled_dot_product_attention(q, keys, values, attn_mask=rows.mask)
        size = _BLOCK if self.invariant else rows.length
        starts = range(0, rows.length, size)
        scores = [torch.matmul(q, keys[:, :, at : at + size].mT) for at in starts]
        together = torch.cat(scores, -1) if len(scores) > 1 else scores[0]
        weights = torch.softmax(torch.add(rows.mask, together, alpha=q.shape[-1] ** -0.5), -1)
        parts = [
            torch.matmul(weights[..., at : at + size].contiguous(), values[:, :, at : at + size])
            for at in starts
        ]
        return sum(parts[1:], parts[0])


class _Rows(NamedTuple):
    """What all layers of one forward pass share: where its rows stand and what they may see."""

    first: int
    batch: int
    width: int
    padding: int  # rows added to each sequence in attention
    length: int  # slots that the attention reads
    slots: Tensor  # [B*W*kv_heads] where keys and values go
    mask: Tensor  # [B, 1, (W + padding)*group, length] 0 or -inf
    cos: Tensor  # [B*W, 1, D]
    sin: Tensor

    @classmethod
    def of(cls, network: LlamaNetwork, tokens: Tensor, cache: SlotCache, first: int) -> _Rows:
        a = network.architecture
        batch, width = tokens.shape
        lengths = cache.lengths[first : first + batch]
        start = torch.tensor(lengths, device=network.device)
        positions = start[:, None] + torch.arange(width, device=network.device)
        unit = _BLOCK if network.invariant else _BUCKET
        length = -(-(max(lengths) + width) // unit) * unit
        unseen = torch.arange(length, device=network.device) > positions[:, :, None]
        padding = -width % network.tile if network.invariant else 0
        mask = torch.zeros(
            (batch, width + padding, length),
            dtype=network.computes,
            device=network.device,
        )  # a padding row sees everything, and nobody looks at it
        mask[:, :width].masked_fill_(unseen, -torch.inf)
        mask = mask.repeat_interleave(a.heads // a.kv_heads, 1)[:, None]
        flat = positions.reshape(-1).clamp(max=a.max_positions - 1)  # drafts may reach beyond the last
        return cls(
            first,
            batch,
            width,
            padding,
            length,
            _slots(positions, first, a.kv_heads, cache.room),
            mask,
            network._cos[flat][:, None],
            network._sin[flat][:, None],
        )

    def grouped(self, q: Tensor, kv_heads: int) -> Tensor:
        """[B*W, heads, D] -> [B, kv_heads, (W + padding)*group, D]: queries that share a key head side by side."""
        dim = q.shape[-1]
        split = q.reshape(self.batch, self.width, kv_heads, -1, dim).transpose(1, 2)
        if self.padding:
            split = pad(split, (0, 0, 0, 0, 0, self.padding))
        return split.reshape(self.batch, kv_heads, -1, dim)

    def ungrouped(self, out: Tensor) -> Tensor:
        """[B, kv_heads, (W + padding)*group, D] -> [B*W, heads * D]."""
        split = out.view(self.batch, out.shape[1], self.width + self.padding, -1, out.shape[-1])
        split = split[:, :, : self.width].transpose(1, 2)
        return split.reshape(self.batch * self.width, -1)


def _slots(positions: Tensor, first: int, kv_heads: int, room: int) -> Tensor:
    """Flat indices into one layer's [rows * kv_heads * room] slots for positions [B, W] of rows first.. -> [B*W*kv_heads]."""
    rows = torch.arange(first, first + positions.shape[0], device=positions.device)[:, None, None]
    heads = torch.arange(kv_heads, device=positions.device)[None, None]
    return ((rows * kv_heads + heads) * room + positions[:, :, None]).reshape(-1)


def rotary_tables(a: Architecture, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cos and signed sin of every position: [max_positions, head_dim] each."""
    angles = torch.outer(
        torch.arange(a.max_positions, dtype=torch.float32), torch.tensor(a.inverse_frequencies)
    )
    cos, sin = angles.cos() * a.attention_factor, angles.sin() * a.attention_factor
    return (
        torch.cat([cos, cos], -1).to(device, dtype),
        torch.cat([-sin, sin], -1).to(device, dtype),
    )


def _layer(tensors: dict[str, Tensor], index: int, device: torch.device) -> _Layer:
    """The tensors of a layer, with q, k, v and gate, up side by side: fewer and larger products."""

    def get(name: str) -> Tensor:
        return tensors[f"layers.{index}.{name}"].to(device)

    def optional(name: str) -> Tensor | None:
        return get(name) if f"layers.{index}.{name}" in tensors else None

    def matrix(*names: str) -> Matrix:
        biases = [b for n in names if (b := optional(f"{n}.bias")) is not None]
        weight = (
            torch.cat([get(f"{n}.weight") for n in names]) if len(names) > 1 else get(f"{names[0]}.weight")
        )
        return Matrix(weight, torch.cat(biases) if biases else None)

    return _Layer(
        norm=get("input_layernorm.weight"),
        qkv=matrix("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        q_norm=optional("self_attn.q_norm.weight"),
        k_norm=optional("self_attn.k_norm.weight"),
        o=matrix("self_attn.o_proj"),
        mlp_norm=get("post_attention_layernorm.weight"),
        gate_up=matrix("mlp.gate_proj", "mlp.up_proj"),
        down=matrix("mlp.down_proj"),
    )


def network_of(checkpoint: Checkpoint, device: torch.device | str = "cpu") -> LlamaNetwork:
    """The network of a checkpoint: compiled loops on a processor, PyTorch elsewhere and where numba is not installed.

    Raises UserError for a numba that cannot be imported.
    """
    if torch.device(device).type != "cpu" or find_spec("numba") is None:
        return LlamaNetwork(checkpoint, device)
    if not os.access(Path(__file__).parent, os.W_OK):  # numba keeps what it compiled beside the source
        os.environ.setdefault("NUMBA_CACHE_DIR", str(_own_folder()))
    try:
        from specsafe.models.compiled import CompiledNetwork
    except ImportError as error:
        raise UserError(
            f"numba is installed and cannot be imported: {error}",
            "pip install 'specsafe[native]' again, or uninstall numba: PyTorch takes the products then, more slowly",
        ) from error
    return CompiledNetwork(checkpoint)


def _own_folder() -> Path:
    """Where code that was compiled is kept if not beside the source: the cache, or a folder of this process."""
    try:
        folder = cache_folder() / "compiled"
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # no home, or none that may be written to
        return Path(mkdtemp(prefix="specsafe-"))
    return folder
