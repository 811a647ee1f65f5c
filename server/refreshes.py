"""Refresh records: one row per refresh of a user's adapter, from request to verdict.

The rows are what the API shows; the durable workflow that does the work, under the same
id, is the worker's. A rejected candidate is a refresh that succeeded with that verdict.
"""

import uuid
from collections.abc import Sequence
from typing import Any, Literal

from sqlalchemy import ColumnElement, and_, func, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from server import population
from server.errors import ConflictError, NotFoundError, UnprocessableError
from server.store import counters
from server.store.tables.base import now
from server.store.tables.people import User, UserText
from server.store.tables.refreshes import Refresh
from server.store.text import is_storable

Method = Literal["perce", "ce"]
Origin = Literal["manual", "nightly", "online"]
# Three texts gate; fewer than five beside them teach nothing.
MIN_TEXTS = 8
# One to learn from and one to be judged on.
MIN_SHARING = 2
OPEN = ("queued", "running")


def open_refresh(session: Session, user: User, method: Method) -> Refresh:
    """Record that a refresh of a person, or of the population, is wanted.

    Raises:
        UnprocessableError: The user has too few texts, or gave no consent; or too few share
            theirs with the population.
        ConflictError: A refresh of this user is on the way already.
    """
    if population.is_population(user):
        _require_sharing(session)
    else:
        _require_texts(session, user)
    key = str(uuid.uuid4())
    refresh = Refresh(id=key, user_id=user.id, method=method, workflow_id=key)
    session.add(refresh)
    try:
        session.flush()
    except IntegrityError:
        raise ConflictError(
            f"A refresh of {user.name} is on the way already: wait for it to end."
        ) from None
    return refresh


def find_refresh(session: Session, user: User, refresh_id: str) -> Refresh:
    """Return one of the user's refreshes.

    Raises:
        NotFoundError: There is none of this id.
    """
    # Not every string can be asked for: PostgreSQL refuses a NUL.
    refresh = session.get(Refresh, refresh_id) if is_storable(refresh_id) else None
    if refresh is None or refresh.user_id != user.id:
        raise NotFoundError(f"{user.name} has no refresh {refresh_id!r}.")
    return refresh


def without_refresh() -> ColumnElement[bool]:
    """Return the condition, for a query over users, that no refresh of theirs is on the way."""
    # The partial index over open refreshes answers it. Not by NOT EXISTS: where many refreshes
    # were opened since PostgreSQL last took statistics, it would compare all with all.
    return User.id.not_in(select(Refresh.user_id).where(Refresh.status.in_(OPEN)))


def shares_enough() -> ColumnElement[bool]:
    """Return the condition, for a query over users, that the population can learn from them."""
    return and_(population.shares(), User.text_count >= MIN_TEXTS)


def list_refreshes(session: Session, user: User) -> Sequence[Refresh]:
    """Return the user's refreshes, newest first."""
    return session.scalars(
        select(Refresh)
        .where(Refresh.user_id == user.id)
        .order_by(Refresh.created_at.desc(), Refresh.id)
    ).all()


def advance(session: Session, refresh_id: str, **values: Any) -> None:  # noqa: ANN401 - columns
    """Set columns of a refresh that is under way, such as its stage and progress."""
    session.execute(update(Refresh).where(Refresh.id == refresh_id).values(**values))


def close(session: Session, refresh_id: str, status: str, **values: Any) -> None:  # noqa: ANN401
    """End a refresh as `succeeded`, `failed` or `cancelled`, and note it in the user's counters.

    Only one that succeeded keeps a verdict: the others changed nothing, whatever the gate said.
    The verdict's reason goes with it; that of a cancelled one is by now why it was cancelled.
    """
    if status != "succeeded":
        values["verdict"] = None
    if status == "failed":
        values["reason"] = None
    advance(session, refresh_id, status=status, stage=None, finished_at=now(), **values)
    refresh = session.get(Refresh, refresh_id)
    if refresh is not None:
        counters.refresh_ended(session, refresh.user_id)


def _require_texts(session: Session, user: User) -> None:
    if not user.consent:
        raise UnprocessableError(f"{user.name} gave no consent to training: nothing was started.")
    texts = session.scalars(
        select(func.count(UserText.id)).where(UserText.user_id == user.id)
    ).one()
    if texts < MIN_TEXTS:
        raise UnprocessableError(
            f"{user.name} has {_plural(texts, 'text')}, and a refresh needs at least {MIN_TEXTS}: "
            f"import more with `attune history import {user.name} FILE`."
        )


def _require_sharing(session: Session) -> None:
    users = session.scalars(select(func.count(User.id)).where(shares_enough())).one()
    if users < MIN_SHARING:
        raise UnprocessableError(
            f"The population needs {MIN_SHARING} users who share at least {MIN_TEXTS} texts "
            f"each, and has {users or 'none'}: ask more users, and add each with "
            "`attune users share NAME`."
        )


def _plural(count: int, noun: str) -> str:
    return f"{count or 'no'} {noun}{'' if count == 1 else 's'}"
