"""Who is due: the rule, and the query that finds them on SQLite and PostgreSQL."""

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete, event, insert, inspect

from server.due import DueRule, due_users, next_due_at
from server.errors import BadRequestError
from server.store.database import Database
from server.store.tables.people import User
from server.store.tables.refreshes import Refresh

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
        for table in (Refresh, User):
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
