"""A queue without workers, that only remembers what it was given."""

from collections.abc import Sequence
from datetime import datetime

from server.errors import JobsUnavailableError
from server.jobs import Jobs
from server.refreshes import Origin
from server.schedule import Schedule


class ScriptedJobs(Jobs):
    """A queue that only remembers what it was given."""

    def __init__(self, schedule: Schedule | None) -> None:
        super().__init__("sqlite://")
        self.scripted = schedule
        self.handed: list[tuple[tuple[str, ...], str, Origin]] = []
        self.online_at: list[datetime] = []
        self.windows: list[datetime] = []
        self.withdrawn: list[str] = []

    def schedule(self) -> Schedule:
        if self.scripted is None:
            raise JobsUnavailableError()
        return self.scripted

    def refresh(
        self, refresh_ids: Sequence[str], workflow_id: str, origin: Origin = "manual"
    ) -> None:
        self.handed.append((tuple(refresh_ids), workflow_id, origin))

    def hold_online_round(self, at: datetime) -> None:
        self.online_at.append(at)

    def close_window(self, plan_id: int, run: str, at: datetime) -> None:
        self.windows.append(at)

    def withdraw(self, workflow_ids: Sequence[str]) -> None:
        self.withdrawn += workflow_ids
