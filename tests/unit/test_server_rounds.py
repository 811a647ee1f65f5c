from datetime import timedelta

import pytest

from server import backoff
from server.cancellation import cancel_refresh
from server.errors import ConflictError, NotFoundError
from server.refreshes import close, open_refresh
from server.rounds import round_progress
from server.store import memory
from server.store.database import Database
from server.store.memory import NewText
from server.store.tables.base import now
from server.store.tables.people import User
from server.store.tables.refreshes import Plan, PlanEntry, Refresh
from server.store.users import add_user


@pytest.fixture
def user(database: Database) -> User:
    with database.write() as session:
        user = add_user(session, "mina")[0]
        memory.add_texts(session, user, [NewText("q", f"text {i}", i) for i in range(9)])
    return user


def test_a_round_counts_how_its_refreshes_stand(database: Database) -> None:
    start = now()
    stands = [
        ("succeeded", "publish"),
        ("succeeded", "reject"),
        ("failed", None),
        ("running", None),
        # Its version is being warmed; the other one's refresh is about to be closed.
        ("running", "publish"),
        ("running", "reject"),
        ("queued", None),
    ]
    with database.write() as session:
        plan = Plan(run="night")
        session.add(plan)
        session.flush()
        for rank, (status, verdict) in enumerate(stands, start=1):
            user = add_user(session, f"user-{rank}")[0]
            session.add(
                PlanEntry(
                    plan_id=plan.id, rank=rank, user_id=user.id, expected_s=10.0, state="queued"
                )
            )
            session.add(
                Refresh(
                    id=str(rank),
                    user_id=user.id,
                    method="perce",
                    status=status,
                    verdict=verdict,
                    plan_id=plan.id,
                    tokens_per_s=120.0 if status == "running" else None,
                    started_at=start if status != "queued" else None,
                )
            )
    with database.read() as session:
        stand = round_progress(session, plan.id, start + timedelta(seconds=60))
    assert (stand.users, stand.done, stand.running) == (7, 3, 3)
    assert (stand.published, stand.rejected, stand.failed, stand.cancelled) == (1, 1, 1, 0)
    assert stand.tokens_per_s == 360.0
    # Three users of ten expected seconds each took sixty; four are left.
    assert stand.seconds_left == pytest.approx(80.0)


def test_a_round_without_refreshes_has_nothing_left(database: Database) -> None:
    with database.read() as session:
        stand = round_progress(session, 7)
    assert (stand.users, stand.done, stand.seconds_left, stand.started_at) == (0, 0, None, None)


def test_a_refresh_that_waits_is_cancelled_at_once(database: Database, user: User) -> None:
    with database.write() as session:
        refresh = open_refresh(session, user, "perce")
        assert cancel_refresh(session, user, refresh.id).status == "cancelled"
    with database.write() as session:
        assert open_refresh(session, user, "perce").id != refresh.id


def test_a_running_refresh_is_asked_to_end(database: Database, user: User) -> None:
    with database.write() as session:
        refresh = open_refresh(session, user, "perce")
        refresh.status, refresh.stage = "running", "train"
        asked = cancel_refresh(session, user, refresh.id)
        assert (asked.status, asked.cancel_requested) == ("running", True)


@pytest.mark.parametrize("stage", ["publish", "warm", "activate"])
def test_what_is_being_published_is_not_cancelled(
    database: Database, user: User, stage: str
) -> None:
    with database.write() as session:
        refresh = open_refresh(session, user, "perce")
        refresh.status, refresh.stage = "running", stage
        with pytest.raises(ConflictError, match="rollback"):
            cancel_refresh(session, user, refresh.id)


def test_only_own_refreshes_that_have_not_ended_are_cancelled(
    database: Database, user: User
) -> None:
    with database.write() as session:
        refresh = open_refresh(session, user, "perce")
        other = add_user(session, "wilf")[0]
        with pytest.raises(NotFoundError):
            cancel_refresh(session, other, refresh.id)
        close(session, refresh.id, "succeeded")
        with pytest.raises(ConflictError, match="ended already"):
            cancel_refresh(session, user, refresh.id)


def test_failures_in_a_row_wait_longer_and_longer(database: Database, user: User) -> None:
    at = now()
    waits = []
    with database.write() as session:
        for _ in range(8):
            backoff.note_failure(session, user.id, at)
            retry_at = session.get_one(User, user.id).retry_at
            assert retry_at is not None
            waits.append((retry_at - at) / timedelta(hours=1))
        assert waits == [8, 16, 32, 64, 128, 256, 336, 336]
        backoff.note_verdict(session, user.id)
        user = session.get_one(User, user.id)
        assert (user.failures, user.retry_at) == (0, None)
