"""The bytes of an Inspect log: a ZIP of JSON (.eval), its members deflated or compressed with zstd, or one JSON file."""

from __future__ import annotations

import copy
import io
import json
import re
import zipfile
import zlib
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

from specsafe.errors import UserError

_ZSTD = 93  # the method's number in ZIP
_LARGEST = 1 << 30
_SAMPLE = re.compile(r"samples/.*_epoch_\d+\.json", re.DOTALL)
_CHUNKED = re.compile(r"samples/.*_epoch_\d+/sample\.json", re.DOTALL)
Samples = Iterator[tuple[str, object]]


def read_log(path: Path) -> tuple[object, Samples]:
    """The header, and (place, sample) one after the other. Raises UserError for what cannot be read."""
    try:
        with path.open("rb") as stream:
            packed = stream.read(2) == b"PK"
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}", "name a readable log") from error
    return _read_zip(path) if packed else _read_json(path)


def _read_json(path: Path) -> tuple[object, Samples]:
    log = _document(path.read_bytes(), str(path))
    if not isinstance(log, dict):
        raise UserError(f"{path} is no log of Inspect", "name an .eval or .json log")
    samples = log.pop("samples", None)
    if samples is not None and not isinstance(samples, list):
        raise UserError(f"{path}: samples is no list", "name a log of Inspect")
    return log, ((f"sample {n}", s) for n, s in enumerate(samples or (), 1))


def _read_zip(path: Path) -> tuple[object, Samples]:
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise UserError(f"{path} is no whole ZIP file: {error}", "name a log that is whole") from error
    names = set(archive.namelist())
    chunked = next((n for n in sorted(names) if _CHUNKED.fullmatch(n)), None)
    if chunked is not None:
        raise UserError(
            f"{path}: {chunked[:80]!r}: samples in chunks cannot be read yet",
            "name the log as `inspect eval` wrote it",
        )
    head = next((n for n in ("header.json", "_journal/start.json") if n in names), None)
    if head is None:
        raise UserError(f"{path} is no log of Inspect: no header.json in it", "name an .eval or .json log")
    header = _document(_member(archive, head, path), f"{path}, {head}")
    return header, _samples(archive, sorted(n for n in names if _SAMPLE.fullmatch(n)), path)


def _samples(archive: zipfile.ZipFile, names: list[str], path: Path) -> Samples:
    with archive:
        for name in names:
            yield name, _document(_member(archive, name, path), f"{path}, {name}")


def _member(archive: zipfile.ZipFile, name: str, path: Path) -> bytes:
    """The bytes of a member: the last of its name, for a log is appended to. Raises UserError if they are not whole."""
    info = archive.getinfo(name)
    if info.file_size > _LARGEST:
        raise UserError(f"{path}, {name}: {info.file_size:,} bytes", f"a sample may have {_LARGEST:,}")
    try:
        if info.compress_type != _ZSTD:
            return archive.read(info)
        data = _expanded(archive, info, path)
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, RuntimeError, NotImplementedError) as error:
        raise UserError(f"{path}, {name}: {error}", "name a log that is whole") from error
    if len(data) != info.file_size or zlib.crc32(data) != info.CRC:
        raise UserError(f"{path}, {name}: its checksum does not hold", "name a log that is whole")
    return data


def _expanded(archive: zipfile.ZipFile, info: zipfile.ZipInfo, path: Path) -> bytes:
    """A member compressed with zstd, in one frame or several; `zipfile` knows the method from Python 3.14 on.

    The compressed bytes are read as if they had been stored.
    """
    stored: Any = copy.copy(info)
    stored.compress_type, stored.file_size, stored.CRC = zipfile.ZIP_STORED, info.compress_size, None
    raw = io.BytesIO(archive.read(stored))
    library, stream = _zstd(raw, path)
    try:
        with stream:
            return bytes(stream.read(info.file_size + 1))
    except library.ZstdError as error:
        raise zipfile.BadZipFile(str(error)) from error


def _zstd(raw: io.BytesIO, path: Path) -> tuple[Any, Any]:
    """(module, stream) of whichever library for zstd is there. Raises UserError without one."""
    try:
        library: Any = import_module("compression.zstd")
        return library, library.ZstdFile(raw)
    except ModuleNotFoundError:
        pass
    try:
        library = import_module("zstandard")
    except ModuleNotFoundError as error:
        raise UserError(
            f"{path} is compressed with zstd, which this Python cannot read",
            "pip install 'specsafe[inspect]'; or: inspect log convert FILE --to json --output-dir DIR",
        ) from error
    return library, library.ZstdDecompressor().stream_reader(raw, read_across_frames=True)


def _document(data: bytes, where: str) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{where} is not JSON: {' '.join(str(error).split())}", "name a log that is whole"
        ) from error
