"""Patience after failures: a user whose data breaks every refresh is not tried every night.

Rejections are verdicts, not failures: they count the user's texts as seen, and the user is due
again with new ones. Who is due is decided in `server.due`, by `retry_at`.
"""

from datetime import datetime, timedelta

from sqlalchemy.orm import Session

from server.store.tables.base import now
from server.store.tables.people import User

FIRST_PAUSE = timedelta(hours=8)
LONGEST_PAUSE = timedelta(days=14)


def pause(failures: int) -> timedelta:
    """How long to wait after so many failures in a row: 8 h, 16 h, … up to 14 days."""
    doublings = min(failures - 1, 10)
    return min(FIRST_PAUSE * (1 << doublings), LONGEST_PAUSE)


def note_failure(session: Session, user_id: int, at: datetime | None = None) -> None:
    """Let the user's next refresh wait longer than the last one had to."""
    user = session.get(User, user_id, with_for_update=True)
    if user is not None:
        user.failures += 1
        user.retry_at = (at or now()) + pause(user.failures)


def note_verdict(session: Session, user_id: int) -> None:
    """Forget earlier failures: a refresh came to its end."""
    user = session.get(User, user_id, with_for_update=True)
    if user is not None:
        user.failures, user.retry_at = 0, None
