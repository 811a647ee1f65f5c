"""Signs of life between workers: each proves that it runs, and sees which others do not.

A worker raises a counter in the store every few seconds. Whoever sees no rise for a whole
lease, by its own clock, may take the silent one's work over (`adapt.recovery`); the clocks of
two machines need not agree. A worker that was taken over, or could not reach the store for a
lease, ends at once: what it would do next is somebody else's by then.
"""

import os
import secrets
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import psutil
import structlog
from sqlalchemy import select, update
from sqlalchemy.exc import SQLAlchemyError

from adapt.errors import WorkerNameTakenError
from server.store.database import Database
from server.store.tables.workers import WorkerBeat

log = structlog.get_logger()
STOPPED = -1
"""`beats` of a worker that stopped in order: its work is free at once."""
BEATS_PER_LEASE = 6


@dataclass(frozen=True, slots=True)
class Sign:
    """A worker's last sign of life."""

    worker_id: str
    token: str
    beats: int


class Heartbeat:
    """One worker's own signs of life.

    Args:
        database: The store that all workers share.
        worker_id: The worker's name, which no other running one may have.
        lease_s: Seconds without a beat after which others take the work over.
        lost: Called from the beating thread once the work is somebody else's. It has to end
            the process: nothing less stops a training that is under way.
    """

    def __init__(
        self, database: Database, worker_id: str, lease_s: float, lost: Callable[[str], None]
    ) -> None:
        self.worker_id = worker_id
        self.token = f"{worker_id}.{secrets.token_hex(4)}"
        self.lease_s = lease_s
        self._database = database
        self._lost = lost
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def start(self) -> None:
        """Take the name, from an earlier worker of it that is gone, and begin to beat.

        Raises:
            WorkerNameTakenError: A running worker has that name.
        """
        self._take_name()
        self._thread.start()

    def stop(self) -> None:
        """Stop beating, and leave the unfinished work to whoever comes first."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()
        self._beat(STOPPED)

    def _run(self) -> None:
        last = time.monotonic()
        while not self._stopping.wait(self.lease_s / BEATS_PER_LEASE):
            try:
                if not self._beat(WorkerBeat.beats + 1):
                    self._lost("another worker took over the work of this one, which was silent")
                    return
                last = time.monotonic()
            except SQLAlchemyError as error:
                log.warning("no sign of life", worker=self.worker_id, error=str(error))
                if time.monotonic() - last > self.lease_s:
                    self._lost("the store could not be reached, so others take over by now")
                    return

    def _beat(self, beats: object) -> bool:
        """Set the counter; tell whether the name is still this worker's."""
        mine = (WorkerBeat.id == self.worker_id, WorkerBeat.token == self.token)
        with self._database.write() as session:
            row = session.execute(
                update(WorkerBeat).where(*mine).values(beats=beats).returning(WorkerBeat.id)
            )
            return row.first() is not None

    def _take_name(self) -> None:
        """Wait until an earlier worker of this name is surely gone, then be it."""
        seen = self._take_name_from(None)
        deadline = time.monotonic() + self.lease_s
        while seen is not None:
            if self._stopping.wait(self.lease_s / BEATS_PER_LEASE):
                return
            silent = seen if time.monotonic() > deadline else None
            now = self._take_name_from(silent)
            if now is not None and now != seen:
                raise WorkerNameTakenError(
                    f"A worker named {self.worker_id!r} is running elsewhere: give this one "
                    "another name with ATTUNE_WORKER_ID."
                )
            seen = now

    def _take_name_from(self, silent: Sign | None) -> Sign | None:
        """Take the name if it is free or its holder is gone; else return the holder's sign."""
        with self._database.write() as session:
            row = session.get(WorkerBeat, self.worker_id, with_for_update=True)
            if row is None:
                row = WorkerBeat(id=self.worker_id)
                session.add(row)
            elif not (_gone(row) or sign_of(row) == silent):
                return sign_of(row)
            row.token, row.beats = self.token, 0
            row.host, row.pid = socket.gethostname(), os.getpid()
        return None


class Watch:
    """What one worker has seen of the others: how long each has been silent."""

    def __init__(self, database: Database, heartbeat: Heartbeat) -> None:
        self._database = database
        self._own = heartbeat.worker_id
        self._lease_s = heartbeat.lease_s
        self._seen: dict[Sign, float] = {}

    def silent(self) -> list[Sign]:
        """Return the other workers that stopped, or have been silent for a lease and more."""
        with self._database.read() as session:
            rows = session.scalars(select(WorkerBeat).where(WorkerBeat.id != self._own)).all()
        now = time.monotonic()
        self._seen = {sign: self._seen.get(sign, now) for sign in map(sign_of, rows)}
        # Half a lease more: by then a worker that cannot reach the store has ended itself.
        return [
            sign
            for sign, since in self._seen.items()
            if sign.beats == STOPPED or now - since > 1.5 * self._lease_s
        ]


def sign_of(row: WorkerBeat) -> Sign:
    """Return the sign of life that a row holds."""
    return Sign(row.id, row.token, row.beats)


def _gone(row: WorkerBeat) -> bool:
    """Tell whether a worker is known to have ended: it said so, or its process is no more.

    The own process id is that of an earlier life of this container.
    """
    if row.beats == STOPPED:
        return True
    here = row.host == socket.gethostname()
    return here and (row.pid == os.getpid() or not psutil.pid_exists(row.pid))
