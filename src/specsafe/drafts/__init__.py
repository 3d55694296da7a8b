"""How drafts are made from a target that is at hand."""

from __future__ import annotations

from pathlib import Path

from specsafe.drafts.layers import drop_layers, format_keep, layer_count, parse_keep
from specsafe.models.gguf_file import model_facts
from specsafe.models.store import cache_folder

__all__ = ["DEFAULT_KEEP", "draft_file", "drop_layers", "format_keep", "layer_count", "parse_keep"]

# Found by bench/draft_layers.py (greedy search over the layers of the default model); docs/drafts.md has the table.
DEFAULT_KEEP = "0-6+8-11+13+15-16+18-24+26-29"


def draft_file(target: Path, keep: str) -> Path:
    """The layer-dropped draft of a target, made on first use and kept in the cache."""
    layers = parse_keep(keep)
    name = f"{model_facts(target).sha256[:12]}-{format_keep(layers)}.gguf"
    path = cache_folder() / "drafts" / name
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        drop_layers(target, layers, path)
    return path
