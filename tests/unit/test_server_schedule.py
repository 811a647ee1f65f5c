from datetime import UTC, datetime
from pathlib import Path

import pytest

from server.errors import BadRequestError, JobsUnavailableError
from server.jobs import Jobs, Schedule, check_schedule


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
    assert Schedule(cron, zone, False, 10).next_run(noon) == expected


def test_a_paused_schedule_has_no_next_run() -> None:
    assert Schedule("0 3 * * *", "UTC", True, 10).next_run() is None


@pytest.mark.parametrize(
    ("cron", "zone", "least", "words"),
    [
        ("at night", "UTC", 10, "no cron expression"),
        ("0 3 * * * *", "UTC", 10, "five fields"),
        ("61 3 * * *", "UTC", 10, "no cron expression"),
        ("0 3 * * *", "Mars/Olympus", 10, "no time zone"),
        ("0 3 * * *", "../../etc/passwd", 10, "no time zone"),
        ("0 3 * * *", "UTC", 0, "at least 1"),
    ],
)
def test_schedules_that_could_never_run_are_refused(
    cron: str, zone: str, least: int, words: str
) -> None:
    with pytest.raises(BadRequestError, match=words):
        check_schedule(cron, zone, least)


def test_a_queue_that_no_worker_made_is_a_clear_error(tmp_path: Path) -> None:
    jobs = Jobs(f"sqlite:///{tmp_path / 'jobs.db'}")
    with pytest.raises(JobsUnavailableError, match="start the worker"):
        jobs.schedule()
    jobs.close()
