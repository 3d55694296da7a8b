"""Any causal language model of transformers as a network of ours, for architectures that network.py does not compute.

All rows of a cache share one layout: a forward pass appends its W slots to every row, and a mask says which slots
hold tokens of the row. A rejected token is masked and never seen again; positions are explicit. When more than
30 % of the slots are of no use to any row, the valid ones are gathered to the left.
"""

from __future__ import annotations

import inspect
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from specsafe.errors import UserError
from specsafe.models.checkpoint import read_json
from specsafe.models.network import Push

_WASTE = 0.3
_NEEDED = ("attention_mask", "past_key_values", "position_ids")
_KNOWN = "specsafe reads causal models of transformers whose cache is keys and values; or use another engine"


class MaskedCache:
    """A cache whose rows share their slots and differ in which of them are valid; see models.cache.Cache.

    parts: validity bool [rows, 1, slots, 1], then keys and values [rows, heads, slots, head_dim] of each layer.
    """

    def __init__(self, rows: int, capacity: int, slot_bytes: int, device: torch.device) -> None:
        self.rows, self.capacity, self.bytes = rows, capacity, rows * capacity * slot_bytes
        self.lengths: list[int] = []
        self.parts = [torch.zeros((0, 1, 0, 1), dtype=torch.bool, device=device)]

    def add_row(self) -> int:
        """A new empty row, the last -> its index."""
        if len(self.lengths) == self.rows:
            raise ValueError(f"all {self.rows} rows of the cache are taken")
        self.lengths.append(0)
        self.parts = [torch.cat([p, p.new_zeros(1, *p.shape[1:])]) for p in self.parts]
        return len(self.lengths) - 1

    def drop_row(self, row: int) -> None:
        """Free a row; the last row takes its place."""
        order = list(range(len(self.lengths)))
        order[row] = order[-1]
        order.pop()
        self.lengths = [self.lengths[i] for i in order]
        self.parts = [p[order] for p in self.parts]

    def truncate(self, lengths: list[int]) -> None:
        """Take back what was read beyond these lengths, one a row."""
        self.lengths = [min(n, kept) for n, kept in zip(self.lengths, lengths, strict=True)]
        valid = self.parts[0]
        kept = torch.tensor(self.lengths, device=valid.device)[:, None, None, None]
        self.parts[0] = valid & (valid.cumsum(2) <= kept)

    def take(self, first: int, rows: int, width: int) -> list[Tensor]:
        """The parts of some rows; of a part of the batch, or where too much is waste, only the valid slots.

        Raises ValueError if `width` more tokens would pass the capacity.
        """
        longest, slots = max(self.lengths[first : first + rows]), self.parts[0].shape[2]
        if longest + width > self.capacity:
            raise ValueError(f"{longest} + {width} tokens do not fit a cache of {self.capacity}")
        parts = [p[first : first + rows] for p in self.parts]
        if rows == len(self.lengths) and slots - longest <= _WASTE * slots:
            return parts
        order = (~parts[0]).to(torch.uint8).argsort(dim=2, stable=True)[:, :, :longest]
        return [p.gather(2, order.expand(-1, p.shape[1], -1, p.shape[3])) for p in parts]

    def put(self, first: int, width: int, parts: list[Tensor]) -> None:
        """The rows taken before, `width` tokens longer; the other rows get masked slots where they are shorter."""
        rows = parts[0].shape[0]
        for row in range(first, first + rows):
            self.lengths[row] += width
        if rows == len(self.lengths):
            self.parts = parts
            return
        empty = [p.new_zeros(len(self.lengths), p.shape[1], 0, p.shape[3]) for p in parts]
        old = self.parts if len(self.parts) == len(parts) else [self.parts[0], *empty[1:]]
        slots = max(self.parts[0].shape[2], parts[0].shape[2])
        self.parts = [_with_rows(p, first, new, slots) for p, new in zip(old, parts, strict=True)]


class TransformersNetwork:
    """A model folder read by transformers on one device; see network.Network.

    Its forward pass gives logits as "hidden states", for between the two a model may scale or cap them. Raises
    UserError for a folder without safetensors, for weights that do not fill the model, for a class whose cache is
    more than keys and values, and for `invariant`, which only our own networks can promise.
    """

    reads_together = False
    library = f"transformers {version('transformers')}"

    def __init__(
        self, folder: Path, dtype: torch.dtype, device: torch.device | str = "cpu", *, invariant: bool = False
    ) -> None:
        if invariant:
            raise UserError(
                f"{folder} is computed by transformers, which has no invariant mode",
                "leave invariant out, or use a model of the Llama family",
            )
        self.invariant, self.dtype, self.computes, self.device = False, dtype, dtype, torch.device(device)
        self._model = _loaded(folder, dtype).to(self.device)
        config = self._model.config.get_text_config(decoder=True)
        self.context = _context(self._model, config)
        self.vocabulary, self.layers = config.vocab_size, config.num_hidden_layers
        self.bytes = sum(p.numel() * p.element_size() for p in self._model.parameters())
        self._slot_bytes = 0
        self._probe()

    def new_cache(self, rows: int, capacity: int) -> MaskedCache:
        """An empty cache; `bytes` is what it takes when it is full and holds no waste."""
        return MaskedCache(rows, capacity, self._slot_bytes, self.device)

    @torch.inference_mode()
    def forward(self, tokens: Tensor, cache: MaskedCache, first: int = 0, push: Push | None = None) -> Tensor:
        """Read tokens [B, W] as the next ones of cache rows first.. -> logits [B, W, V]."""
        from transformers import DynamicCache

        if push is not None:
            raise UserError(
                "a model read through transformers cannot be steered", "use one of the Llama family"
            )
        batch, width = tokens.shape
        valid, *pairs = cache.take(first, batch, width)
        valid = torch.cat([valid, valid.new_ones(batch, 1, width, 1)], 2)
        start = torch.tensor(cache.lengths[first : first + batch], device=self.device)
        positions = start[:, None] + torch.arange(width, device=self.device)
        past: Any = DynamicCache(list(zip(pairs[::2], pairs[1::2], strict=True)))
        logits: Tensor = self._model(
            input_ids=tokens,
            attention_mask=valid[:, 0, :, 0].long(),
            position_ids=positions.clamp(max=self.context - 1),  # drafts may reach beyond the last
            past_key_values=past,
            use_cache=True,
        ).logits
        cache.put(first, width, [valid, *(x for layer in past.layers for x in (layer.keys, layer.values))])
        return logits

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits [N, V] as forward gave them -> float32."""
        return hidden.float()

    @torch.inference_mode()
    def _probe(self) -> None:
        """Read a text plainly, and in two rows with a token taken back in one: the logits must agree."""
        text = torch.arange(6, device=self.device)[None] * 7 % self.vocabulary
        plain = self._model(input_ids=text, use_cache=False).logits[0, -2:].float()
        cache = self.new_cache(2, 16)
        self.forward(text[:, :3], cache, cache.add_row())
        self.forward(text[:, :2], cache, cache.add_row())
        self.forward(torch.cat([text[:, [0, 0]], text[:, 2:4]]), cache)
        cache.truncate([3, 4])
        self.forward(torch.cat([text[:, 3:4], text[:, :1]]), cache)
        cache.truncate([4, 4])
        got = self.forward(text[:, 4:].expand(2, 2), cache).float()
        self._slot_bytes = sum(p[0, :, 0].numel() * p.element_size() for p in cache.parts)
        allowed = (1e-3 if self.dtype == torch.float32 else 0.2) * plain.std()
        if not (got - plain).abs().amax() <= allowed:
            name = type(self._model).__name__
            raise UserError(f"{name} gives other logits when slots of its cache are masked", _KNOWN)


def _loaded(folder: Path, dtype: torch.dtype) -> Any:
    """The model of a folder in evaluation mode, its weights complete."""
    read_json(folder / "config.json")
    if not any(folder.glob("*.safetensors")):
        raise UserError(
            f"{folder} has no *.safetensors; pickles can run code and are never read",
            "convert the weights to safetensors (transformers: save_pretrained)",
        )
    from transformers import AutoModelForCausalLM

    safe = {"local_files_only": True, "trust_remote_code": False, "use_safetensors": True}
    try:
        read: Any = AutoModelForCausalLM.from_pretrained(
            folder, **safe, dtype=dtype, output_loading_info=True
        )
    except Exception as error:  # whatever a foreign loader trips over, the folder is what to mend
        raise UserError(
            f"transformers cannot read {folder}: {type(error).__name__}: {error}", _KNOWN
        ) from error
    model, found = read
    absent = sorted(map(str, [*found["missing_keys"], *found["mismatched_keys"]]))
    if absent:
        raise UserError(f"{folder} lacks weights of the model: {', '.join(absent[:3])}", "fetch it again")
    return model.eval().requires_grad_(False)


def _context(model: Any, config: Any) -> int:
    """The longest context; refused if the cache is not plain keys and values: only those can be masked by slot."""
    from transformers import DynamicCache
    from transformers.cache_utils import DynamicLayer

    name, context = type(model).__name__, getattr(config, "max_position_embeddings", None)
    if not isinstance(context, int) or context < 1:
        raise UserError(f"{name} does not say how long its context is (max_position_embeddings)", _KNOWN)
    absent = [p for p in _NEEDED if p not in inspect.signature(model.forward).parameters]
    if absent:
        raise UserError(f"{name} takes no {', '.join(absent)}", _KNOWN)
    for layer in DynamicCache(config=config).layers:
        window = getattr(layer, "sliding_window", None)
        if type(layer) is not DynamicLayer and (window is None or window < context):
            kind = type(layer).__name__ if window is None else f"a sliding window of {window} tokens"
            raise UserError(f"the cache of {name} is not plain keys and values: {kind}", _KNOWN)
    return context


def _with_rows(x: Tensor, first: int, new: Tensor, slots: int) -> Tensor:
    """The rows first.. of x replaced by new ones; all rows `slots` long, zeros after their end."""
    whole = x.new_zeros(x.shape[0], x.shape[1], slots, x.shape[3])
    whole[:, :, : x.shape[2]] = x
    whole[first : first + new.shape[0]] = 0
    whole[first : first + new.shape[0], :, : new.shape[2]] = new
    return whole
