"""Cancelling a refresh: at once while it waits, between two optimizer steps while it trains.

From its publication on it cannot be cancelled but only rolled back: some requests may be
answered by the new version already. The worker's half is in `adapt.refresh`.
"""

from collections.abc import Collection
from typing import NoReturn

from sqlalchemy import select
from sqlalchemy.orm import Session

from server.errors import ConflictError
from server.refreshes import OPEN, close, find_refresh
from server.store.tables.people import User
from server.store.tables.refreshes import Refresh

PUBLISHING = ("publish", "warm", "activate")
"""Stages in which it is too late."""


def cancel_refresh(session: Session, user: User, refresh_id: str) -> Refresh:
    """Cancel a refresh, or ask the worker that runs it to.

    Args:
        session: A writing transaction.
        user: Whose refresh.
        refresh_id: Its id.

    Returns:
        The refresh: `cancelled`, or still `running` with `cancel_requested`.

    Raises:
        NotFoundError: The user has no such refresh.
        ConflictError: It has ended, or is being published.
    """
    find_refresh(session, user, refresh_id)
    refresh = session.get_one(Refresh, refresh_id, with_for_update=True, populate_existing=True)
    if refresh.status not in OPEN:
        _too_late(refresh, f"has ended already ({refresh.status})")
    if refresh.stage in PUBLISHING:
        _too_late(refresh, "is being published already")
    refresh.cancel_requested = True
    if refresh.status == "queued":
        session.flush()
        close(session, refresh_id, "cancelled")
        session.refresh(refresh)
    return refresh


def give_up(
    session: Session, user_id: int, reason: str | None = None, sparing: Collection[str] = ()
) -> None:
    """Cancel a user's refresh if one is on the way, even while it is being published.

    Where it is, what makes its version unfit to answer has to follow in the same transaction.

    Args:
        session: A writing transaction.
        user_id: Whose refresh.
        reason: What the refresh will say; None for nothing.
        sparing: Stages in which it may go on.
    """
    running = session.scalars(
        select(Refresh)
        .where(Refresh.user_id == user_id, Refresh.status.in_(OPEN))
        .with_for_update()
        .execution_options(populate_existing=True)
    ).all()
    for refresh in running:
        if refresh.stage in sparing:
            continue
        refresh.cancel_requested, refresh.reason = True, reason
        if refresh.status == "queued":
            session.flush()
            close(session, refresh.id, "cancelled")


def _too_late(refresh: Refresh, why: str) -> NoReturn:
    raise ConflictError(
        f"Refresh {refresh.id} {why} and cannot be cancelled: a published version is taken back "
        "with `attune adapters rollback`."
    )
