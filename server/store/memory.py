"""What is known of a user: profile facts and the texts that the user wrote or endorsed.

Every change raises the user's `memory_version`, which makes pinned conversation contexts
and cached search indexes stale. Choosing what a prompt sees is `server.context`.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from server.errors import BadRequestError, NotFoundError
from server.store.tables import Fact, User, UserText


@dataclass(frozen=True, slots=True)
class NewText:
    """A text to be remembered. `position` orders texts; larger is newer."""

    query: str
    text: str
    position: float
    time: datetime | None = None
    source: str = "import"
    interaction_id: str | None = None

    def fingerprint(self) -> str:
        """Identify the text by what it says, so that a second import adds nothing."""
        return hashlib.sha256(f"{self.query}\0{self.text}".encode()).hexdigest()


def add_fact(session: Session, user: User, text: str) -> Fact:
    """Remember a fact about the user.

    Raises:
        BadRequestError: The fact is empty.
    """
    if not text.strip():
        raise BadRequestError("A fact cannot be empty: send {'text': '...'}.")
    fact = Fact(user_id=user.id, text=text.strip())
    session.add(fact)
    _touch(session, user)
    session.flush()
    return fact


def remove_fact(session: Session, user: User, fact_id: int) -> None:
    """Forget a fact.

    Raises:
        NotFoundError: The user has no such fact.
    """
    found = session.execute(
        delete(Fact).where(Fact.user_id == user.id, Fact.id == fact_id).returning(Fact.id)
    ).first()
    if found is None:
        raise NotFoundError(f"{user.name} has no fact {fact_id}: list them with `facts list`.")
    _touch(session, user)


def facts(session: Session, user: User) -> Sequence[Fact]:
    """Return the user's facts, oldest first."""
    return session.scalars(select(Fact).where(Fact.user_id == user.id).order_by(Fact.id)).all()


def add_texts(session: Session, user: User, new: Iterable[NewText]) -> int:
    """Remember texts, leaving out those that are known already.

    Returns:
        How many were new.
    """
    known = set(session.scalars(select(UserText.fingerprint).where(UserText.user_id == user.id)))
    added = 0
    for item in new:
        fingerprint = item.fingerprint()
        if fingerprint in known:
            continue
        known.add(fingerprint)
        added += 1
        session.add(
            UserText(
                user_id=user.id,
                query=item.query,
                text=item.text,
                position=item.position,
                time=item.time,
                source=item.source,
                interaction_id=item.interaction_id,
                fingerprint=fingerprint,
            )
        )
    if added:
        _touch(session, user)
        session.flush()
    return added


def forget_endorsement(session: Session, user: User, interaction_id: str) -> None:
    """Forget the text that came from feedback on an interaction, if there is one."""
    gone = session.execute(
        delete(UserText)
        .where(UserText.user_id == user.id, UserText.interaction_id == interaction_id)
        .returning(UserText.id)
    ).all()
    if gone:
        _touch(session, user)


def texts(session: Session, user: User) -> Sequence[UserText]:
    """Return the user's texts, oldest first."""
    return session.scalars(
        select(UserText).where(UserText.user_id == user.id).order_by(UserText.position, UserText.id)
    ).all()


def _touch(session: Session, user: User) -> None:
    session.execute(
        update(User).where(User.id == user.id).values(memory_version=User.memory_version + 1)
    )
