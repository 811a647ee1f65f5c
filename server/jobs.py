"""The job queue as the gateway sees it: enqueue refreshes and drains, set the schedule.

The worker's workflows are named here and implemented in `adapt`; the gateway never
imports them. The queue's database is made by the worker at its first start.
"""

import uuid
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from math import ceil
from threading import Lock
from typing import Any, TypeVar

from dbos import DBOSClient, EnqueueOptions
from dbos import error as dbos_error
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from server.errors import JobsUnavailableError
from server.refreshes import Origin
from server.schedule import Schedule

APP = "attune"
REFRESH_QUEUE = "refresh"
# Its own queue: unloading must not wait behind training.
UPKEEP_QUEUE = "upkeep"
REFRESH_WORKFLOW = "attune_refresh"
DRAIN_WORKFLOW = "attune_drain"
NIGHTLY_WORKFLOW = "attune_nightly"
WINDOW_WORKFLOW = "attune_window"
ONLINE_WORKFLOW = "attune_online"
SCHEDULE = "nightly"
# The queue takes the lowest first: who asked for a refresh does not wait for the night's.
PRIORITIES: dict[Origin, int] = {"manual": 1, "online": 2, "nightly": 3}
# Online rounds are held at whole minutes, so that many arrivals share one.
_ONLINE_EVERY_S = 60

T = TypeVar("T")


class Jobs:
    """A client of the job queue, connected at first use."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._client: DBOSClient | None = None
        self._lock = Lock()

    def close(self) -> None:
        """Give the connections back."""
        if self._client is not None:
            self._client.destroy()

    def refresh(
        self, refresh_ids: Sequence[str], workflow_id: str, origin: Origin = "manual"
    ) -> None:
        """Enqueue the refreshes of a fleet, or of one user; a second call adds nothing.

        Args:
            refresh_ids: The refreshes' ids, in their order.
            workflow_id: That of their rows; for a single refresh its own id.
            origin: Decides who waits for whom.

        Raises:
            JobsUnavailableError: The queue cannot be reached.
        """
        self._enqueue(
            REFRESH_QUEUE,
            REFRESH_WORKFLOW,
            workflow_id,
            list(refresh_ids),
            priority=PRIORITIES[origin],
        )

    def drain(self, user_id: int, workflow_id: str | None = None, alone: bool = False) -> None:
        """Enqueue the unloading of a user's retired versions.

        Args:
            user_id: Whose.
            workflow_id: Makes a second call with the same one add nothing.
            alone: Add nothing either while one of the user that was enqueued so waits or runs.

        Raises:
            JobsUnavailableError: The queue cannot be reached.
        """
        self._enqueue(
            UPKEEP_QUEUE,
            DRAIN_WORKFLOW,
            workflow_id or str(uuid.uuid4()),
            user_id,
            one_of=f"drain-{user_id}" if alone else None,
        )

    def schedule(self) -> Schedule:
        """Return the schedule.

        Raises:
            JobsUnavailableError: The queue cannot be reached, or the worker never ran.
        """
        row = self._call(lambda client: client.get_schedule(SCHEDULE))
        if row is None:
            raise JobsUnavailableError()
        return Schedule.from_json(
            {
                **(row["context"] or {}),
                "cron": row["schedule"],
                "timezone": row["cron_timezone"] or "UTC",
                "paused": row["status"] != "ACTIVE",
            }
        )

    def set_schedule(self, schedule: Schedule) -> None:
        """Replace the schedule.

        Raises:
            JobsUnavailableError: The queue cannot be reached.
        """

        def apply(client: DBOSClient) -> None:
            client.apply_schedules(
                [
                    {
                        "schedule_name": SCHEDULE,
                        "workflow_name": NIGHTLY_WORKFLOW,
                        "schedule": schedule.cron,
                        "cron_timezone": schedule.timezone,
                        "context": schedule.context(),
                    }
                ]
            )
            if schedule.paused:
                client.pause_schedule(SCHEDULE)
            else:
                client.resume_schedule(SCHEDULE)

        self._call(apply)

    def run_schedule(self) -> str:
        """Start the schedule's round now, paused or not; return the id of its workflow.

        Raises:
            JobsUnavailableError: The queue cannot be reached, or the worker never ran.
        """
        return self._call(lambda client: client.trigger_schedule(SCHEDULE)).workflow_id

    def close_window(self, plan_id: int, run: str, at: datetime) -> None:
        """Let the plan's refreshes that have not begun by then be carried over.

        Raises:
            JobsUnavailableError: The queue cannot be reached.
        """
        self._enqueue(UPKEEP_QUEUE, WINDOW_WORKFLOW, f"{run}-window", plan_id, at=at)

    def hold_online_round(self, at: datetime) -> None:
        """Let those who are due be refreshed soon after a moment: at the next whole minute.

        Whoever asks for the same minute asks for the same round.

        Raises:
            JobsUnavailableError: The queue cannot be reached.
        """
        minute = ceil(at.timestamp() / _ONLINE_EVERY_S) * _ONLINE_EVERY_S
        held = datetime.fromtimestamp(minute, UTC)
        self._enqueue(UPKEEP_QUEUE, ONLINE_WORKFLOW, f"online-{held:%Y-%m-%dT%H:%M}", at=held)

    def withdraw(self, workflow_ids: Sequence[str]) -> None:
        """Take workflows out of their queues; one that is over stays as it is.

        Raises:
            JobsUnavailableError: The queue cannot be reached.
        """
        self._call(lambda client: client.cancel_workflows(list(workflow_ids)))

    def _enqueue(
        self,
        queue: str,
        workflow: str,
        workflow_id: str,
        *args: Any,  # noqa: ANN401 - the workflow's own
        at: datetime | None = None,
        priority: int = 1,
        one_of: str | None = None,
    ) -> None:
        options: EnqueueOptions = {
            "workflow_name": workflow,
            "queue_name": queue,
            "workflow_id": workflow_id,
            "priority": priority,
        }
        if at is not None:
            options["delay_seconds"] = max((at - datetime.now(UTC)).total_seconds(), 0.0)
        if one_of is not None:
            options["deduplication_id"] = one_of
            options["duplication_policy"] = "return-existing"
        self._call(lambda client: client.enqueue(options, *args))

    def _call(self, action: Callable[[DBOSClient], T]) -> T:
        try:
            with self._lock:
                if self._client is None:
                    self._client = DBOSClient(
                        system_database_url=self._url,
                        application_name=APP,
                        retry_connection_errors=False,
                    )
            return action(self._client)
        except (dbos_error.DBOSException, SQLAlchemyError) as error:
            raise JobsUnavailableError(
                f"The job queue cannot be reached ({_cause(error)}): start the worker."
            ) from error


def _cause(error: Exception) -> str:
    """What went wrong, without the statement and its parameters, which may hold users' data."""
    return str(error.orig) if isinstance(error, DBAPIError) else type(error).__name__
