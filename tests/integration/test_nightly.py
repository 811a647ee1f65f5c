"""Rounds: a worker killed in the middle of one, the online mode's budget, the window's end."""

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from scripted_jobs import ScriptedJobs
from sqlalchemy import func, insert, select, update

from adapt.nightly import Rounds
from server import fleets
from server.due import DueRule
from server.jobs import REFRESH_WORKFLOW
from server.online import texts_arrived
from server.schedule import Schedule
from server.settings import Settings
from server.store.database import Database
from server.store.tables.base import now
from server.store.tables.people import User
from server.store.tables.refreshes import PlanEntry, Refresh

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path, fleet_size=2)


@pytest.fixture
def database(settings: Settings) -> Iterator[Database]:
    opened = Database(settings.store_url())
    opened.migrate(settings.home)
    yield opened
    opened.close()


def add_due(database: Database, count: int) -> None:
    row = {"consent": True, "text_count": 40, "created_at": now() - timedelta(days=9)}
    with database.write() as session:
        session.connection().execute(
            insert(User),
            [{**row, "id": i, "name": f"u{i}", "new_texts": 9 + i} for i in range(1, count + 1)],
        )


@pytest.mark.timeout(1200)
def test_a_round_killed_in_the_middle_enqueues_nobody_twice(
    settings: Settings, database: Database
) -> None:
    users = 120
    add_due(database, users)
    worker = [sys.executable, str(REPOSITORY / "tests" / "fakes" / "round_worker.py")]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    killed = subprocess.run([*worker, str(settings.home), "23"], env=environment, timeout=540)
    assert killed.returncode == -signal.SIGKILL
    with database.read() as session:
        states = {state for (state,) in session.execute(select(PlanEntry.state).distinct())}
        assert states == {"queued", "planned"}
    subprocess.run([*worker, str(settings.home)], env=environment, timeout=540, check=True)
    with database.read() as session:
        rows = session.execute(
            select(Refresh.user_id, Refresh.status, Refresh.origin).order_by(Refresh.user_id)
        ).all()
        assert [tuple(row) for row in rows] == [
            (user, "succeeded", "nightly") for user in range(1, users + 1)
        ]
        assert session.scalars(select(func.count(PlanEntry.rank))).one() == users
    with sqlite3.connect(settings.home / "jobs.db") as queue:
        (workflows,) = queue.execute(
            "SELECT count(*) FROM workflow_status WHERE name = ?", (REFRESH_WORKFLOW,)
        ).fetchone()
    queue.close()
    assert workflows == users // 2


def test_a_round_asks_for_its_window_to_be_closed(settings: Settings, database: Database) -> None:
    add_due(database, 4)
    jobs = ScriptedJobs(None)
    rounds = Rounds(settings, database, jobs)
    plan_id, count = rounds.plan("night-1", Schedule(window_hours=2.0))
    assert count == 2
    (closing,) = jobs.windows
    assert timedelta(hours=1.9) < closing - now() <= timedelta(hours=2)
    assert rounds.enqueue(plan_id, 1, 2) == 4
    handed = list(jobs.handed)
    assert [workflow for _, workflow, _ in handed] == ["night-1-fleet-1", "night-1-fleet-2"]
    # The step's second run, after a crash, hands over the same again, which the queue ignores.
    assert rounds.enqueue(plan_id, 1, 2) == 4
    assert jobs.handed[2:] == handed
    assert rounds.carry_over(plan_id) == 2
    assert rounds.carry_over(plan_id) == 0
    assert jobs.withdrawn == ["night-1-fleet-1", "night-1-fleet-2"]


def test_online_rounds_keep_to_their_budget(settings: Settings, database: Database) -> None:
    add_due(database, 5)
    jobs = ScriptedJobs(Schedule(online=True, online_per_hour=2))
    rounds = Rounds(settings, database, jobs)
    assert rounds.online("online-1") == 2
    assert [origin for _, _, origin in jobs.handed] == ["online", "online"]
    assert rounds.online("online-2") == 0
    # The next round is asked for when the first refresh of the hour is an hour old.
    assert timedelta(minutes=59) < jobs.online_at[-1] - now() <= timedelta(hours=1)
    with database.write() as session:
        session.execute(update(Refresh).values(created_at=now() - timedelta(hours=2)))
    assert rounds.online("online-3") == 2
    with database.read() as session:
        most_urgent = session.scalars(select(Refresh.user_id).order_by(Refresh.user_id)).all()
    assert most_urgent == [2, 3, 4, 5]


def test_an_online_round_comes_back_for_those_who_have_only_to_wait(
    settings: Settings, database: Database
) -> None:
    add_due(database, 2)
    with database.write() as session:
        session.execute(
            update(User).where(User.id == 1).values(last_message_at=now() - timedelta(minutes=40))
        )
    jobs = ScriptedJobs(Schedule(online=True))
    rounds = Rounds(settings, database, jobs)
    assert rounds.online("online-1") == 1
    (again,) = jobs.online_at
    assert timedelta(minutes=19) < again - now() <= timedelta(minutes=20)


def test_without_the_online_mode_nothing_happens_when_texts_arrive(
    settings: Settings, database: Database
) -> None:
    add_due(database, 2)
    off = ScriptedJobs(Schedule())
    texts_arrived(off)
    assert Rounds(settings, database, off).online("online-1") == 0
    assert (off.online_at, off.handed) == ([], [])
    on = ScriptedJobs(Schedule(online=True))
    texts_arrived(on)
    assert len(on.online_at) == 1
    texts_arrived(ScriptedJobs(None))


def test_an_interrupted_online_round_hands_over_what_it_opened(
    settings: Settings, database: Database
) -> None:
    add_due(database, 1)
    jobs = ScriptedJobs(Schedule(online=True, rule=DueRule()))
    with database.write() as session:
        fleets.open_refreshes(session, [(1, "online-1-user-1")], "online-1", "online")
    assert Rounds(settings, database, jobs).online("online-1") == 1
    assert jobs.handed[0][1] == "online-1-user-1"
