"""The population: the owner of the one adapter that is trained on all who share their texts.

It is a row among the users with a reserved name, so that versions, gate, rollback, retention
and refreshes work for it as for anybody; it has no key, no memory, and nobody chats as it.
Whose versions go when somebody leaves is `server.withdrawal`.
"""

from collections.abc import Iterable, Sequence

from sqlalchemy import ColumnElement, and_, insert, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from server import registry
from server.store.database import take_turn
from server.store.tables.adapters import Adapter, AdapterMember
from server.store.tables.people import POPULATION, User

NAME = POPULATION
KIND = "population"
_LOCK = 0x706F7075  # any number that only what changes the population's members uses


def turn(session: Session) -> None:
    """Let one writing transaction at a time read or change who is in the population.

    To be called before anything else in the transaction: by who collects the texts of those
    who share, by who publishes a version with members or with a parent, and by withdrawals.
    So a version is published before somebody leaves, and withdrawn with the others, or after,
    and then `left` and its parent's state say so.
    """
    take_turn(session, _LOCK)


def find(session: Session) -> User | None:
    """Return the population's row, or None as long as nobody needed it."""
    return session.scalar(select(User).where(User.name == NAME))


def ensure(session: Session) -> User:
    """Return the population's row, made if it is missing.

    Args:
        session: A writing transaction.
    """
    found = find(session)
    if found is not None:
        return found
    # Without consent: it is nobody, and so it is never due as a person is.
    made = User(name=NAME, kind=KIND, consent=False)
    try:
        with session.begin_nested():
            session.add(made)
    except IntegrityError:  # Another process made it just now.
        return session.scalars(select(User).where(User.name == NAME)).one()
    return made


def is_population(user: User) -> bool:
    """Tell the population's row from a person's."""
    return user.kind == KIND


def shares() -> ColumnElement[bool]:
    """Return the condition, for a query over users, that their texts may be trained on for all."""
    return and_(User.shares, User.consent, User.kind == "person")


def sharing(session: Session) -> Sequence[User]:
    """Return the persons whose texts may be trained on for all, by id."""
    return session.scalars(select(User).where(shares()).order_by(User.id)).all()


def active(session: Session) -> Adapter | None:
    """Return the version that answers those without one of their own."""
    # One query: every request of who has no version asks it.
    return session.scalar(
        select(Adapter)
        .join(User, User.id == Adapter.user_id)
        .where(User.name == NAME, Adapter.state == "active")
    )


def lineage(session: Session) -> Sequence[Adapter]:
    """Return the active version and, newest first, the retired ones older than it."""
    owner = find(session)
    return () if owner is None else registry.lineage(session, owner)


def record_members(session: Session, adapter_id: int, user_ids: Iterable[int]) -> None:
    """Note whose texts a version was trained on; those who are noted already stay."""
    query = select(AdapterMember.user_id).where(AdapterMember.adapter_id == adapter_id)
    new = set(user_ids) - set(session.scalars(query))
    if new:
        rows = [{"adapter_id": adapter_id, "user_id": user_id} for user_id in sorted(new)]
        session.execute(insert(AdapterMember), rows)


def left(session: Session, user_ids: Iterable[int]) -> list[int]:
    """Return those of some persons who are gone or share no more, by id; see `turn`."""
    return sorted(set(user_ids) - set(session.scalars(select(User.id).where(shares()))))


def label_for(user: User, adapter: Adapter) -> str:
    """Return a version as its user is shown it: `v2` of their own, `population@v3` of all."""
    return adapter.label if adapter.user_id == user.id else shared_label(adapter)


def shared_label(adapter: Adapter) -> str:
    """Return a version of the population as persons are shown it."""
    return f"population@{adapter.label}"
