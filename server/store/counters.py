"""A user's counters, from which `server.due` tells who is due without counting rows.

`text_count` is the number of the user's texts; `new_texts` is the number of those that
came after the data of the newest adapter version, published or not. A version's data are
the texts that were there when its refresh started. Where the active version was withdrawn,
those made before it was do not count: all texts are new. Whoever adds or removes texts, answers
a message or ends a refresh calls the function for it in the same transaction. Whoever adds
texts, or takes them for a refresh, asks for its `turn` first.
"""

from datetime import UTC, datetime

from sqlalchemy import DateTime, Select, func, select, update
from sqlalchemy.orm import Session, aliased

from server.store.tables.adapters import Adapter
from server.store.tables.base import now
from server.store.tables.people import User, UserText
from server.store.tables.refreshes import Refresh
from server.store.users import lock_user


def turn(session: Session, user_id: int) -> datetime:
    """Let one transaction at a time add or take a user's texts, and return its moment.

    Texts that are added have this moment, and so has the start of the refresh that takes
    them: those that a refresh does not see are younger than it, and the others are not. The
    clock is the database's, since gateways and workers may run on several machines.
    """
    lock_user(session, user_id)
    if session.get_bind().dialect.name == "sqlite":
        return now()
    # A statement of its own: the lock may have taken its time.
    clock = func.clock_timestamp(type_=DateTime(timezone=True))
    return session.scalars(select(clock)).one().astimezone(UTC)


def texts_added(session: Session, user_id: int, count: int) -> None:
    """Count texts that were added just now."""
    session.execute(
        update(User)
        .where(User.id == user_id)
        .values(
            text_count=User.text_count + count,
            new_texts=User.new_texts + count,
            last_text_at=now(),
        )
    )


def message_answered(session: Session, user_id: int) -> None:
    """Note that the user is here: a refresh waits until they have been quiet."""
    session.execute(update(User).where(User.id == user_id).values(last_message_at=now()))


def refresh_ended(session: Session, user_id: int) -> None:
    """Note that a refresh of the user came to an end, whatever it was, and count anew."""
    session.execute(
        update(User).where(User.id == user_id).values(last_refresh_at=now(), waiting_since=None)
    )
    recount(session, user_id)


def recount(session: Session, user_id: int) -> None:
    """Count a user's texts from their rows: after a removal, or when a version was made."""
    session.flush()
    # A statement counts what was there when it began: it must not begin and then wait.
    lock_user(session, user_id)
    as_of = data_as_of(user_id).scalar_subquery()
    texts = select(func.count()).select_from(UserText).where(UserText.user_id == user_id)
    session.execute(
        update(User)
        .where(User.id == user_id)
        .values(
            text_count=texts.scalar_subquery(),
            new_texts=texts.where(
                as_of.is_(None) | (UserText.created_at > as_of)
            ).scalar_subquery(),
        )
        .execution_options(synchronize_session=False)
    )


def data_as_of(user_id: int) -> Select[datetime]:
    """Return the query for the moment of the newest version's data; empty without a version."""
    owner = aliased(User)
    return (
        select(func.coalesce(Refresh.started_at, Adapter.created_at))
        .select_from(Adapter)
        .join(owner, owner.id == Adapter.user_id)
        .outerjoin(
            Refresh, (Refresh.adapter_id == Adapter.id) & (Refresh.user_id == Adapter.user_id)
        )
        .where(
            Adapter.user_id == user_id,
            owner.unlearnt_at.is_(None) | (Adapter.created_at > owner.unlearnt_at),
            # What a refresh made that then failed was learnt from in vain.
            Refresh.status.is_(None) | Refresh.status.not_in(("failed", "cancelled")),
        )
        .order_by(Adapter.version.desc())
        .limit(1)
    )
