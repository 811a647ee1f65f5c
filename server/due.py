"""Who is due for a refresh: one rule, answered by one indexed query over the users.

The same rule serves the nightly round, `run-now` and the online mode; the population has one
of its own, and the nightly round alone asks for it. What is done with those who are due is
`server.arrangement`.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, and_, func, or_, select
from sqlalchemy.orm import Session

from server import population
from server.errors import BadRequestError
from server.refreshes import MIN_SHARING, MIN_TEXTS, shares_enough, without_refresh
from server.store import counters
from server.store.tables.people import User, UserText

NEW_SHARE = 0.1
"""Of all shared texts must be new before the population is trained again."""


@dataclass(frozen=True, slots=True)
class DueRule:
    """When a consenting user without a refresh on the way is due.

    Attributes:
        min_new_texts: At least so many endorsed texts since the newest version's data.
        quiet_minutes: At least so long since the user's last message.
        min_gap_hours: At least so long since the user's last refresh ended.
    """

    min_new_texts: int = 10
    quiet_minutes: float = 60.0
    min_gap_hours: float = 8.0

    def __post_init__(self) -> None:
        if self.min_new_texts < 1:
            raise BadRequestError("'min_new_texts' must be at least 1.")
        for name in ("quiet_minutes", "min_gap_hours"):
            # A year: beyond it nobody would ever be due.
            if not 0 <= getattr(self, name) <= 525_600:
                raise BadRequestError(f"'{name}' must be between 0 and 525600.")

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "DueRule":
        """Take the rule's numbers out of a schedule's context; what is missing is default."""
        known = {field.name for field in fields(cls)}
        return cls(**{key: value for key, value in values.items() if key in known})

    def to_json(self) -> dict[str, Any]:
        """Return the rule's numbers as a schedule keeps them."""
        return asdict(self)


class DueUser(NamedTuple):
    """What a plan needs of a due user."""

    id: int
    new_texts: int
    text_count: int
    stale_since: datetime
    waiting_since: datetime | None
    alone: bool = False
    """Whether it goes behind the others, and is never trained in one fleet with them."""


def due_users(session: Session, rule: DueRule, at: datetime) -> Sequence[DueUser]:
    """Return everybody who is due at a moment, in no particular order.

    `stale_since` is the end of the last refresh, or for want of one the day when the user
    was added.
    """
    stale_since = func.coalesce(User.last_refresh_at, User.created_at)
    query = select(User.id, User.new_texts, User.text_count, stale_since, User.waiting_since).where(
        _has_texts(rule), _is_free(rule, at)
    )
    return [DueUser(*row) for row in session.execute(query)]


def population_due(
    session: Session, rule: DueRule, at: datetime, most_texts: int
) -> DueUser | None:
    """Return the population if it is due: as many new texts as a person needs, and a tenth of all.

    New are texts of those who share theirs now, since the data of its newest version. It
    starts anew each time, so all the texts that it takes are to be trained on.

    Args:
        session: A writing transaction.
        rule: The numbers of the rule for persons.
        at: The moment.
        most_texts: How many texts it takes at most.
    """
    member = shares_enough()
    users, texts = session.execute(
        select(func.count(), func.coalesce(func.sum(User.text_count), 0)).where(member)
    ).one()
    if users < MIN_SHARING:
        return None
    owner = population.ensure(session)
    if session.scalar(select(User.id).where(User.id == owner.id, _is_free(rule, at))) is None:
        return None
    as_of = session.scalar(counters.data_as_of(owner.id))
    new = texts
    if as_of is not None:
        arrived = select(func.count()).select_from(UserText).join(User).where(member)
        new = session.scalars(arrived.where(UserText.created_at > as_of)).one()
    if new < max(rule.min_new_texts, texts * NEW_SHARE):
        return None
    taken = min(texts, most_texts)
    stale_since = owner.last_refresh_at or owner.created_at
    return DueUser(owner.id, taken, taken, stale_since, owner.waiting_since, alone=True)


def next_due_at(session: Session, rule: DueRule, at: datetime) -> datetime | None:
    """Return when to look again for users who have enough texts and have only to wait.

    They wait for the quiet period, the gap between refreshes or the pause after failures;
    until the moment that is returned, none of them becomes due. None if nobody waits.
    """
    after_message = User.last_message_at, timedelta(minutes=rule.quiet_minutes)
    after_refresh = User.last_refresh_at, timedelta(hours=rule.min_gap_hours)
    after_failure = User.retry_at, timedelta()
    moments = []
    for column, wait in (after_message, after_refresh, after_failure):
        earliest = session.scalar(
            select(func.min(column)).where(_has_texts(rule), without_refresh(), column > at - wait)
        )
        if earliest is not None:
            moments.append(earliest + wait)
    return min(moments, default=None)


def _has_texts(rule: DueRule) -> ColumnElement[bool]:
    return and_(
        User.consent,
        User.new_texts >= rule.min_new_texts,
        User.text_count >= MIN_TEXTS,
    )


def _is_free(rule: DueRule, at: datetime) -> ColumnElement[bool]:
    quiet_since = at - timedelta(minutes=rule.quiet_minutes)
    refreshed_before = at - timedelta(hours=rule.min_gap_hours)
    return and_(
        or_(User.last_message_at.is_(None), User.last_message_at <= quiet_since),
        or_(User.last_refresh_at.is_(None), User.last_refresh_at <= refreshed_before),
        or_(User.retry_at.is_(None), User.retry_at <= at),
        without_refresh(),
    )
