"""Erasure of a user: what goes at once, and what waits for replies that still run.

At once go the texts, facts, conversations, replies and keys, and with them every right to
the versions made of them: from then on none is served, and no refresh publishes another.
The files follow when no request uses them, by `server.swap`; the last to go is the user's row.
Each part can be done again, so that an erasure that was interrupted is finished by the next.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import Session

from server import cancellation, population, retention, strays, withdrawal
from server.store.tables.adapters import Adapter
from server.store.tables.people import User
from server.store.tables.refreshes import Refresh
from server.store.users import erase_content


def begin(session: Session, user: User) -> tuple[dict[str, int], list[str]]:
    """Erase what a user wrote, and take away all that was made of it, in this transaction.

    Args:
        session: A writing transaction that has done nothing yet.
        user: The person.

    Returns:
        How many facts, texts and interactions were deleted, and the ids of all refreshes of
        the user: see `clear_work`.
    """
    # What a refresh activates is seen by the turn; refreshes are locked before users.
    population.turn(session)
    cancellation.give_up(session, user.id)
    withdrawal.leave(session, user.id)
    withdrawal.withdraw_own(session, user.id)
    refreshes = session.scalars(select(Refresh.id).where(Refresh.user_id == user.id)).all()
    return erase_content(session, user), list(refreshes)


def clear_work(home: Path, refresh_ids: Sequence[str]) -> None:
    """Delete what refreshes keep on disk until they end: a user's texts as tokens among it."""
    for refresh_id in refresh_ids:
        folder = strays.work_dir(home) / refresh_id
        if folder.exists():
            shutil.rmtree(folder, ignore_errors=True)


def remaining(session: Session, user: User) -> list[Adapter]:
    """Return the versions that may still have files: the user's, and what learnt from them."""
    own = retention.unfinished(session, user)
    return [*own, *withdrawal.unfinished(session, user.id)]
