"""Engines that sleep while a worker trains on their GPU, as whoever calls them has to know them.

The worker notes a nap before the engine sleeps and takes the note away once it is awake.
Gateways look at most once in `LOOK_EVERY_S`, so a worker waits twice as long between the note
and the sleep; requests that are under way then are finished by the engine. How an engine is
put to sleep is `adapt.window`.
"""

import asyncio
import math
import time
from collections.abc import Sequence
from datetime import datetime
from threading import Lock

from sqlalchemy import select
from sqlalchemy.orm import Session

from server.engine import Engine
from server.errors import EngineAsleepError
from server.store.database import Database
from server.store.tables.base import now
from server.store.tables.workers import EngineNap

LOOK_EVERY_S = 1.0


class Naps:
    """What one gateway, or one worker, knows of sleeping engines."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._until: dict[str, datetime] = {}
        self._looked = -math.inf
        self._lock = Lock()

    def awake(self, engines: Sequence[Engine], preferred: int) -> Engine:
        """Return an engine that is awake: the preferred one, or the next that is.

        Args:
            engines: All engines.
            preferred: Counts engines round and round, so that a user stays on one.

        Raises:
            EngineAsleepError: All of them sleep.
        """
        until = self._look()
        order = [engines[(preferred + step) % len(engines)] for step in range(len(engines))]
        for engine in order:
            if engine.url not in until:
                return engine
        raise _asleep(min(until[engine.url] for engine in order))

    def check(self, engines: Sequence[Engine]) -> None:
        """Refuse what needs all of some engines while one of them sleeps.

        A request waits until the engine wakes; an adapter that is loaded meanwhile may kill it.

        Raises:
            EngineAsleepError: One of them sleeps.
        """
        until = self._all_awake(engines)
        if until is not None:
            raise _asleep(until)

    async def wait(self, engines: Sequence[Engine]) -> None:
        """Wait until all of some engines are awake, or one is not back when it was expected."""
        while (until := await asyncio.to_thread(self._all_awake, engines)) and until > now():
            await asyncio.sleep(LOOK_EVERY_S)

    def _all_awake(self, engines: Sequence[Engine]) -> datetime | None:
        """When all of some engines are expected back; None if none of them sleeps."""
        until = self._look()
        return max((until[one.url] for one in engines if one.url in until), default=None)

    def _look(self) -> dict[str, datetime]:
        with self._lock:
            if time.monotonic() - self._looked >= LOOK_EVERY_S:
                with self._database.read() as session:
                    rows = session.execute(select(EngineNap.url, EngineNap.until)).all()
                self._until = {url: until for url, until in rows}
                self._looked = time.monotonic()
            return self._until


def _asleep(until: datetime) -> EngineAsleepError:
    return EngineAsleepError(max(1, math.ceil((until - now()).total_seconds())))


def note_nap(session: Session, urls: Sequence[str], worker: str, until: datetime) -> None:
    """Note that engines are about to sleep, or until when they will now."""
    for url in urls:
        session.merge(EngineNap(url=url, worker=worker, until=until))


def end_nap(session: Session, url: str) -> None:
    """Note that an engine is awake again."""
    nap = session.get(EngineNap, url)
    if nap is not None:
        session.delete(nap)
