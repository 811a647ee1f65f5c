"""The tables of users: their keys, what is known of them, and what they were answered."""

from datetime import datetime
from typing import Any

from sqlalchemy import ForeignKey, Index, LargeBinary, String, Text, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from server.store.tables.base import Base, now

POPULATION = "@population"
"""The name of the row that owns the shared adapter; no person can be named so."""


class User(Base):
    """One person whom the model answers in that person's own way.

    `kind` is `person`, or `erased` from the erasure of a person's content until the row goes. It
    is `population` for the one row that owns the adapter trained on the texts of all who share
    theirs: that has versions and refreshes, and nothing else.
    """

    __tablename__ = "users"
    __table_args__ = (
        # All that decides who is due, so that the question is answered from the index alone.
        Index(
            "ix_users_due",
            "consent",
            "new_texts",
            "text_count",
            "last_message_at",
            "last_refresh_at",
        ),
        # Ids are never used again, not even after an erasure: adapter names are made of them.
        {"sqlite_autoincrement": True},
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(64), unique=True)
    kind: Mapped[str] = mapped_column(String(16), default="person")
    consent: Mapped[bool] = mapped_column(default=True)
    # Whether the user's texts may go into the population's adapter; never without consent.
    shares: Mapped[bool] = mapped_column(default=False)
    # Counts changes of facts and texts: pinned contexts and indexes of older versions are stale.
    memory_version: Mapped[int] = mapped_column(default=0)
    # Kept by `server.store.counters`: texts in all, and those younger than the data of the
    # newest adapter version, a rejected one too.
    text_count: Mapped[int] = mapped_column(default=0)
    new_texts: Mapped[int] = mapped_column(default=0)
    last_text_at: Mapped[datetime | None]
    last_message_at: Mapped[datetime | None]
    last_refresh_at: Mapped[datetime | None]
    # Since when plans have left the user out for want of time; empty once planned.
    waiting_since: Mapped[datetime | None]
    # Failed refreshes in a row, and until when the next one waits because of them.
    failures: Mapped[int] = mapped_column(default=0)
    retry_at: Mapped[datetime | None]
    # When the active version was withdrawn: what older versions had learnt counts as new.
    unlearnt_at: Mapped[datetime | None]
    created_at: Mapped[datetime] = mapped_column(default=now)


def bare_rows(table: str) -> Index:
    """Return the index of a table's rows without a vector: few, and asked for at each chat."""
    bare = text("embedding IS NULL")
    return Index(f"ix_{table}_bare", "user_id", "id", sqlite_where=bare, postgresql_where=bare)


def owner() -> Mapped[int]:
    """Return a new column for the user whom a row belongs to, and with whom it goes."""
    return mapped_column(ForeignKey(User.id, ondelete="CASCADE"), index=True)


class ApiKey(Base):
    """A key, kept as its SHA-256 only. `user_id` is empty for service keys."""

    __tablename__ = "api_keys"

    id: Mapped[int] = mapped_column(primary_key=True)
    digest: Mapped[str] = mapped_column(String(64), unique=True)
    role: Mapped[str] = mapped_column(String(16))
    user_id: Mapped[int | None] = mapped_column(ForeignKey(User.id, ondelete="CASCADE"))
    created_at: Mapped[datetime] = mapped_column(default=now)


class Fact(Base):
    """One profile fact about a user."""

    __tablename__ = "facts"
    __table_args__ = (
        bare_rows("facts"),
        # A fact that is removed twice must not take another one with it.
        {"sqlite_autoincrement": True},
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    user_id: Mapped[int] = owner()
    text: Mapped[str] = mapped_column(Text)
    embedding: Mapped[bytes | None] = mapped_column(LargeBinary)
    created_at: Mapped[datetime] = mapped_column(default=now)


class UserText(Base):
    """A text that the user wrote or endorsed, with the query that it answers.

    `position` orders a user's texts, oldest first; `source` is `import`, `liked` or `edited`.
    """

    __tablename__ = "texts"
    __table_args__ = (
        UniqueConstraint("user_id", "fingerprint"),
        Index("ix_texts_user_position", "user_id", "position"),
        bare_rows("texts"),
        # What a version has learnt is told by ids, so none may be given to another text.
        {"sqlite_autoincrement": True},
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    user_id: Mapped[int] = mapped_column(ForeignKey(User.id, ondelete="CASCADE"))
    query: Mapped[str] = mapped_column(Text)
    text: Mapped[str] = mapped_column(Text)
    position: Mapped[float]
    time: Mapped[datetime | None]
    source: Mapped[str] = mapped_column(String(16))
    fingerprint: Mapped[str] = mapped_column(String(64))
    interaction_id: Mapped[str | None] = mapped_column(
        ForeignKey("interactions.id", ondelete="CASCADE")
    )
    embedding: Mapped[bytes | None] = mapped_column(LargeBinary)
    created_at: Mapped[datetime] = mapped_column(default=now)


class Conversation(Base):
    """The persona context that a conversation was started with, pinned for its later turns."""

    __tablename__ = "conversations"

    key: Mapped[str] = mapped_column(String(64), primary_key=True)
    user_id: Mapped[int] = owner()
    memory_version: Mapped[int]
    context: Mapped[list[Any]]
    created_at: Mapped[datetime] = mapped_column(default=now)


class Interaction(Base):
    """One chat turn: what was asked and answered, with token ids, adapter and context used."""

    __tablename__ = "interactions"

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    user_id: Mapped[int] = owner()
    messages: Mapped[list[Any]]
    reply: Mapped[str] = mapped_column(Text)
    prompt_token_ids: Mapped[list[Any]]
    token_ids: Mapped[list[Any]]
    logprobs: Mapped[list[Any]]
    adapter: Mapped[str | None] = mapped_column(String(64))
    context: Mapped[list[Any]]
    feedback: Mapped[str | None] = mapped_column(String(8))
    edited: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(default=now)


class AuditEntry(Base):
    """What was done, without content: it outlives the user it speaks of."""

    __tablename__ = "audit"

    id: Mapped[int] = mapped_column(primary_key=True)
    action: Mapped[str] = mapped_column(String(32))
    subject: Mapped[str] = mapped_column(String(64))
    counts: Mapped[dict[str, Any]]
    at: Mapped[datetime] = mapped_column(default=now)
