from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from server.due import DueRule
from server.errors import BadRequestError, JobsUnavailableError
from server.jobs import Jobs
from server.schedule import Schedule


@pytest.mark.parametrize(
    ("cron", "zone", "expected"),
    [
        ("0 3 * * *", "UTC", datetime(2026, 11, 22, 3, tzinfo=UTC)),
        ("0 3 * * *", "Europe/Berlin", datetime(2026, 11, 22, 2, tzinfo=UTC)),
        ("30 12 * * *", "UTC", datetime(2026, 11, 21, 12, 30, tzinfo=UTC)),
        ("0 0 * * 1", "UTC", datetime(2026, 11, 23, tzinfo=UTC)),
    ],
)
def test_the_next_run_is_reckoned_in_the_schedule_s_zone(
    cron: str, zone: str, expected: datetime
) -> None:
    noon = datetime(2026, 11, 21, 12, tzinfo=UTC)
    assert Schedule(cron, zone).next_run(noon) == expected


def test_a_paused_schedule_has_no_next_run() -> None:
    assert Schedule(paused=True).next_run() is None


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"cron": "at night"}, "no cron expression"),
        ({"cron": "0 3 * * * *"}, "five fields"),
        ({"cron": "61 3 * * *"}, "no cron expression"),
        ({"timezone": "Mars/Olympus"}, "no time zone"),
        ({"timezone": "../../etc/passwd"}, "no time zone"),
        ({"min_new_texts": 0}, "at least 1"),
        ({"quiet_minutes": -1.0}, "'quiet_minutes' must be between"),
        ({"min_gap_hours": 1e9}, "'min_gap_hours' must be between"),
        ({"window_hours": 169.0}, "'window_hours' must be between"),
        ({"window_hours": float("nan")}, "'window_hours' must be between"),
        ({"online_per_hour": 0}, "switch 'online' off"),
    ],
)
def test_schedules_that_could_never_run_are_refused(values: dict[str, Any], words: str) -> None:
    with pytest.raises(BadRequestError, match=words):
        Schedule.from_json(values)


def test_a_schedule_survives_its_way_through_json() -> None:
    schedule = Schedule("5 4 * * *", "Asia/Tokyo", True, DueRule(3, 15.0, 2.5), 6.0, True, 7)
    assert Schedule.from_json(schedule.to_json()) == schedule
    # A context that an older Attune wrote has one number only.
    assert Schedule.from_json({"min_new_texts": 4}).rule == DueRule(4, 60.0, 8.0)


def test_a_window_of_no_hours_has_no_end() -> None:
    assert Schedule().window_s is None
    assert Schedule(window_hours=1.5).window_s == 5400


def test_a_queue_that_no_worker_made_is_a_clear_error(tmp_path: Path) -> None:
    jobs = Jobs(f"sqlite:///{tmp_path / 'jobs.db'}")
    with pytest.raises(JobsUnavailableError, match="start the worker"):
        jobs.schedule()
    jobs.close()
