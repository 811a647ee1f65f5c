"""The adapter registry: immutable versions, and where they come from.

A version's files never change and its name is never used again: vLLM keys its prefix
cache by name and path. Here are the rows and the states that they go through. Which one is
active is flipped by `server.pointer`. The files are `server.adapter_store`, who is using a
version is `server.leases`, what is erased when is `server.retention`, and loading and
unloading on engines is `server.swap`.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.orm import Session

from server.errors import BadRequestError, ConflictError, NotFoundError
from server.store.tables.adapters import Adapter
from server.store.tables.people import User

State = Literal["candidate", "active", "retired", "erased", "rejected", "withdrawn"]
_NEXT: Mapping[State, frozenset[State]] = {
    "candidate": frozenset({"active", "rejected", "erased", "withdrawn"}),
    "active": frozenset({"retired", "withdrawn"}),
    "retired": frozenset({"active", "erased", "withdrawn"}),
    "erased": frozenset(),
    "rejected": frozenset(),
    "withdrawn": frozenset(),
}
LEAVING: tuple[State, ...] = ("erased", "withdrawn")
"""States in which a version's files are gone, or go as soon as no request uses them."""
_VERSION = re.compile(r"v([1-9][0-9]{0,8})")


class IllegalTransitionError(ConflictError):
    """An adapter version cannot go from its state to that one."""

    def __init__(self, adapter: Adapter, state: State) -> None:
        allowed = " or ".join(sorted(_NEXT[_state(adapter)])) or "nothing else"
        super().__init__(
            f"Adapter {adapter.name} is {adapter.state} and cannot become {state}, but "
            f"{allowed}: look at `attune adapters list`, and choose another version or refresh."
        )


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where an adapter version comes from.

    Attributes:
        base_model: Hash of the base model (`perce.adapter_files.model_fingerprint`).
        method: `perce` or `ce`.
        parent_id: The version that training went on from; None for a fresh adapter.
        data_fingerprint: Hash over what it was trained on.
        settings: Hyperparameters of its training.
        code_version: Version of Attune that trained it.
    """

    base_model: str
    method: str
    parent_id: int | None
    data_fingerprint: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    code_version: str = ""


def active(session: Session, user: User) -> Adapter | None:
    """Return the user's active version, or None if no version of their own answers."""
    return session.scalar(
        select(Adapter).where(Adapter.user_id == user.id, Adapter.state == "active")
    )


def versions(session: Session, user: User, *states: State) -> Sequence[Adapter]:
    """Return a user's versions, newest first: all, or those in some states."""
    query = select(Adapter).where(Adapter.user_id == user.id)
    if states:
        query = query.where(Adapter.state.in_(states))
    return session.scalars(query.order_by(Adapter.version.desc())).all()


def lineage(session: Session, user: User) -> Sequence[Adapter]:
    """Return the active version and, newest first, the retired ones older than it."""
    current = active(session, user)
    return () if current is None else (current, *_older(session, current))


def find(session: Session, user: User, label: str) -> Adapter:
    """Return the version of a label such as `v2`.

    Raises:
        BadRequestError: The label is none.
        NotFoundError: The user has no such version, or it is not published any more.
    """
    match = _VERSION.fullmatch(label)
    if match is None:
        raise BadRequestError(f"{label!r} is no adapter version: use 'active', 'none' or 'v7'.")
    adapter = session.scalar(
        select(Adapter).where(
            Adapter.user_id == user.id,
            Adapter.version == int(match[1]),
            Adapter.state.in_(("active", "retired")),
        )
    )
    if adapter is None:
        raise NotFoundError(
            f"{user.name} has no published adapter {label}: see `attune adapters list {user.name}`."
        )
    return adapter


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
        data_fingerprint=provenance.data_fingerprint,
        settings=dict(provenance.settings),
        code_version=provenance.code_version,
    )
    session.add(adapter)
    session.flush()
    return adapter


def attach_files(
    session: Session, adapter_id: int, checksums: Mapping[str, str], size_bytes: int
) -> bool:
    """Record the files that a candidate was placed with; only now it can become active.

    Returns:
        False if the version is gone, because its user was erased meanwhile, or was
        withdrawn: its folder must be deleted.
    """
    # The lock makes a withdrawal wait on PostgreSQL, or this see it.
    adapter = fresh(session, Adapter.id == adapter_id, lock=True)
    if adapter is None or adapter.state == "withdrawn":
        return False
    adapter.checksums = dict(checksums)
    adapter.size_bytes = size_bytes
    return True


def move(adapter: Adapter, state: State) -> None:
    """Bring a version into another state.

    Raises:
        IllegalTransitionError: There is no way from its state to that one.
    """
    if state not in _NEXT[_state(adapter)]:
        raise IllegalTransitionError(adapter, state)
    adapter.state = state


def reject(session: Session, adapter: Adapter, reason: str) -> None:
    """Keep a candidate's row as a rejected one, with the reason.

    Raises:
        IllegalTransitionError: It is no candidate.
    """
    stored = session.get_one(Adapter, adapter.id)
    if stored.state != "rejected":
        move(stored, "rejected")
    stored.reason = reason


def fresh(session: Session, *where: ColumnElement[bool], lock: bool = False) -> Adapter | None:
    """Read a version as the database has it now, whatever the session read before."""
    query = select(Adapter).where(*where)
    if lock:
        query = query.with_for_update(key_share=True)
    return session.scalar(query.execution_options(populate_existing=True))


def before(state: State) -> list[State]:
    """Return the states from which a version can go into this one."""
    return [one for one, following in _NEXT.items() if state in following]


def _state(adapter: Adapter) -> State:
    return cast(State, adapter.state)


def _older(session: Session, adapter: Adapter) -> Sequence[Adapter]:
    return session.scalars(
        select(Adapter)
        .where(
            Adapter.user_id == adapter.user_id,
            Adapter.state == "retired",
            Adapter.version < adapter.version,
        )
        .order_by(Adapter.version.desc())
    ).all()
