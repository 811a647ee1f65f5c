"""The adapter registry: immutable versions, which one is active, and who is using which.

A version's files never change and its name is never used again: vLLM keys its prefix
cache by name and path. Flipping the active version is one transaction; a request takes a
lease on its version in the transaction that looks it up, so that a version is unloaded
only when nobody uses it. Loading and unloading on engines is `server.swap`.
"""

import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from server.errors import BadRequestError, ConflictError, NotFoundError
from server.store.tables import Adapter, Lease, User, now

_VERSION = re.compile(r"v([1-9][0-9]{0,8})")
# Longer than any reply takes: a lease that outlives it belongs to a gateway that died.
LEASE_TIME = timedelta(minutes=10)


class DamagedAdapterError(ConflictError):
    """An adapter's files differ from what was published: roll back to another version."""


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where an adapter version comes from."""

    base_model: str
    method: str
    parent_id: int | None
    trained_position: float


def active(session: Session, user: User) -> Adapter | None:
    """Return the user's active version, or None while the base model answers."""
    return session.scalar(
        select(Adapter).where(Adapter.user_id == user.id, Adapter.state == "active")
    )


def versions(session: Session, user: User) -> Sequence[Adapter]:
    """Return all versions of a user, newest first."""
    return session.scalars(
        select(Adapter).where(Adapter.user_id == user.id).order_by(Adapter.version.desc())
    ).all()


def find(session: Session, user: User, label: str) -> Adapter:
    """Return the version of a label such as `v2`.

    Raises:
        BadRequestError: The label is none.
        NotFoundError: The user has no such version, or it was rejected.
    """
    match = _VERSION.fullmatch(label)
    if match is None:
        raise BadRequestError(f"{label!r} is no adapter version: use 'active', 'none' or 'v7'.")
    adapter = session.scalar(
        select(Adapter).where(Adapter.user_id == user.id, Adapter.version == int(match[1]))
    )
    if adapter is None or adapter.state not in ("active", "retired"):
        raise NotFoundError(
            f"{user.name} has no published adapter {label}: see `attune adapters list {user.name}`."
        )
    return adapter


def lease(session: Session, user: User, choice: str) -> tuple[Adapter, str] | None:
    """Choose the version that a request uses, and keep it loaded until `release`.

    Args:
        session: A writing transaction.
        user: Whose adapter.
        choice: `active`, `none`, or a version such as `v7`.

    Returns:
        The version and the lease's id, or None for the base model.

    Raises:
        DamagedAdapterError: A file of the version is gone.
        BadRequestError, NotFoundError: See `find`.
    """
    if choice == "none":
        return None
    adapter = active(session, user) if choice == "active" else find(session, user, choice)
    if adapter is None:
        return None
    _require_files(adapter)
    token = secrets.token_hex(16)
    session.add(Lease(id=token, adapter_id=adapter.id, expires_at=now() + LEASE_TIME))
    return adapter, token


def release(session: Session, token: str) -> None:
    """Give a lease back."""
    session.execute(delete(Lease).where(Lease.id == token))


def leased(session: Session, adapter_id: int) -> int:
    """Return how many running requests use a version; leases of dead gateways expire."""
    return session.scalars(
        select(func.count())
        .select_from(Lease)
        .where(Lease.adapter_id == adapter_id, Lease.expires_at > now())
    ).one()


def add_candidate(
    session: Session,
    user: User,
    provenance: Provenance,
    metrics: Mapping[str, Any],
    adapters_dir: Path,
) -> Adapter:
    """Add the next version of a user as a candidate, without files."""
    newest = session.scalar(select(func.max(Adapter.version)).where(Adapter.user_id == user.id))
    version = (newest or 0) + 1
    adapter = Adapter(
        user_id=user.id,
        version=version,
        state="candidate",
        folder=str(adapters_dir / f"u{user.id}" / f"v{version}"),
        base_model=provenance.base_model,
        method=provenance.method,
        parent_id=provenance.parent_id,
        checksums={},
        metrics=dict(metrics),
        trained_position=provenance.trained_position,
    )
    session.add(adapter)
    session.flush()
    return adapter


def place_files(source: Path, folder: Path) -> dict[str, str]:
    """Copy an adapter's files to their final folder, all or nothing, and return checksums.

    Files are written to a temporary folder beside the final one, synced to disk, and the
    folder is renamed. Placing the same version again, after a crash, is no error.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    staging = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}")
    shutil.copytree(source, staging)
    for path in staging.rglob("*"):
        if path.is_file():
            _sync(path)
    sums = checksums(staging)
    (staging / "checksums.json").write_text(json.dumps(sums, indent=2, sort_keys=True))
    _sync(staging / "checksums.json")
    if folder.exists():
        shutil.rmtree(folder)
    staging.rename(folder)
    _sync(folder.parent)
    return sums


def checksums(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of each file of an adapter folder."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "checksums.json"
    }


def verify(adapter: Adapter) -> None:
    """Check a version's files against the checksums of its publication.

    Raises:
        DamagedAdapterError: A file is missing, was changed, or was added.
    """
    folder = Path(adapter.folder)
    found = checksums(folder) if folder.is_dir() else {}
    for name in sorted(found.keys() | adapter.checksums.keys()):
        if name not in found:
            what = "is missing"
        elif found[name] != adapter.checksums.get(name):
            what = "was changed"
        else:
            continue
        raise DamagedAdapterError(
            f"Adapter {adapter.name} is damaged: {name} {what} in {folder}. "
            "Roll back to another version, or refresh."
        )


def activate(session: Session, adapter: Adapter) -> Adapter | None:
    """Make a version the active one, and return the one that it replaces.

    Raises:
        ConflictError: The version was rejected.
    """
    if adapter.state == "rejected":
        raise ConflictError(f"Adapter {adapter.name} was rejected and cannot become active.")
    user = session.get_one(User, adapter.user_id)
    old = deactivate(session, user, keep=adapter.id)
    session.get_one(Adapter, adapter.id).state = "active"
    adapter.state = "active"
    return old


def deactivate(session: Session, user: User, keep: int | None = None) -> Adapter | None:
    """Retire the user's active version, unless it is `keep`; the base model answers then."""
    old = active(session, user)
    if old is None or old.id == keep:
        return None
    old.state = "retired"
    session.flush()
    return old


def previous(session: Session, user: User) -> Adapter | None:
    """Return the version that a rollback without a target goes to; None is the base model.

    Raises:
        ConflictError: The user has no active version.
    """
    current = active(session, user)
    if current is None:
        raise ConflictError(f"{user.name} has no active adapter: there is nothing to roll back.")
    return session.scalar(
        select(Adapter)
        .where(
            Adapter.user_id == user.id,
            Adapter.state == "retired",
            Adapter.version < current.version,
        )
        .order_by(Adapter.version.desc())
        .limit(1)
    )


def surplus(session: Session, user: User, keep: int) -> Sequence[Adapter]:
    """Return the retired versions beyond the newest `keep`, whose files may go."""
    return session.scalars(
        select(Adapter)
        .where(Adapter.user_id == user.id, Adapter.state == "retired")
        .order_by(Adapter.version.desc())
        .offset(keep)
    ).all()


def _require_files(adapter: Adapter) -> None:
    """Check that all files are there, at every request: an engine that looks for one dies."""
    for name in adapter.checksums:
        if not (Path(adapter.folder) / name).is_file():
            raise DamagedAdapterError(
                f"Adapter {adapter.name} is damaged: {name} is missing in {adapter.folder}. "
                "Roll back to another version, or refresh."
            )


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
