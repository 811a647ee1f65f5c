"""The tables of the store, as SQLAlchemy classes.

Only shapes and relations live here; what is done with them lives in the modules that
use them. Times are UTC. Deleting a user deletes all that belongs to the user.
"""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    DateTime,
    Dialect,
    ForeignKey,
    Index,
    LargeBinary,
    String,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import TypeDecorator


def now() -> datetime:
    """Return the current time, aware, in UTC."""
    return datetime.now(UTC)


class UtcDateTime(TypeDecorator[datetime]):
    """An aware datetime, kept as UTC: SQLite would otherwise forget the zone."""

    impl = DateTime
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Turn an aware time into naive UTC for storage."""
        return None if value is None else value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Give the stored UTC time its zone back."""
        return None if value is None else value.replace(tzinfo=UTC)


class Base(DeclarativeBase):
    """Base of all tables."""

    type_annotation_map = {datetime: UtcDateTime(), dict[str, Any]: JSON, list[Any]: JSON}


def _owner() -> Mapped[int]:
    return mapped_column(ForeignKey("users.id", ondelete="CASCADE"), index=True)


class User(Base):
    """One person whom the model answers in that person's own way."""

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
    consent: Mapped[bool] = mapped_column(default=True)
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
    created_at: Mapped[datetime] = mapped_column(default=now)


class ApiKey(Base):
    """A key, kept as its SHA-256 only. `user_id` is empty for service keys."""

    __tablename__ = "api_keys"

    id: Mapped[int] = mapped_column(primary_key=True)
    digest: Mapped[str] = mapped_column(String(64), unique=True)
    role: Mapped[str] = mapped_column(String(16))
    user_id: Mapped[int | None] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"))
    created_at: Mapped[datetime] = mapped_column(default=now)


class Fact(Base):
    """One profile fact about a user."""

    __tablename__ = "facts"

    id: Mapped[int] = mapped_column(primary_key=True)
    user_id: Mapped[int] = _owner()
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
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"))
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
    user_id: Mapped[int] = _owner()
    memory_version: Mapped[int]
    context: Mapped[list[Any]]
    created_at: Mapped[datetime] = mapped_column(default=now)


class Interaction(Base):
    """One chat turn: what was asked and answered, with token ids, adapter and context used."""

    __tablename__ = "interactions"

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    user_id: Mapped[int] = _owner()
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


class Adapter(Base):
    """One immutable adapter version of a user.

    States: candidate → active → retired (→ active, by rollback) → erased (its files are
    gone), or candidate → rejected.
    """

    __tablename__ = "adapters"
    __table_args__ = (
        UniqueConstraint("user_id", "version"),
        # The active pointer is this index: a user has at most one active version.
        Index(
            "ux_adapters_one_active",
            "user_id",
            unique=True,
            sqlite_where=text("state = 'active'"),
            postgresql_where=text("state = 'active'"),
        ),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    user_id: Mapped[int] = _owner()
    version: Mapped[int]
    state: Mapped[str] = mapped_column(String(16))
    folder: Mapped[str] = mapped_column(Text)
    base_model: Mapped[str] = mapped_column(Text)
    method: Mapped[str] = mapped_column(String(16))
    parent_id: Mapped[int | None] = mapped_column(ForeignKey("adapters.id", ondelete="SET NULL"))
    checksums: Mapped[dict[str, Any]]
    metrics: Mapped[dict[str, Any]]
    reason: Mapped[str] = mapped_column(Text, default="")
    # The position of the newest text that it was trained on: newer texts make a user due.
    trained_position: Mapped[float] = mapped_column(default=0.0)
    data_fingerprint: Mapped[str] = mapped_column(String(64), default="")
    settings: Mapped[dict[str, Any]] = mapped_column(default=dict)
    code_version: Mapped[str] = mapped_column(String(64), default="")
    size_bytes: Mapped[int] = mapped_column(BigInteger, default=0)
    erased_at: Mapped[datetime | None]
    created_at: Mapped[datetime] = mapped_column(default=now)

    @property
    def name(self) -> str:
        """The name under which engines serve this version; never used for another."""
        return f"u{self.user_id}@v{self.version}"

    @property
    def label(self) -> str:
        """The version as the API shows it, such as `v2`."""
        return f"v{self.version}"


class Lease(Base):
    """A running request that uses an adapter version: the version may not be unloaded."""

    __tablename__ = "leases"

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    adapter_id: Mapped[int] = mapped_column(
        ForeignKey("adapters.id", ondelete="CASCADE"), index=True
    )
    expires_at: Mapped[datetime]


class Refresh(Base):
    """One refresh of one user's adapter; `id` is also its workflow's id.

    `status` is `queued`, `running`, `succeeded`, `failed` or `cancelled`; `origin` is
    `manual`, `nightly` or `online`.
    """

    __tablename__ = "refreshes"
    __table_args__ = (
        Index("ix_refreshes_origin_created", "origin", "created_at"),
        Index("ix_refreshes_finished", "finished_at"),
        # A user has at most one refresh on the way.
        Index(
            "ux_refreshes_one_open",
            "user_id",
            unique=True,
            sqlite_where=text("status IN ('queued', 'running')"),
            postgresql_where=text("status IN ('queued', 'running')"),
        ),
    )

    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    user_id: Mapped[int] = _owner()
    method: Mapped[str] = mapped_column(String(16))
    status: Mapped[str] = mapped_column(String(16), default="queued")
    stage: Mapped[str | None] = mapped_column(String(16))
    step: Mapped[int | None]
    steps: Mapped[int | None]
    verdict: Mapped[str | None] = mapped_column(String(16))
    reason: Mapped[str | None] = mapped_column(Text)
    adapter_id: Mapped[int | None] = mapped_column(ForeignKey("adapters.id", ondelete="SET NULL"))
    report: Mapped[dict[str, Any]] = mapped_column(default=dict)
    error: Mapped[str | None] = mapped_column(Text)
    origin: Mapped[str] = mapped_column(String(16), default="manual")
    plan_id: Mapped[int | None] = mapped_column(
        ForeignKey("plans.id", ondelete="SET NULL"), index=True
    )
    cancel_requested: Mapped[bool] = mapped_column(default=False)
    tokens_per_s: Mapped[float | None]
    seconds_left: Mapped[float | None]
    # The durable workflow that runs it, alone or with its fleet, and the worker that does so now.
    workflow_id: Mapped[str] = mapped_column(String(160), default="")
    worker: Mapped[str | None] = mapped_column(String(96))
    # How often its training was begun: it is given up when that kills the worker every time.
    attempts: Mapped[int] = mapped_column(default=0)
    created_at: Mapped[datetime] = mapped_column(default=now)
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]


class Plan(Base):
    """One round's plan: which due users it refreshes, in which order, and whom it leaves out.

    `run` is the id of the workflow that made it: the same run never makes a second one.
    """

    __tablename__ = "plans"

    id: Mapped[int] = mapped_column(primary_key=True)
    run: Mapped[str] = mapped_column(String(128), unique=True)
    window_until: Mapped[datetime | None]
    summary: Mapped[dict[str, Any]] = mapped_column(default=dict)
    created_at: Mapped[datetime] = mapped_column(default=now)


class PlanEntry(Base):
    """One due user in a plan; `state` is `planned`, `queued` or `carried over`.

    `rank` counts from 1 in the order of the plan; `fleet` counts the groups of users that
    are trained together, from 1, and is empty for those carried over.
    """

    __tablename__ = "plan_entries"

    plan_id: Mapped[int] = mapped_column(
        ForeignKey("plans.id", ondelete="CASCADE"), primary_key=True
    )
    rank: Mapped[int] = mapped_column(primary_key=True)
    user_id: Mapped[int] = _owner()
    fleet: Mapped[int | None]
    expected_s: Mapped[float]
    state: Mapped[str] = mapped_column(String(16))


class WorkerBeat(Base):
    """A running worker's sign of life: `beats` rises while it is well.

    `token` is another at each start, so that a worker whose work was taken over knows.
    """

    __tablename__ = "workers"

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    token: Mapped[str] = mapped_column(String(96))
    host: Mapped[str] = mapped_column(String(255))
    pid: Mapped[int]
    beats: Mapped[int] = mapped_column(BigInteger, default=0)
    started_at: Mapped[datetime] = mapped_column(default=now)


class EngineNap(Base):
    """An engine that sleeps while a worker trains on its GPU: no request may be sent to it."""

    __tablename__ = "engine_naps"

    url: Mapped[str] = mapped_column(String(255), primary_key=True)
    worker: Mapped[str] = mapped_column(String(96))
    # When it is expected back: what a client that has to wait is told.
    until: Mapped[datetime]


class AuditEntry(Base):
    """What was done, without content: it outlives the user it speaks of."""

    __tablename__ = "audit"

    id: Mapped[int] = mapped_column(primary_key=True)
    action: Mapped[str] = mapped_column(String(32))
    subject: Mapped[str] = mapped_column(String(64))
    counts: Mapped[dict[str, Any]]
    at: Mapped[datetime] = mapped_column(default=now)
