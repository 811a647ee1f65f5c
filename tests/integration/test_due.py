"""Who is due, the counters behind it, and the written plans, on SQLite and PostgreSQL."""

import random
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.config import Config
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete, event, func, insert, inspect, select, text, update

from server import fleets, plans, refreshes
from server.due import DueRule, due_users, next_due_at
from server.errors import BadRequestError
from server.plan import Capacity
from server.store import counters, memory
from server.store.database import MIGRATIONS, Database
from server.store.memory import NewText
from server.store.tables.adapters import Adapter
from server.store.tables.base import now
from server.store.tables.people import User, UserText
from server.store.tables.refreshes import Plan, PlanEntry, Refresh
from server.store.users import add_user, erase_user

AT = datetime.fromisoformat("2026-11-21T03:00:00+00:00")


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def opened(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Database]:
    folder = tmp_path_factory.mktemp("due")
    if request.param == "sqlite":
        database = Database(f"sqlite:///{folder / 'attune.db'}")
    else:
        database = Database(request.getfixturevalue("postgres_url"))
    database.migrate(folder)
    yield database
    database.close()


@pytest.fixture
def database(opened: Database) -> Database:
    _empty(opened)
    return opened


def _empty(database: Database) -> None:
    with database.write() as session:
        for table in (PlanEntry, Refresh, Plan, UserText, Adapter, User):
            session.execute(delete(table))


def hours_ago(most: int) -> st.SearchStrategy[datetime | None]:
    return st.none() | st.integers(0, most * 4).map(lambda n: AT - timedelta(minutes=15 * n))


people = st.lists(
    st.fixed_dictionaries(
        {
            "consent": st.booleans() | st.just(True),
            "new_texts": st.integers(0, 20),
            "text_count": st.integers(5, 30),
            "last_message_at": hours_ago(4),
            "last_refresh_at": hours_ago(20),
            "retry_at": st.none() | st.integers(-4, 4).map(lambda n: AT + timedelta(hours=n)),
            "waiting_since": st.none() | st.just(AT - timedelta(days=1)),
            "created_at": st.just(AT - timedelta(days=9)),
            "refresh": st.sampled_from((None, "queued", "running", "succeeded", "cancelled")),
        }
    ),
    max_size=12,
)
rules = st.builds(
    DueRule,
    st.integers(1, 15),
    st.sampled_from((0.0, 15.0, 60.0, 180.0)),
    st.sampled_from((0.0, 1.0, 8.0)),
)


def is_due_naively(person: dict[str, Any], rule: DueRule, at: datetime = AT) -> bool:
    """The rule in words, over one row."""

    def long_ago(moment: datetime | None, **least: float) -> bool:
        return moment is None or at - moment >= timedelta(**least)

    return (
        person["consent"]
        and person["new_texts"] >= rule.min_new_texts
        and person["text_count"] >= 8
        and long_ago(person["last_message_at"], minutes=rule.quiet_minutes)
        and long_ago(person["last_refresh_at"], hours=rule.min_gap_hours)
        and (person["retry_at"] is None or person["retry_at"] <= at)
        and person["refresh"] not in ("queued", "running")
    )


def add_people(database: Database, rows: Sequence[dict[str, Any]]) -> None:
    with database.write() as session:
        for number, row in enumerate(rows, start=1):
            values = {key: value for key, value in row.items() if key != "refresh"}
            session.execute(insert(User).values(id=number, name=f"user{number}", **values))
            if row["refresh"] is not None:
                session.execute(
                    insert(Refresh).values(
                        id=f"r{number}", user_id=number, method="perce", status=row["refresh"]
                    )
                )


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(rows=people, rule=rules)
def test_the_query_finds_whom_the_rule_names(
    opened: Database, rows: list[dict[str, Any]], rule: DueRule
) -> None:
    _empty(opened)
    add_people(opened, rows)
    expected = [number for number, row in enumerate(rows, 1) if is_due_naively(row, rule)]
    with opened.read() as session:
        found = due_users(session, rule, AT)
        assert sorted(user.id for user in found) == expected
        soon = next_due_at(session, rule, AT)
    for user in found:
        row = rows[user.id - 1]
        assert user.stale_since == (row["last_refresh_at"] or row["created_at"])
        assert user.waiting_since == row["waiting_since"]
    # Nobody becomes due before the moment that is named; without one, nobody by waiting.
    for row in rows:
        if not is_due_naively(row, rule):
            just_before = (soon or AT + timedelta(days=30)) - timedelta(seconds=1)
            assert just_before <= AT or not is_due_naively(row, rule, just_before)


@pytest.mark.parametrize(
    "numbers",
    [{"min_new_texts": 0}, {"quiet_minutes": -1}, {"min_gap_hours": float("nan")}],
)
def test_a_rule_that_makes_no_sense_is_refused(numbers: dict[str, Any]) -> None:
    with pytest.raises(BadRequestError, match=next(iter(numbers))):
        DueRule(**numbers)


def test_the_question_is_one_query_that_the_index_answers(database: Database) -> None:
    statements: list[str] = []

    def note(_c: object, _cursor: object, statement: str, *_rest: object) -> None:
        statements.append(statement)

    event.listen(database.engine, "before_cursor_execute", note)
    with database.read() as session:
        due_users(session, DueRule(), AT)
    event.remove(database.engine, "before_cursor_execute", note)
    (query,) = [one for one in statements if one.lstrip().startswith("SELECT")]
    assert {index["name"] for index in inspect(database.engine).get_indexes("users")} >= {
        "ix_users_due"
    }
    if database.engine.dialect.name == "sqlite":
        with database.engine.connect() as connection:
            arguments = (1, 10, 8, AT, AT, AT, "queued", "running")[: query.count("?")]
            steps = connection.exec_driver_sql(
                f"EXPLAIN QUERY PLAN {query}", tuple(str(value) for value in arguments)
            )
            assert "ix_users_due" in str(steps.all())


def test_counters_follow_whatever_happens_to_texts(database: Database) -> None:
    """Random lives of users; a list in Python remembers what the rows should say."""
    chance = random.Random(7)
    with database.write() as session:
        user = add_user(session, "mina")[0]
    texts: dict[str, bool] = {}
    for turn in range(60):
        act = chance.choice(("add", "add", "add", "again", "forget", "refresh", "fail"))
        if act == "add":
            fresh = [f"text {turn}.{i}" for i in range(chance.randrange(1, 4))]
            with database.write() as session:
                memory.add_texts(session, user, [NewText("q", one, 0.0) for one in fresh])
                memory.add_texts(
                    session, user, [NewText("q", f"liked {turn}", 0.0, interaction_id=None)]
                )
            texts |= dict.fromkeys([*fresh, f"liked {turn}"], True)
        elif act == "again" and texts:
            with database.write() as session:
                memory.add_texts(session, user, [NewText("q", one, 0.0) for one in texts])
        elif act == "forget" and texts:
            gone = chance.choice(sorted(texts))
            with database.write() as session:
                session.execute(delete(UserText).where(UserText.text == gone))
                counters.recount(session, user.id)
            del texts[gone]
        elif act in ("refresh", "fail"):
            _refresh(database, user, turn, act == "refresh")
            if act == "refresh":
                texts = dict.fromkeys(texts, False)
        with database.read() as session:
            row = session.get_one(User, user.id)
            assert row.text_count == len(texts), (turn, act)
            assert row.new_texts == sum(texts.values()), (turn, act)


def _refresh(database: Database, user: User, version: int, succeeds: bool) -> None:
    """Leave the rows of a refresh that was rejected, or that failed before its version."""
    with database.write() as session:
        session.add(Refresh(id=f"r{version}", user_id=user.id, method="perce", status="running"))
        session.flush()
        refreshes.advance(session, f"r{version}", started_at=now())
    with database.write() as session:
        if succeeds:
            adapter = Adapter(
                user_id=user.id,
                version=version + 1,
                state="rejected",
                folder="",
                base_model="",
                method="perce",
                checksums={},
                metrics={},
            )
            session.add(adapter)
            session.flush()
            refreshes.advance(session, f"r{version}", adapter_id=adapter.id)
        refreshes.close(session, f"r{version}", "succeeded" if succeeds else "failed")


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


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_counters_of_an_older_store_are_filled_in(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    url = f"sqlite:///{tmp_path / 'old.db'}"
    if kind == "postgresql":
        url = request.getfixturevalue("postgres").new_database("old")
    database = Database(url)
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    with database.engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        for statement in _OLD_ROWS:
            connection.execute(text(statement))
    database.migrate(tmp_path)
    with database.read() as session:
        rows = session.scalars(select(User).order_by(User.id)).all()
        assert [(row.text_count, row.new_texts) for row in rows] == [(3, 1), (1, 1), (0, 0)]
        ends = [row.last_refresh_at and row.last_refresh_at.hour for row in rows]
        assert ends == [4, None, None]
        assert [row.last_message_at and row.last_message_at.hour for row in rows] == [7, None, None]
        for row in rows:
            before = row.text_count, row.new_texts
            counters.recount(session, row.id)
            session.refresh(row)
            assert (row.text_count, row.new_texts) == before
    database.close()


def _old_text(number: int, user: int, hour: int) -> str:
    return (
        "INSERT INTO texts (id, user_id, query, text, position, source, fingerprint, created_at) "
        f"VALUES ({number}, {user}, 'q', 't{number}', 0, 'import', 'f{number}', "
        f"'2026-11-01 {hour:02}:00:00')"
    )


_OLD_ROWS = (
    *(
        "INSERT INTO users (id, name, consent, memory_version, created_at) "
        f"VALUES ({i}, 'u{i}', true, 0, '2026-11-01 00:00:00')"
        for i in (1, 2, 3)
    ),
    _old_text(1, 1, 1),
    _old_text(2, 1, 2),
    # It came while the refresh was running: it is not among the version's data.
    _old_text(3, 1, 4),
    _old_text(4, 2, 1),
    "INSERT INTO adapters (id, user_id, version, state, folder, base_model, method, checksums, "
    "metrics, reason, trained_position, created_at) VALUES "
    "(1, 1, 1, 'active', '', '', 'perce', '{}', '{}', '', 0, '2026-11-01 04:30:00')",
    "INSERT INTO refreshes (id, user_id, method, status, adapter_id, report, created_at, "
    "started_at, finished_at) VALUES ('r', 1, 'perce', 'succeeded', 1, '{}', "
    "'2026-11-01 03:00:00', '2026-11-01 03:00:00', '2026-11-01 04:45:00')",
    "INSERT INTO interactions (id, user_id, messages, reply, prompt_token_ids, token_ids, "
    "logprobs, context, created_at) VALUES ('i', 1, '[]', '', '[]', '[]', '[]', '[]', "
    "'2026-11-01 07:00:00')",
)
