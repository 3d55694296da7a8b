"""How drafts are made from a target that is at hand."""

from __future__ import annotations

from pathlib import Path

from specsafe.drafts.layers import drop_layers, format_keep, layer_count, parse_keep
from specsafe.drafts.requantize import requantize, require_type
from specsafe.models.gguf_file import model_facts
from specsafe.models.store import cache_folder, resolve

__all__ = [
    "DEFAULT_KEEP",
    "draft_file",
    "drop_layers",
    "format_keep",
    "layer_count",
    "model_file",
    "parse_keep",
    "quantized_file",
    "requantize",
]

# Found by bench/draft_layers.py (greedy search over the layers of the default model); docs/drafts.md has the table.
DEFAULT_KEEP = "0-6+8-11+13+15-16+18-24+26-29"


def model_file(name: str) -> Path:
    """A catalogue name or a path, or one of these made smaller: NAME@layers:0-9+20-29, NAME@q4_0 -> the GGUF file.

    What is made smaller is made on first use and kept in the cache. Raises UserError where a file is not there.
    """
    source, at, change = name.partition("@")
    if not at or Path(name).expanduser().is_file():
        return resolve(name)
    if change.startswith("layers:"):
        return draft_file(resolve(source), change.removeprefix("layers:"))
    return quantized_file(resolve(source), change)


def draft_file(target: Path, keep: str) -> Path:
    """The layer-dropped draft of a target, made on first use and kept in the cache."""
    layers = parse_keep(keep)
    path = _kept(target, format_keep(layers))
    return path if path.exists() else drop_layers(target, layers, path)


def quantized_file(target: Path, kind: str) -> Path:
    """The target in another storage type, made on first use and kept in the cache."""
    require_type(kind)
    path = _kept(target, kind)
    return path if path.exists() else requantize(target, kind, path)


def _kept(target: Path, change: str) -> Path:
    path = cache_folder() / "drafts" / f"{model_facts(target).sha256[:12]}-{change}.gguf"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path
