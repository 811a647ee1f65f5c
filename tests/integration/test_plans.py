"""Plans of rounds: written, opened, carried over and forgotten, on SQLite and PostgreSQL."""

from datetime import datetime, timedelta

from sqlalchemy import func, insert, select, update

from server import fleets, plans, refreshes
from server.arrangement import Capacity
from server.due import DueRule, due_users
from server.store.database import Database
from server.store.tables.base import now
from server.store.tables.people import User
from server.store.tables.refreshes import Plan, PlanEntry, Refresh
from server.store.users import erase_user

AT = datetime.fromisoformat("2026-11-21T03:00:00+00:00")


def add_due(database: Database, count: int) -> None:
    """Add users who are due, the later the more urgent."""
    row = {"consent": True, "text_count": 40, "created_at": AT - timedelta(days=9)}
    with database.write() as session:
        session.connection().execute(
            insert(User),
            [{**row, "id": i, "name": f"u{i}", "new_texts": 9 + i} for i in range(1, count + 1)],
        )


def waiting(database: Database) -> list[int]:
    with database.read() as session:
        query = select(User.id).where(User.waiting_since.is_not(None)).order_by(User.id)
        return list(session.scalars(query))


def test_a_plan_is_written_once_and_its_refreshes_are_opened_once(database: Database) -> None:
    add_due(database, 7)
    rule, capacity = DueRule(), Capacity(fleet_size=3)
    plan_id = plans.make_plan(database, "night-1", rule, capacity, AT)
    assert plans.make_plan(database, "night-1", rule, capacity, AT) == plan_id
    with database.read() as session:
        rows = plans.entries(session, plan_id)
        assert [(entry.rank, entry.fleet, name) for entry, name in rows] == [
            (1, 1, "u7"), (2, 1, "u6"), (3, 1, "u5"), (4, 2, "u4"), (5, 2, "u3"), (6, 2, "u2"),
            (7, 3, "u1"),
        ]  # fmt: skip
        assert plans.fleets(session, plan_id) == 3
    with database.write() as session:
        session.execute(update(User).where(User.id == 6).values(consent=False))
    first = fleets.open_fleets(database, plan_id, 1, 2)
    assert [(workflow, len(ids)) for workflow, ids in first] == [
        ("night-1-fleet-1", 2),
        ("night-1-fleet-2", 3),
    ]
    assert fleets.open_fleets(database, plan_id, 1, 2) == first
    with database.read() as session:
        assert plans.states(session, plan_id) == {"queued": 5, "skipped": 1, "planned": 1}
        assert session.scalar(select(func.count(Refresh.id))) == 5
        assert due_users(session, rule, AT)[0].id == 1


def test_an_interrupted_plan_is_written_anew(database: Database) -> None:
    add_due(database, 3)
    with database.write() as session:
        session.add(Plan(id=1, run="night-1", created_at=AT))
        session.flush()
        session.execute(
            insert(PlanEntry).values(
                plan_id=1, rank=1, user_id=1, fleet=1, expected_s=1.0, state="planned"
            )
        )
        assert plans.latest(session) is None
    assert plans.make_plan(database, "night-1", DueRule(), Capacity(), AT) == 1
    with database.read() as session:
        assert [name for _, name in plans.entries(session, 1)] == ["u3", "u2", "u1"]
        found = plans.latest(session)
        assert found is not None and found.summary["planned"] == 3


def test_what_does_not_fit_is_carried_over_and_comes_first_next_night(database: Database) -> None:
    add_due(database, 4)
    # By the default pace 40 texts take 62 s at most.
    capacity = Capacity(window_s=130.0)
    plans.make_plan(database, "night-1", DueRule(), capacity, AT)
    assert waiting(database) == [1, 2]
    with database.write() as session:
        # Somebody far more urgent than those who wait, and two who were refreshed.
        session.execute(insert(User).values(id=9, name="u9", new_texts=300, text_count=300))
        session.execute(update(User).where(User.id.in_([3, 4])).values(new_texts=0))
    next_night = AT + timedelta(days=1)
    second = plans.make_plan(database, "night-2", DueRule(), capacity, next_night)
    with database.read() as session:
        rows = plans.entries(session, second)
        assert [(name, entry.state) for entry, name in rows] == [
            ("u2", "planned"),
            ("u1", "planned"),
            ("u9", "carried over"),
        ]
        assert session.get_one(User, 9).waiting_since == next_night
        assert session.get_one(User, 1).waiting_since == AT


def test_when_the_window_ends_what_has_not_begun_is_taken_back(database: Database) -> None:
    add_due(database, 5)
    plan_id = plans.make_plan(
        database, "night-1", DueRule(), Capacity(window_s=3600.0, fleet_size=2), AT
    )
    opened = fleets.open_fleets(database, plan_id, 1, 3)
    begun = opened[0][1][0]
    with database.write() as session:
        refreshes.advance(session, begun, status="running", started_at=now())
    assert fleets.carry_over(database, plan_id) == ["night-1-fleet-2", "night-1-fleet-3"]
    assert fleets.carry_over(database, plan_id) == []
    assert waiting(database) == [1, 2, 3]
    with database.read() as session:
        statuses = dict(
            session.execute(select(Refresh.status, func.count()).group_by(Refresh.status)).all()
        )
        assert statuses == {"running": 1, "queued": 1, "cancelled": 3}
        # They are due at once: the gap counts from refreshes that took place.
        assert sorted(user.id for user in due_users(session, DueRule(), AT)) == [1, 2, 3]
    with database.write() as session:
        refreshes.close(session, begun, "succeeded")
        erase_user(session, session.get_one(User, 1))
    assert waiting(database) == [2, 3]


def test_old_plans_are_forgotten(database: Database) -> None:
    add_due(database, 2)
    for number in range(plans.KEPT_PLANS + 2):
        plans.make_plan(database, f"night-{number}", DueRule(), Capacity(), AT)
    with database.read() as session:
        assert session.scalar(select(func.count(Plan.id))) == plans.KEPT_PLANS
        assert session.scalar(select(func.count(PlanEntry.rank))) == 2 * plans.KEPT_PLANS
