"""The tables of refreshes and of the plans that they come from."""

from datetime import datetime
from typing import Any

from sqlalchemy import ForeignKey, Index, String, Text, text
from sqlalchemy.orm import Mapped, mapped_column

from server.store.tables.adapters import Adapter
from server.store.tables.base import Base, now
from server.store.tables.people import owner


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
    user_id: Mapped[int] = owner()
    method: Mapped[str] = mapped_column(String(16))
    status: Mapped[str] = mapped_column(String(16), default="queued")
    stage: Mapped[str | None] = mapped_column(String(16))
    step: Mapped[int | None]
    steps: Mapped[int | None]
    verdict: Mapped[str | None] = mapped_column(String(16))
    reason: Mapped[str | None] = mapped_column(Text)
    adapter_id: Mapped[int | None] = mapped_column(ForeignKey(Adapter.id, ondelete="SET NULL"))
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
    user_id: Mapped[int] = owner()
    fleet: Mapped[int | None]
    expected_s: Mapped[float]
    state: Mapped[str] = mapped_column(String(16))
