"""The tables of running processes: workers that are alive, and engines that sleep."""

from datetime import datetime

from sqlalchemy import BigInteger, String
from sqlalchemy.orm import Mapped, mapped_column

from server.store.tables.base import Base, now


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
