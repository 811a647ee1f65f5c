"""What keeps refreshes going when a process dies: takeover, lost work, left-over files.

DBOS recovers the workflows of a worker that starts again under its old name. Those of one
that does not are taken over here. Everything may be done twice and by several workers at
once. How a worker is known to be gone is `adapt.heartbeat`.
"""

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import cast

import structlog
from dbos import DBOS
from sqlalchemy import select

from adapt.heartbeat import Sign, Watch, sign_of
from perce.errors import AttuneError
from server import strays
from server.refreshes import OPEN, Origin
from server.store.database import Database
from server.store.tables.base import now
from server.store.tables.refreshes import Refresh
from server.store.tables.workers import WorkerBeat

log = structlog.get_logger()
LOST_AFTER = timedelta(seconds=60)
"""Age at which an open refresh must have a workflow: its gateway had time to enqueue it."""
_ENDED = {"SUCCESS", "ERROR", "CANCELLED", "MAX_RECOVERY_ATTEMPTS_EXCEEDED"}
_AT_ONCE = 500


class Recovery:
    """Watches over other workers and over work that nobody does, from a thread of its own.

    Args:
        watch: Who has fallen silent.
        database: The store.
        work: The folder of unfinished refreshes' files.
        enqueue: Enqueues a workflow for refreshes, given their ids, its own, and their origin.
        fail: Closes a refresh with a message.
        chores: What else is to be looked after now and then.
        every_s: Seconds between looks at the other workers.
    """

    def __init__(
        self,
        watch: Watch,
        database: Database,
        work: Path,
        enqueue: Callable[[Sequence[str], str, Origin], None],
        fail: Callable[[str, str], None],
        chores: Sequence[Callable[[], None]] = (),
        every_s: float = 10.0,
    ) -> None:
        self._watch = watch
        self._database = database
        self._work = work
        self._enqueue = enqueue
        self._fail = fail
        self._chores = (self.resume_lost, self.sweep, *chores)
        self._every_s = every_s
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="recovery", daemon=True)

    def start(self) -> None:
        """Begin to watch; DBOS must have been launched."""
        self._thread.start()

    def stop(self) -> None:
        """Stop watching."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()

    def resume_lost(self) -> None:
        """Give every open refresh a workflow that works on it.

        A gateway or a planner that died between recording a refresh and enqueuing it leaves one
        that nobody works on; a workflow that ended without closing it, one that never ends.
        """
        open_refreshes = self._open()
        statuses = _statuses([workflow_id for workflow_id, _ in open_refreshes])
        for (workflow_id, origin), refresh_ids in open_refreshes.items():
            status = statuses.get(workflow_id)
            if status is None:
                log.info("refresh had no workflow", workflow=workflow_id, refreshes=refresh_ids)
                self._enqueue(refresh_ids, workflow_id, origin)
            elif status in _ENDED:
                for refresh_id in refresh_ids:
                    self._fail(refresh_id, f"Its workflow ended as {status}: refresh again.")

    def sweep(self) -> None:
        """Delete the files of refreshes that are over, such as a dead worker left behind."""
        strays.sweep_work(self._database, self._work)

    def _run(self) -> None:
        chores_at = 0.0
        while not self._stopping.wait(self._every_s):
            self._patiently(self._take_over_all)
            if time.monotonic() >= chores_at:
                chores_at = time.monotonic() + LOST_AFTER.total_seconds()
                for chore in self._chores:
                    self._patiently(chore)

    def _take_over_all(self) -> None:
        for sign in self._watch.silent():
            taken = take_over(self._database, sign)
            if taken is not None:
                log.warning("took over a lost worker's work", worker=sign.worker_id, taken=taken)

    def _patiently(self, chore: Callable[[], None]) -> None:
        """Do a chore; one that fails is tried again at the next look."""
        try:
            chore()
        except Exception as error:
            if not isinstance(error, AttuneError):
                log.exception("recovery failed", chore=chore.__name__)
            else:
                log.warning("recovery failed", chore=chore.__name__, reason=str(error))

    def _open(self) -> dict[tuple[str, Origin], list[str]]:
        """Open refreshes that are old enough to have a workflow, by its id and their origin."""
        with self._database.read() as session:
            rows = session.execute(
                select(Refresh.workflow_id, Refresh.origin, Refresh.id)
                .where(Refresh.status.in_(OPEN), Refresh.created_at < now() - LOST_AFTER)
                .order_by(Refresh.created_at, Refresh.id)
            ).all()
        grouped = defaultdict[tuple[str, Origin], list[str]](list)
        for workflow_id, origin, refresh_id in rows:
            grouped[workflow_id or refresh_id, cast(Origin, origin)].append(refresh_id)
        return grouped


def take_over(database: Database, lost: Sign) -> int | None:
    """Put a lost worker's unfinished workflows back into their queues.

    The lock on the worker's row makes takers, and that worker's own new start, take turns.

    Returns:
        How many were put back; None where the worker was alive after all, or was taken over.
    """
    with database.write() as session:
        row = session.get(WorkerBeat, lost.worker_id, with_for_update=True)
        if row is None or sign_of(row) != lost:
            return None
        pending = DBOS.list_workflows(
            status="PENDING", executor_id=lost.worker_id, load_input=False, load_output=False
        )
        for workflow in pending:
            DBOS.resume_workflow(workflow.workflow_id, queue_name=workflow.queue_name)
        # A worker that is not dead but slow ends itself when it finds its row gone.
        session.delete(row)
    return len(pending)


def _statuses(workflow_ids: Sequence[str]) -> dict[str, str]:
    """How the workflows of these ids stand; ids that no workflow has are missing."""
    found = dict[str, str]()
    for start in range(0, len(workflow_ids), _AT_ONCE):
        for workflow in DBOS.list_workflows(
            workflow_ids=list(workflow_ids[start : start + _AT_ONCE]),
            load_input=False,
            load_output=False,
        ):
            found[workflow.workflow_id] = workflow.status
    return found
