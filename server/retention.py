"""What is erased and when: the files of versions beyond the kept ones or the disk budget.

Erasing a version is a claim in one transaction, refused while a request uses it; then its
files go, and its row stays with `erased_at`. What is withdrawn (`server.withdrawal`) goes
too, as soon as no request uses it. Files that are still there, after a crash, are left to the
next drain. Unloading and deleting are `server.swap`.
"""

from collections.abc import Iterator, Sequence

import structlog
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from server import leases, registry
from server.refreshes import OPEN
from server.store.database import take_turn
from server.store.tables.adapters import Adapter
from server.store.tables.base import now
from server.store.tables.people import AuditEntry, User
from server.store.tables.refreshes import Refresh

log = structlog.get_logger()

_ON_DISK = ("candidate", "active", "retired")
_LOCK = 0x61747562  # any number that only what takes many versions at once uses


def turn(session: Session) -> None:
    """Let one writing transaction at a time take versions of several users away."""
    take_turn(session, _LOCK)


def surplus(session: Session, user: User, keep: int) -> Sequence[Adapter]:
    """Return the retired versions beyond the newest `keep`; the active one is never among them."""
    return registry.versions(session, user, "retired")[keep:]


def abandoned(session: Session, user: User | None = None) -> Sequence[Adapter]:
    """Return candidates, of a user or of all, whose refresh ended after publishing them."""
    under_way = (
        select(Refresh.id)
        .where(Refresh.adapter_id == Adapter.id, Refresh.status.in_(OPEN))
        .exists()
    )
    query = select(Adapter).where(Adapter.state == "candidate", ~under_way)
    if user is not None:
        query = query.where(Adapter.user_id == user.id)
    return session.scalars(query).all()


def unfinished(session: Session, user: User | None = None) -> Sequence[Adapter]:
    """Return erased and withdrawn versions, of a user or of all, that may still have files."""
    query = select(Adapter).where(Adapter.state.in_(registry.LEAVING), Adapter.erased_at.is_(None))
    if user is not None:
        query = query.where(Adapter.user_id == user.id)
    return session.scalars(query).all()


def claim(session: Session, adapter_id: int, why: str) -> bool:
    """Mark a version as erased, if no request uses it: none can take a lease from then on.

    Args:
        session: A writing transaction.
        adapter_id: A retired version, or an abandoned candidate.
        why: Goes to the log and the audit.

    Returns:
        False if it is in use, or became active again.
    """
    adapter = session.scalar(
        select(Adapter)
        .where(Adapter.id == adapter_id, Adapter.state.in_(("retired", "candidate")))
        .with_for_update()
        .execution_options(populate_existing=True)
    )
    if adapter is None or leases.count(session, adapter_id):
        return False
    registry.move(adapter, "erased")
    counts = {"bytes": adapter.size_bytes, "why": why}
    session.add(AuditEntry(action="erase adapter", subject=adapter.name, counts=counts))
    log.info("erasing adapter", adapter=adapter.name, bytes=adapter.size_bytes, why=why)
    return True


def finish(session: Session, adapter_id: int) -> None:
    """Note that the files of an erased or withdrawn version are gone.

    Not while its refresh is under way, which may place or load them yet: the next drain looks
    again.
    """
    adapter = session.get(Adapter, adapter_id)
    if adapter is None or adapter.erased_at is not None:
        return
    made_by = select(Refresh.id).where(Refresh.adapter_id == adapter_id, Refresh.status.in_(OPEN))
    if session.scalar(made_by.limit(1)) is None:
        adapter.erased_at = now()


def used_bytes(session: Session) -> int:
    """Return the bytes of all versions that are on disk."""
    query = select(func.coalesce(func.sum(Adapter.size_bytes), 0))
    return int(session.scalars(query.where(Adapter.state.in_(_ON_DISK))).one())


def claim_over_budget(session: Session, budget_bytes: int) -> list[int]:
    """Claim retired versions, oldest first, until the others fit the disk budget.

    A user's only retired version goes last, since there is no other way back; active ones
    never go. What is in use now is passed over.

    Args:
        session: A writing transaction.
        budget_bytes: What all adapter files may take together.

    Returns:
        The ids of the claimed versions.
    """
    # Two gateways at once would each remove enough.
    turn(session)
    excess = used_bytes(session) - budget_bytes
    claimed: list[int] = []
    if excess <= 0:
        return claimed
    for adapter in _oldest_retired(session):
        if excess <= 0:
            break
        if claim(session, adapter.id, "disk budget"):
            claimed.append(adapter.id)
            excess -= adapter.size_bytes
    if excess > 0:
        log.error(
            "adapters exceed the disk budget, and nothing more may go: raise adapters_disk_gb",
            excess_bytes=excess,
        )
    return claimed


def _oldest_retired(session: Session) -> Iterator[Adapter]:
    """All retired versions, oldest first; those that are their user's newest come last."""
    newest = (
        select(func.max(Adapter.id).label("id"))
        .where(Adapter.state == "retired")
        .group_by(Adapter.user_id)
        .scalar_subquery()
    )
    retired = select(Adapter).where(Adapter.state == "retired").order_by(Adapter.created_at)
    yield from session.scalars(retired.where(Adapter.id.not_in(newest))).all()
    yield from session.scalars(retired.where(Adapter.id.in_(newest))).all()
