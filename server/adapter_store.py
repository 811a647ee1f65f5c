"""The files of adapter versions: placed whole or not at all, and checked before every use.

A version's folder appears by one rename, with everything in it synced to disk, so that a
crash at any moment leaves nothing or the whole version. What an engine is pointed at has
the checksums of its publication; rows and states are `server.registry`.
"""

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import structlog

from perce.errors import AttuneError
from server.errors import ConflictError
from server.store.tables.adapters import Adapter

log = structlog.get_logger()

CHECKSUMS_FILE = "checksums.json"
_SUFFIXES = frozenset({".json", ".safetensors"})
_BLOCK = 1 << 20
# A file as the operating system describes it: path, bytes, mtime and ctime in nanoseconds.
_Stamp = tuple[str, int, int, int]


class DamagedAdapterError(ConflictError):
    """An adapter's files differ from what was published: roll back to another version."""


class UnsafeAdapterError(AttuneError):
    """An adapter folder holds other files than JSON and safetensors: nothing was placed."""


@dataclass(frozen=True, slots=True)
class PlacedFiles:
    """What was placed: the SHA-256 of each file by name, and the bytes of all files."""

    checksums: Mapping[str, str]
    size_bytes: int


def place(source: Path, folder: Path) -> PlacedFiles:
    """Copy an adapter's files to their final folder, all or nothing.

    They are written to a folder beside the final one and synced to disk, which is then
    renamed and its parent synced. Placing the same version again, after a crash, is no error.

    Raises:
        UnsafeAdapterError: There are other files than JSON and safetensors.
    """
    _require_safe(source)
    _make_durable(folder.parent)
    staging = _hidden(folder)
    try:
        placed = _stage(source, staging)
        if folder.exists():
            # What an attempt that crashed left: it was never used.
            folder.rename(_hidden(folder))
        staging.rename(folder)
        _sync(folder.parent)
        return placed
    finally:
        for leftover in _hidden_of(folder):
            shutil.rmtree(leftover, ignore_errors=True)


def checksums(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of each file of an adapter folder; empty where there is no folder."""
    return {
        str(path.relative_to(folder)): _hash(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != CHECKSUMS_FILE
    }


def verify(adapter: Adapter) -> None:
    """Hash a version's files and compare them with the checksums of its publication.

    Raises:
        DamagedAdapterError: A file is missing, was changed, or was added.
    """
    _compare(adapter, checksums(Path(adapter.folder)))


def check(adapter: Adapter) -> None:
    """Like `verify`, but files that look as they did when they were hashed are not read again.

    Cheap enough for every request: one `stat` a file.

    Raises:
        DamagedAdapterError: A file is missing, was changed, or was added.
    """
    folder = Path(adapter.folder)
    try:
        found = dict(_sums_of(_stamps(folder), str(folder)))
    except OSError as error:  # The files are being exchanged, or cannot be read.
        raise _damaged(adapter, f"it cannot be read ({error.strerror})") from error
    _compare(adapter, found)


def probe(adapter: Adapter) -> None:
    """Look whether all files of a version are there, with the bytes of its publication.

    Raises:
        DamagedAdapterError: A file is missing, or their size is another.
    """
    folder = Path(adapter.folder)
    sizes = {name: size for name, size, *_ in _stamps(folder)}
    for name in adapter.checksums:
        if name not in sizes:
            raise _damaged(adapter, f"{name} is missing")
    total = sum(sizes[name] for name in adapter.checksums)
    if adapter.size_bytes and total != adapter.size_bytes:
        raise _damaged(adapter, f"it has {total:,} bytes and not {adapter.size_bytes:,}")


def first_whole(adapters: Iterable[Adapter]) -> Adapter | None:
    """Return the first version whose files are whole; damaged ones are logged as errors."""
    for adapter in adapters:
        try:
            verify(adapter)
        except DamagedAdapterError as error:
            log.error("damaged adapter passed over", adapter=adapter.name, reason=str(error))
        else:
            return adapter
    return None


def delete(folder: Path) -> None:
    """Delete a version's folder for good, or a user's; one that is gone already is no error.

    What a deletion that crashed left of it goes too.
    """
    # Renamed first: a crash in the middle must not leave half a version under its name.
    with suppress(FileNotFoundError):  # It is gone, or somebody else deletes it.
        folder.rename(_hidden(folder))
        _sync(folder.parent)
    for trash in _hidden_of(folder):
        while trash.exists():
            with suppress(FileNotFoundError):  # Somebody else deletes it at the same time.
                shutil.rmtree(trash)


def _stage(source: Path, staging: Path) -> PlacedFiles:
    shutil.copytree(source, staging, ignore=shutil.ignore_patterns(CHECKSUMS_FILE))
    sums = checksums(staging)
    size = sum((staging / name).stat().st_size for name in sums)
    (staging / CHECKSUMS_FILE).write_text(json.dumps(sums, indent=2, sort_keys=True))
    for path in (*staging.rglob("*"), staging):
        _sync(path)
    return PlacedFiles(sums, size)


def _require_safe(source: Path) -> None:
    for path in sorted(source.rglob("*")):
        if path.is_symlink() or (path.is_file() and path.suffix not in _SUFFIXES):
            raise UnsafeAdapterError(
                f"{path.name} in {source} is neither JSON nor safetensors, and may run code "
                "when it is loaded: nothing was placed. Save the adapter as safetensors."
            )


def _hidden(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.{secrets.token_hex(4)}")


def _hidden_of(folder: Path) -> list[Path]:
    """Where a folder is, or was, on its way in or out."""
    beside = folder.parent.iterdir() if folder.parent.is_dir() else ()
    return [path for path in beside if path.name.startswith(f".{folder.name}.")]


def _compare(adapter: Adapter, found: Mapping[str, str]) -> None:
    for name in sorted(found.keys() | adapter.checksums.keys()):
        if name not in found:
            raise _damaged(adapter, f"{name} is missing")
        if name not in adapter.checksums:
            raise _damaged(adapter, f"{name} was added")
        if found[name] != adapter.checksums[name]:
            raise _damaged(adapter, f"{name} was changed")


def _damaged(adapter: Adapter, what: str) -> DamagedAdapterError:
    return DamagedAdapterError(
        f"Adapter {adapter.name} is damaged: {what} in {adapter.folder}. "
        "Roll back to another version, or refresh."
    )


def _stamps(folder: Path) -> tuple[_Stamp, ...]:
    stamps = []
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != CHECKSUMS_FILE:
            stat = path.stat()
            name = str(path.relative_to(folder))
            stamps.append((name, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns))
    return tuple(stamps)


@lru_cache(maxsize=1 << 16)
def _sums_of(stamps: tuple[_Stamp, ...], folder: str) -> tuple[tuple[str, str], ...]:
    return tuple((name, _hash(Path(folder) / name)) for name, *_ in stamps)


def _hash(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _make_durable(folder: Path) -> None:
    """Make a folder and have its name on disk."""
    if not folder.is_dir():
        _make_durable(folder.parent)
        folder.mkdir(exist_ok=True)
        _sync(folder.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
