"""The tables of adapter versions, of who is in them, and of the requests that use them now."""

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, ForeignKey, Index, String, Text, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from server.store.tables.base import Base, now
from server.store.tables.people import owner


class Adapter(Base):
    """One immutable adapter version of a user.

    States: candidate → active → retired (→ active, by rollback) → erased (its files are
    gone), or candidate → rejected. From candidate, active and retired → withdrawn: it learnt,
    itself or through its parents, from somebody who left the population, or its owner is
    being erased; its files go as soon as no request uses it, and `erased_at` says when.
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
    user_id: Mapped[int] = owner()
    version: Mapped[int]
    state: Mapped[str] = mapped_column(String(16))
    folder: Mapped[str] = mapped_column(Text)
    base_model: Mapped[str] = mapped_column(Text)
    method: Mapped[str] = mapped_column(String(16))
    parent_id: Mapped[int | None] = mapped_column(
        ForeignKey("adapters.id", ondelete="SET NULL"), index=True
    )
    checksums: Mapped[dict[str, Any]]
    metrics: Mapped[dict[str, Any]]
    reason: Mapped[str] = mapped_column(Text, default="")
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


class AdapterMember(Base):
    """A person whose texts a version of the population was trained on.

    No foreign key to the person: whoever is gone must still be known to have been in it.
    """

    __tablename__ = "adapter_members"

    adapter_id: Mapped[int] = mapped_column(
        ForeignKey("adapters.id", ondelete="CASCADE"), primary_key=True
    )
    user_id: Mapped[int] = mapped_column(primary_key=True, index=True)


class Lease(Base):
    """A running request that uses an adapter version: the version may not be unloaded."""

    __tablename__ = "leases"

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    adapter_id: Mapped[int] = mapped_column(
        ForeignKey("adapters.id", ondelete="CASCADE"), index=True
    )
    expires_at: Mapped[datetime]
