"""Users and their keys: adding, finding, summing up, erasing.

Keys are shown once and kept as SHA-256 digests: they are random 160-bit strings, so a
slow password hash would only slow down every request.
"""

import hashlib
import re
import secrets
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from sqlalchemy import delete, func, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from server.errors import (
    BadRequestError,
    ConflictError,
    ReservedUserError,
    UnknownUserError,
    UnprocessableError,
)
from server.store.tables.adapters import Adapter
from server.store.tables.people import (
    POPULATION,
    ApiKey,
    AuditEntry,
    Conversation,
    Fact,
    Interaction,
    User,
    UserText,
)
from server.store.tables.refreshes import Refresh

Role = Literal["user", "service", "admin"]
CONTENT_ERASED = "erase content"
"""The audit's word for a user's texts having been erased; the subject is `audit_subject`."""
ERASED = "erased"
"""The kind of a person whose content was erased: the row waits for files that are in use."""
_Owned = Fact | UserText | Interaction | Adapter
NAME_PATTERN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")


@dataclass(frozen=True, slots=True)
class UserSummary:
    """A user with the number of facts and texts, and the active adapter version if any."""

    name: str
    created_at: datetime
    consent: bool
    shares: bool
    facts: int
    texts: int
    adapter: str | None


def digest(key: str) -> str:
    """Return the form in which a key is kept."""
    return hashlib.sha256(key.encode()).hexdigest()


def add_user(
    session: Session, name: str, consent: bool = True, shares: bool = False
) -> tuple[User, str]:
    """Add a user and return it with its key.

    Raises:
        BadRequestError: The name has other characters than letters, digits, `_`, `.`, `-`.
        ReservedUserError: It is the population's.
        UnprocessableError: The user is to share texts without consent to training.
        ConflictError: The name is taken.
    """
    if name == POPULATION:
        raise ReservedUserError(name)
    if not NAME_PATTERN.fullmatch(name):
        raise BadRequestError(
            f"{name!r} cannot be a user name: use 1 to 64 letters, digits, '_', '.' or '-', "
            "not starting with '.' or '-'."
        )
    require_consent(name, consent, shares)
    user = User(name=name, consent=consent, shares=shares)
    session.add(user)
    try:
        session.flush()
    except IntegrityError:
        raise ConflictError(f"There is a user {name!r} already: choose another name.") from None
    return user, add_key(session, "user", user)


def require_consent(name: str, consent: bool, shares: bool) -> None:
    """Refuse to share the texts of who gave no consent to training.

    Raises:
        UnprocessableError: That is what was asked for.
    """
    if shares and not consent:
        raise UnprocessableError(
            f"{name} gives no consent to training, so the texts cannot be shared either: "
            "consent first."
        )


def add_key(session: Session, role: Role, user: User | None = None) -> str:
    """Make a key for a role, and return it: it cannot be read back later.

    Raises:
        UnknownUserError, ConflictError: The user is erased; see `lock_person`.
    """
    if user is not None:
        lock_person(session, user)
    key = f"attune-{secrets.token_hex(20)}"
    session.add(ApiKey(digest=digest(key), role=role, user_id=user.id if user else None))
    session.flush()
    return key


def find_user(session: Session, name: str) -> User:
    """Return the person of this name.

    Raises:
        ReservedUserError: It is the population's name (see `server.population`).
        UnknownUserError: There is none.
    """
    if name == POPULATION:
        raise ReservedUserError(name)
    # Not every string can be asked for: PostgreSQL refuses a NUL.
    could_be = NAME_PATTERN.fullmatch(name)
    user = session.scalar(select(User).where(User.name == name)) if could_be else None
    if user is None:
        raise UnknownUserError(name)
    return user


def lock_user(session: Session, user_id: int) -> str | None:
    """Let one writing transaction at a time go on for a user; SQLite has one writer anyway.

    Returns:
        The user's kind, or None if the user is gone.
    """
    query = select(User.kind).where(User.id == user_id)
    return session.scalar(query.with_for_update(key_share=True))


def lock_person(session: Session, user: User) -> None:
    """Lock a person of whom something is to be kept, before anything else of theirs is locked.

    Raises:
        UnknownUserError: The person is gone.
        ConflictError: Their erasure has begun: nothing more is kept.
    """
    kind = lock_user(session, user.id)
    if kind is None:
        raise UnknownUserError(user.name)
    if kind == ERASED:
        raise ConflictError(
            f"{user.name} is being erased, so nothing more is kept of them: to finish it, send "
            f"`attune users erase {user.name}` again."
        )


def summarize(session: Session, name: str | None = None) -> list[UserSummary]:
    """Sum up all persons, or the one of this name, in one query, ordered by name."""
    facts = select(func.count(Fact.id)).where(Fact.user_id == User.id).scalar_subquery()
    texts = select(func.count(UserText.id)).where(UserText.user_id == User.id).scalar_subquery()
    active = (
        select(Adapter.version)
        .where(Adapter.user_id == User.id, Adapter.state == "active")
        .scalar_subquery()
    )
    query = select(User, facts, texts, active).where(User.name != POPULATION).order_by(User.name)
    if name is not None:
        query = query.where(User.name == name)
    return [
        UserSummary(
            name=user.name,
            created_at=user.created_at,
            consent=user.consent,
            shares=user.shares,
            facts=n_facts,
            texts=n_texts,
            adapter=None if version is None else f"v{version}",
        )
        for user, n_facts, n_texts, version in session.execute(query)
    ]


def revoke_keys(session: Session, user: User) -> None:
    """Make all keys of a user worthless."""
    lock_user(session, user.id)
    session.execute(delete(ApiKey).where(ApiKey.user_id == user.id))


def audit_subject(user_id: int) -> str:
    """Return the name of a user in the audit: that of the user's adapter folder."""
    return f"u{user_id}"


def erase_content(session: Session, user: User) -> dict[str, int]:
    """Delete what a user wrote and was answered, and the keys; nothing more may be learnt.

    The user's row stays, for the versions whose files have to go first: see `erase_user`.

    Returns:
        How many facts, texts and interactions were deleted.
    """
    owned: dict[str, type[_Owned]] = {
        "facts": Fact,
        "texts": UserText,
        "interactions": Interaction,
    }
    counts = {name: _count(session, table, user) for name, table in owned.items()}
    for table in (UserText, Fact, Conversation, Interaction):
        session.execute(delete(table).where(table.user_id == user.id))
    revoke_keys(session, user)
    session.execute(
        update(User)
        .where(User.id == user.id)
        .values(
            kind=ERASED,
            consent=False,
            shares=False,
            text_count=0,
            new_texts=0,
            memory_version=User.memory_version + 1,
        )
        .execution_options(synchronize_session=False)
    )
    subject = audit_subject(user.id)
    session.add(AuditEntry(action=CONTENT_ERASED, subject=subject, counts=counts))
    return counts


def erase_user(session: Session, user: User) -> dict[str, int]:
    """Delete all rows of a user and leave an audit entry without content.

    The adapter files and what the engines hold are the caller's to remove.

    Returns:
        How many facts, texts, interactions and adapters were deleted.
    """
    owned: dict[str, type[_Owned]] = {
        "facts": Fact,
        "texts": UserText,
        "interactions": Interaction,
        "adapters": Adapter,
    }
    counts = {name: _count(session, table, user) for name, table in owned.items()}
    for table in (UserText, Fact, Conversation, Interaction, Refresh, Adapter):
        session.execute(delete(table).where(table.user_id == user.id))
    revoke_keys(session, user)
    session.execute(delete(User).where(User.id == user.id))
    subject = hashlib.sha256(f"{user.id}:{user.name}".encode()).hexdigest()
    session.add(AuditEntry(action="erase", subject=subject, counts=counts))
    return counts


def _count(session: Session, table: type[_Owned], user: User) -> int:
    return session.scalars(
        select(func.count()).select_from(table).where(table.user_id == user.id)
    ).one()
