"""A worker that holds rounds for real and refreshes at once: `round_worker.py HOME [DIE_AFTER]`.

It kills itself with SIGKILL in the middle of handing over its `DIE_AFTER`-th fleet. It ends
when every refresh is closed and every plan is queued.
"""

import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from dbos import DBOS
from sqlalchemy import func, select

from adapt import nightly
from server import refreshes
from server.jobs import APP, REFRESH_QUEUE, REFRESH_WORKFLOW, SCHEDULE, UPKEEP_QUEUE, Jobs
from server.refreshes import OPEN, Origin
from server.schedule import Schedule
from server.settings import Settings
from server.store.database import Database
from server.store.tables.refreshes import PlanEntry, Refresh


class MortalJobs(Jobs):
    """The job queue, as long as the process lives."""

    def __init__(self, url: str, die_after: int | None) -> None:
        super().__init__(url)
        self._left = die_after

    def refresh(
        self, refresh_ids: Sequence[str], workflow_id: str, origin: Origin = "manual"
    ) -> None:
        super().refresh(refresh_ids, workflow_id, origin)
        if self._left is not None:
            self._left -= 1
            if self._left == 0:
                os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    """Work until all is done, or until death."""
    settings = Settings(home=Path(sys.argv[1]), fleet_size=2)
    die_after = int(sys.argv[2]) if len(sys.argv) > 2 else None
    database = Database(settings.store_url())
    database.migrate(settings.home)
    jobs = MortalJobs(settings.queue_url(), die_after)
    DBOS(
        config={
            "name": APP,
            "system_database_url": settings.queue_url(),
            "application_version": "1",
            "executor_id": "round-worker",
        }
    )
    nightly.register(nightly.Rounds(settings, database, jobs))

    @DBOS.workflow(name=REFRESH_WORKFLOW)
    def refresh(refresh_ids: list[str]) -> None:
        for refresh_id in refresh_ids:
            DBOS.run_step({"name": "refresh"}, _refresh, database, refresh_id)

    DBOS.launch()
    DBOS.register_queue(REFRESH_QUEUE, worker_concurrency=4, polling_interval_sec=0.1)
    DBOS.register_queue(UPKEEP_QUEUE, worker_concurrency=4, polling_interval_sec=0.1)
    if DBOS.get_schedule(SCHEDULE) is None:
        jobs.set_schedule(Schedule(paused=True))
        jobs.run_schedule()
    while not _done(database):
        time.sleep(0.2)
    DBOS.destroy()
    jobs.close()
    database.close()


def _refresh(database: Database, refresh_id: str) -> None:
    with database.write() as session:
        refreshes.close(session, refresh_id, "succeeded")


def _done(database: Database) -> bool:
    with database.read() as session:
        planned = session.scalar(select(func.count()).where(PlanEntry.state == "planned"))
        entries = session.scalar(select(func.count(PlanEntry.rank)))
        left = session.scalar(select(func.count()).where(Refresh.status.in_(OPEN)))
    return bool(entries) and not planned and not left


if __name__ == "__main__":
    main()
