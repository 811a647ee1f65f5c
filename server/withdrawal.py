"""Withdrawal: what was learnt from somebody who leaves the population goes, all of it.

Tainted is every version that the person is a member of, and every one that descends from
such a version, whoever owns it. Withdrawing them is rows alone, in one transaction with the
person's leaving; the files go by `server.swap`, and by the gateway's upkeep after a crash.
"""

from collections.abc import Sequence

import structlog
from sqlalchemy import Row, Select, insert, select, update
from sqlalchemy.orm import Session, aliased

from server import cancellation, population, registry, retention
from server.arrangement import grouped
from server.store.database import ROWS_AT_ONCE
from server.store.tables.adapters import Adapter, AdapterMember
from server.store.tables.base import now
from server.store.tables.people import AuditEntry, User
from server.store.users import lock_user

log = structlog.get_logger()
REASON = "Somebody whose texts it was to learn from left the population: refresh it again."


def leave(session: Session, user_id: int) -> set[int]:
    """Take a person out of the population, if they were ever in it.

    Doing it again withdraws nothing more.

    Args:
        session: A writing transaction that has locked no user and no refresh but the person's.
        user_id: The person.

    Returns:
        The ids of those who lost versions, the population included: see `withdraw`.
    """
    lost = withdraw(session, user_id)
    session.execute(update(User).where(User.id == user_id).values(shares=False))
    return lost


def withdraw(session: Session, user_id: int) -> set[int]:
    """Withdraw every version that learnt from a person through the population.

    From the end of the transaction on none of them is served or trained on from. Those who
    lose their active version are answered by the population's, if it has one left, and are
    due with all their texts. What the population is being trained on now is given up.

    Args:
        session: A writing transaction that has locked no user and no refresh but the person's.
        user_id: The person.

    Returns:
        The ids of the users who lost versions, the population included; their files are the
        caller's to have deleted (`swap.drain`).
    """
    population.turn(session)
    retention.turn(session)
    # Refreshes before users before versions, as everybody locks them.
    _give_up_refreshes(session, user_id)
    lost = set[int]()
    # Until none is found: a child may be published while its parent waits for its lock.
    while owners := _owners(session, user_id):
        lost |= _withdraw_of(session, user_id, owners)
    return lost


def withdraw_own(session: Session, user_id: int) -> None:
    """Withdraw a person's own versions, for good: none is served or published from then on.

    Args:
        session: A writing transaction, in which the person has left the population before.
        user_id: The person.
    """
    lock_user(session, user_id)
    own = _withdrawable().where(Adapter.user_id == user_id)
    rows = session.execute(own.with_for_update()).all()
    if rows:
        _mark(session, rows)


def unfinished(session: Session, user_id: int) -> list[Adapter]:
    """Return others' withdrawn versions that learnt from a person and may still have files."""
    withdrawn = retention.unfinished(session)
    ids = set(session.scalars(_descent(user_id)))
    return [one for one in withdrawn if one.id in ids and one.user_id != user_id]


def _give_up_refreshes(session: Session, user_id: int) -> None:
    """Cancel what the population learns now, if the person's texts may be among it."""
    owner = population.find(session)
    shares = session.scalar(select(User.shares).where(User.id == user_id))
    if owner is None or not shares:
        return
    cancellation.give_up(session, owner.id, REASON)


def _descent(user_id: int) -> Select[int]:
    """The query for the ids of all versions that learnt from a person through the population.

    Lines of descent go on through versions that were erased or rejected.
    """
    tainted = (
        select(AdapterMember.adapter_id.label("id"))
        .where(AdapterMember.user_id == user_id)
        .cte("tainted", recursive=True)
    )
    child = aliased(Adapter)
    tainted = tainted.union(select(child.id).join(tainted, child.parent_id == tainted.c.id))
    return select(tainted.c.id)


def _tainted(user_id: int) -> Select[int, int, int, str, int]:
    """The query for the tainted versions that are not withdrawn yet, of all owners."""
    return _withdrawable().where(Adapter.id.in_(_descent(user_id)))


def _withdrawable() -> Select[int, int, int, str, int]:
    return (
        select(Adapter.id, Adapter.user_id, Adapter.version, Adapter.state, Adapter.size_bytes)
        .where(Adapter.state.in_(registry.before("withdrawn")))
        .order_by(Adapter.id)
    )


def _owners(session: Session, user_id: int) -> set[int]:
    return {row.user_id for row in session.execute(_tainted(user_id))}


def _withdraw_of(session: Session, user_id: int, owners: set[int]) -> set[int]:
    """Withdraw the tainted versions of some users; return those who had any."""
    for ids in grouped(sorted(owners), ROWS_AT_ONCE):
        # Flips of these users wait, and then see what was withdrawn.
        in_order = select(User.id).where(User.id.in_(ids)).order_by(User.id)
        session.execute(in_order.with_for_update(key_share=True)).all()
    locked = session.execute(_tainted(user_id).with_for_update(of=Adapter)).all()
    rows = [row for row in locked if row.user_id in owners]
    for some in grouped(rows, ROWS_AT_ONCE):
        _mark(session, some)
    return {row.user_id for row in rows}


def _mark(session: Session, rows: Sequence[Row[int, int, int, str, int]]) -> None:
    session.execute(
        update(Adapter)
        .where(Adapter.id.in_([row.id for row in rows]))
        .values(state="withdrawn")
        .execution_options(synchronize_session="fetch")
    )
    session.execute(
        update(User)
        .where(User.id.in_({row.user_id for row in rows if row.state == "active"}))
        .values(new_texts=User.text_count, unlearnt_at=now())
        .execution_options(synchronize_session=False)
    )
    entries = [
        {
            "action": "withdraw",
            "subject": f"u{row.user_id}@v{row.version}",
            "counts": {"bytes": row.size_bytes},
        }
        for row in rows
    ]
    session.execute(insert(AuditEntry), entries)
    log.info("adapters withdrawn", versions=len(rows))
