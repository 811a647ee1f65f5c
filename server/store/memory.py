"""What is known of a user: profile facts and the texts that the user wrote or endorsed.

Every change raises the user's `memory_version`, which makes cached search indexes stale, and
removes pinned conversation contexts. Choosing what a prompt sees is `server.context`.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, TypeVar

from sqlalchemy import Select, delete, insert, select, tuple_, update
from sqlalchemy.orm import QueryableAttribute, Session, load_only

from server.errors import BadRequestError, NotFoundError
from server.store import counters
from server.store.database import ROWS_AT_ONCE, Database
from server.store.tables.base import ID_BOUND
from server.store.tables.people import Conversation, Fact, Interaction, User, UserText
from server.store.text import UNSTORABLE, is_storable
from server.store.users import lock_person

# More of a user's newest replies say nothing more about how the model speaks.
_MOST_REPLIES = 10_000
_BATCH = 1000
_Row = TypeVar("_Row", Fact, UserText)


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


@dataclass(frozen=True, slots=True)
class LoggedReply:
    """What the model answered a user, and whether the user endorsed it just as it is."""

    query: str
    text: str
    endorsed: bool
    time: datetime


def add_fact(session: Session, user: User, text: str) -> Fact:
    """Remember a fact about the user.

    Raises:
        BadRequestError: The fact is empty.
        UnknownUserError, ConflictError: The user is erased; see `lock_person`.
    """
    if not text.strip():
        raise BadRequestError("A fact cannot be empty: send {'text': '...'}.")
    lock_person(session, user)
    fact = Fact(user_id=user.id, text=text.strip())
    session.add(fact)
    _touch(session, user)
    session.flush()
    return fact


def remove_fact(session: Session, user: User, fact_id: int) -> None:
    """Forget a fact.

    Raises:
        NotFoundError: The user has no such fact.
        UnknownUserError, ConflictError: The user is erased; see `lock_person`.
    """
    lock_person(session, user)
    removal = delete(Fact).where(Fact.user_id == user.id, Fact.id == fact_id).returning(Fact.id)
    if fact_id not in range(ID_BOUND) or session.execute(removal).first() is None:
        raise NotFoundError(f"{user.name} has no fact {fact_id}: list them with `facts list`.")
    _touch(session, user)


def facts(session: Session, user: User, *columns: QueryableAttribute[Any]) -> Sequence[Fact]:
    """Return the user's facts, oldest first; where columns are named, with those alone."""
    query = select(Fact).where(Fact.user_id == user.id).order_by(Fact.id)
    return session.scalars(_with(query, columns)).all()


def add_texts(session: Session, user: User, new: Iterable[NewText]) -> int:
    """Remember texts, leaving out those that are known already.

    Returns:
        How many were new.

    Raises:
        BadRequestError: A text cannot be stored: it holds a NUL, or half a character.
        UnknownUserError, ConflictError: The user is erased; see `lock_person`.
    """
    lock_person(session, user)
    at = counters.turn(session, user.id)
    added = 0
    given = list(new)
    for start in range(0, len(given), _BATCH):
        some = given[start : start + _BATCH]
        rows = [
            {
                "user_id": user.id,
                "fingerprint": fingerprint,
                "created_at": at,
                **asdict(item),
            }
            for fingerprint, item in _unknown(session, user, some).items()
        ]
        if rows:
            session.execute(insert(UserText), rows)
        added += len(rows)
    if added:
        _touch(session, user)
        session.flush()
        counters.texts_added(session, user.id, added)
    return added


def import_texts(database: Database, user: User, new: Sequence[NewText]) -> int:
    """Remember many texts, in transactions that let others have their turn.

    One that fails midway keeps what came before; to import the same again adds the rest.

    Returns, Raises:
        See `add_texts`.
    """
    added = 0
    for start in range(0, len(new), ROWS_AT_ONCE):
        some = new[start : start + ROWS_AT_ONCE]
        with database.write() as session:
            added += add_texts(session, user, some)
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
        counters.recount(session, user.id)


def texts(session: Session, user: User, *columns: QueryableAttribute[Any]) -> Sequence[UserText]:
    """Return the user's texts, oldest first; where columns are named, with those alone."""
    mine = select(UserText).where(UserText.user_id == user.id)
    query = mine.order_by(UserText.position, UserText.id)
    return session.scalars(_with(query, columns)).all()


def texts_behind(
    session: Session, user: User, text_id: int, most: int, *columns: QueryableAttribute[Any]
) -> Sequence[UserText]:
    """Return the user's next texts behind one of them, oldest first.

    Args:
        session: A transaction.
        user: Whose texts.
        text_id: The one that they follow; 0 for the first texts of all.
        most: How many are returned at most.
        columns: Where some are named, the texts come with those alone.

    Raises:
        NotFoundError: The user does not have the text that they are to follow.
    """
    query = select(UserText).where(UserText.user_id == user.id)
    place = tuple_(UserText.position, UserText.id)
    if text_id:
        at = session.execute(
            select(UserText.position, UserText.id).where(
                UserText.user_id == user.id, UserText.id == text_id
            )
        ).one_or_none()
        if at is None:
            raise NotFoundError(
                f"{user.name} has no text {text_id}: list the history from its beginning."
            )
        query = query.where(place > tuple(at))
    query = query.order_by(UserText.position, UserText.id).limit(most)
    return session.scalars(_with(query, columns)).all()


def logged_replies(session: Session, user: User) -> list[LoggedReply]:
    """Return what the model last answered the user, newest first, 10,000 replies at most.

    An edited reply is not endorsed as it is: the edit is what the user wants.
    """
    rows = session.execute(
        select(
            Interaction.messages,
            Interaction.reply,
            Interaction.feedback,
            Interaction.edited,
            Interaction.created_at,
        )
        .where(Interaction.user_id == user.id)
        .order_by(Interaction.created_at.desc())
        .limit(_MOST_REPLIES)
    )
    return [
        LoggedReply(last_query(messages), reply, feedback == "up" and edited is None, at)
        for messages, reply, feedback, edited, at in rows
    ]


def last_query(messages: Sequence[Mapping[str, Any]]) -> str:
    """Return what the user asked last in a logged conversation, empty if it was not text."""
    queries = [m.get("content") for m in messages if m["role"] == "user"]
    return queries[-1] if queries and isinstance(queries[-1], str) else ""


def _with(query: Select[_Row], columns: Sequence[QueryableAttribute[Any]]) -> Select[_Row]:
    return query.options(load_only(*columns, raiseload=True)) if columns else query


def _checked(new: NewText) -> NewText:
    if is_storable(new.query) and is_storable(new.text):
        return new
    raise BadRequestError(f"A text has {UNSTORABLE}.")


def _unknown(session: Session, user: User, new: Iterable[NewText]) -> dict[str, NewText]:
    """Return, by fingerprint, the texts that the user does not have; the first of equal ones."""
    found: dict[str, NewText] = {}
    for item in new:
        found.setdefault(_checked(item).fingerprint(), item)
    known = session.scalars(
        select(UserText.fingerprint).where(
            UserText.user_id == user.id, UserText.fingerprint.in_(found)
        )
    )
    for fingerprint in known:
        del found[fingerprint]
    return found


def _touch(session: Session, user: User) -> None:
    """Raise the version, and forget the contexts that it makes stale: they hold what was said."""
    session.execute(
        update(User).where(User.id == user.id).values(memory_version=User.memory_version + 1)
    )
    session.execute(delete(Conversation).where(Conversation.user_id == user.id))
