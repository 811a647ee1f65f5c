"""The job queue as the gateway sees it: enqueue refreshes and drains, set the schedule.

The worker's workflows are named here and implemented in `adapt`; the gateway never
imports them. The queue's database is made by the worker at its first start.
"""

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from threading import Lock
from typing import Any, TypeVar
from zoneinfo import ZoneInfo

from croniter import croniter
from dbos import DBOSClient
from dbos import error as dbos_error
from sqlalchemy.exc import SQLAlchemyError

from server.errors import BadRequestError, JobsUnavailableError

APP = "attune"
REFRESH_QUEUE = "refresh"
# Its own queue: unloading must not wait behind training.
UPKEEP_QUEUE = "upkeep"
REFRESH_WORKFLOW = "attune_refresh"
DRAIN_WORKFLOW = "attune_drain"
NIGHTLY_WORKFLOW = "attune_nightly"
SCHEDULE = "nightly"
DEFAULT_CRON = "0 3 * * *"
DEFAULT_MIN_NEW_TEXTS = 10

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Schedule:
    """When due users are refreshed, and how many new texts make a user due."""

    cron: str
    timezone: str
    paused: bool
    min_new_texts: int

    def next_run(self, after: datetime | None = None) -> datetime | None:
        """Return the next time that the schedule fires, in UTC; None while paused."""
        if self.paused:
            return None
        local = (after or datetime.now(UTC)).astimezone(ZoneInfo(self.timezone))
        following: datetime = croniter(self.cron, local).get_next(datetime)
        return following.astimezone(UTC)


def check_schedule(cron: str, timezone: str, min_new_texts: int) -> None:
    """Refuse a schedule that could never run.

    Raises:
        BadRequestError: The expression, the zone or the number is none.
    """
    if len(cron.split()) != 5 or not croniter.is_valid(cron):
        raise BadRequestError(
            f"{cron!r} is no cron expression: give five fields, such as '0 3 * * *' for 3 a.m."
        )
    try:
        ZoneInfo(timezone)
    except (KeyError, ValueError, OSError):
        raise BadRequestError(
            f"{timezone!r} is no time zone: use a name such as 'Europe/Berlin'."
        ) from None
    if min_new_texts < 1:
        raise BadRequestError("'min_new_texts' must be at least 1.")


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

    def refresh(self, refresh_id: str) -> None:
        """Enqueue a refresh; its id makes a second call add nothing.

        Raises:
            JobsUnavailableError: The queue cannot be reached.
        """
        self._enqueue(REFRESH_QUEUE, REFRESH_WORKFLOW, refresh_id, refresh_id)

    def drain(self, user_id: int) -> None:
        """Enqueue the unloading of a user's retired versions.

        Raises:
            JobsUnavailableError: The queue cannot be reached.
        """
        self._enqueue(UPKEEP_QUEUE, DRAIN_WORKFLOW, str(uuid.uuid4()), user_id)

    def schedule(self) -> Schedule:
        """Return the schedule.

        Raises:
            JobsUnavailableError: The queue cannot be reached, or the worker never ran.
        """
        row = self._call(lambda client: client.get_schedule(SCHEDULE))
        if row is None:
            raise JobsUnavailableError()
        context = row["context"] or {}
        return Schedule(
            cron=row["schedule"],
            timezone=row["cron_timezone"] or "UTC",
            paused=row["status"] != "ACTIVE",
            min_new_texts=context.get("min_new_texts", DEFAULT_MIN_NEW_TEXTS),
        )

    def set_schedule(self, schedule: Schedule) -> None:
        """Replace the schedule.

        Raises:
            BadRequestError: The schedule could never run.
            JobsUnavailableError: The queue cannot be reached.
        """
        check_schedule(schedule.cron, schedule.timezone, schedule.min_new_texts)

        def apply(client: DBOSClient) -> None:
            client.apply_schedules(
                [
                    {
                        "schedule_name": SCHEDULE,
                        "workflow_name": NIGHTLY_WORKFLOW,
                        "schedule": schedule.cron,
                        "cron_timezone": schedule.timezone,
                        "context": {"min_new_texts": schedule.min_new_texts},
                    }
                ]
            )
            if schedule.paused:
                client.pause_schedule(SCHEDULE)
            else:
                client.resume_schedule(SCHEDULE)

        self._call(apply)

    def _enqueue(self, queue: str, workflow: str, workflow_id: str, *args: Any) -> None:  # noqa: ANN401
        self._call(
            lambda client: client.enqueue(
                {"workflow_name": workflow, "queue_name": queue, "workflow_id": workflow_id}, *args
            )
        )

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
                f"The job queue cannot be reached ({error}): start the worker."
            ) from error
