"""The schedule of refreshes: when the nightly round runs, who is due, and the online mode.

The job queue keeps it as a row with a context of our own; see `server.jobs`.
"""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

from croniter import croniter

from server.due import DueRule
from server.errors import BadRequestError

DEFAULT_CRON = "0 3 * * *"


@dataclass(frozen=True, slots=True)
class Schedule:
    """When due users are refreshed, and who is due; refuses what could never run.

    Attributes:
        cron: Five fields: minute, hour, day of the month, month, day of the week.
        timezone: Name of the zone in which the fields are read.
        paused: Whether the nightly round is left out.
        rule: Who is due, at night and online.
        window_hours: How long after its start a round may begin refreshes; 0 for no end.
        online: Whether users are refreshed as soon as their texts make them due.
        online_per_hour: At most so many refreshes an hour are begun by the online mode.

    Raises:
        BadRequestError: The expression, the zone or a number is none.
    """

    cron: str = DEFAULT_CRON
    timezone: str = "UTC"
    paused: bool = False
    rule: DueRule = field(default_factory=DueRule)
    window_hours: float = 0.0
    online: bool = False
    online_per_hour: int = 20

    def __post_init__(self) -> None:
        if len(self.cron.split()) != 5 or not croniter.is_valid(self.cron):
            raise BadRequestError(
                f"{self.cron!r} is no cron expression: give five fields, "
                "such as '0 3 * * *' for 3 a.m."
            )
        try:
            ZoneInfo(self.timezone)
        except (KeyError, ValueError, OSError):
            raise BadRequestError(
                f"{self.timezone!r} is no time zone: use a name such as 'Europe/Berlin'."
            ) from None
        if not 0 <= self.window_hours <= 168:
            raise BadRequestError("'window_hours' must be between 0 (no end) and 168.")
        if self.online_per_hour < 1:
            raise BadRequestError("'online_per_hour' must be at least 1: switch 'online' off.")

    @property
    def window_s(self) -> float | None:
        """The window in seconds; None for no end."""
        return self.window_hours * 3600 or None

    def next_run(self, after: datetime | None = None) -> datetime | None:
        """Return the next time that the schedule fires, in UTC; None while paused."""
        if self.paused:
            return None
        local = (after or datetime.now(UTC)).astimezone(ZoneInfo(self.timezone))
        following: datetime = croniter(self.cron, local).get_next(datetime)
        return following.astimezone(UTC)

    def context(self) -> dict[str, Any]:
        """Return what the job queue hands to each round."""
        return {
            **self.rule.to_json(),
            "window_hours": self.window_hours,
            "online": self.online,
            "online_per_hour": self.online_per_hour,
        }

    def to_json(self) -> dict[str, Any]:
        """Return the schedule as the API shows it."""
        return {
            "cron": self.cron,
            "timezone": self.timezone,
            "paused": self.paused,
            **self.context(),
        }

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Schedule":
        """Read what `to_json` or `context` returned; what is missing is default."""
        own = ("cron", "timezone", "paused", "window_hours", "online", "online_per_hour")
        return cls(
            rule=DueRule.from_json(values),
            **{name: values[name] for name in own if name in values},
        )
