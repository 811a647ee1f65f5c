"""The scripted gateway's schedule: when due users are refreshed, and the plan of a round."""

from dataclasses import dataclass, field
from typing import Any

from scripted_answers import Answer, Routes, refused
from scripted_records import new_plan, new_refresh
from scripted_users import People

NEXT_RUN = "2026-11-22T03:00:00+00:00"


def _each_night() -> dict[str, Any]:
    return {
        "cron": "0 3 * * *",
        "timezone": "UTC",
        "paused": False,
        "next_run": NEXT_RUN,
        "min_new_texts": 10,
        "quiet_minutes": 60.0,
        "min_gap_hours": 8.0,
        "window_hours": 0.0,
        "online": False,
        "online_per_hour": 20,
        "last_plan": None,
    }


@dataclass
class ScriptedSchedule:
    """The schedule of these people.

    Attributes:
        due: The users whom each round refreshes.
    """

    people: People
    due: list[str] = field(default_factory=lambda: ["otto"])
    schedule: dict[str, Any] = field(default_factory=_each_night)

    def routes(self) -> Routes:
        return {
            "GET /v1/schedule": lambda _: (200, self.schedule),
            "PUT /v1/schedule": self._change,
            "POST /v1/schedule/run": self._run,
            "GET /v1/schedule/plan": self._plan,
        }

    def _change(self, body: dict[str, Any]) -> Answer:
        if len(body.get("cron", "0 3 * * *").split()) != 5:
            return refused(400, f"{body['cron']!r} is no cron expression: give five fields.")
        self.schedule |= body
        self.schedule["next_run"] = None if self.schedule["paused"] else NEXT_RUN
        return 200, self.schedule

    def _run(self, _: object) -> Answer:
        started = [new_refresh(name, "r1", "perce") for name in self.due]
        for refresh in started:
            self.people[refresh["user"]]["refreshes"].append(refresh)
        plan = self.schedule["last_plan"] = new_plan(len(started))
        return 202, {"object": "list", "run": "run-1", "plan": plan, "data": started}

    def _plan(self, _: object) -> Answer:
        entries = [
            {"rank": rank, "user": name, "fleet": rank, "expected_s": 60.0, "state": "queued"}
            for rank, name in enumerate(self.due, start=1)
        ]
        return 200, {**new_plan(len(entries)), "entries": entries}
