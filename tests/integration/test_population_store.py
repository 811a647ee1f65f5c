"""The population in the store: its migration, members and when it is due; on both databases."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config
from population_versions import PopulationVersions
from private_postgres import PrivatePostgres
from simultaneous import at_once
from sqlalchemy import select, text, update

from perce.errors import AttuneError
from server import (
    fleets,
    permissions,
    plans,
    population,
    refreshes,
    withdrawal,
)
from server.arrangement import Capacity
from server.due import DueRule, population_due
from server.errors import (
    ReservedUserError,
    UnprocessableError,
)
from server.store import memory
from server.store.database import MIGRATIONS, Database
from server.store.memory import NewText
from server.store.tables.adapters import AdapterMember
from server.store.tables.base import now
from server.store.tables.people import User
from server.store.tables.refreshes import PlanEntry, Refresh
from server.store.users import add_user, erase_user, find_user, summarize

HOUR = timedelta(hours=1)


@pytest.fixture
def made(database: Database, tmp_path: Path) -> PopulationVersions:
    return PopulationVersions(database, tmp_path / "adapters")


@pytest.fixture(params=["sqlite", "postgresql"])
def old_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """A store of the Attune before this one, with a user and an adapter version."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path / 'old.db'}"
    else:
        postgres: PrivatePostgres = request.getfixturevalue("postgres")
        url = postgres.new_database(f"old-{tmp_path.name}")
    database = Database(url)
    database.migrate(tmp_path, to="0004")
    with database.engine.begin() as connection:
        connection.execute(
            text(
                "INSERT INTO users (name, consent, memory_version, text_count, new_texts,"
                " failures, created_at)"
                " VALUES ('mina', true, 0, 0, 0, 0, '2026-01-01 00:00:00')"
            )
        )
        connection.execute(
            text(
                "INSERT INTO adapters (user_id, version, state, folder, base_model, method,"
                " checksums, metrics, reason, trained_position, created_at)"
                " VALUES (1, 1, 'active', '/a', 'sha256:base', 'perce', '{}', '{}', '', 0,"
                " '2026-01-02 00:00:00')"
            )
        )
    yield database
    database.close()


def downgrade(database: Database, to: str) -> None:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    with database.engine.execution_options(attune_write=True).begin() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, to)


def leave(database: Database, user: User) -> set[int]:
    with database.write() as session:
        return withdrawal.leave(session, user.id)


def test_an_older_store_with_users_gets_a_population(old_store: Database, tmp_path: Path) -> None:
    old_store.migrate(tmp_path)
    made = PopulationVersions(old_store, tmp_path / "adapters")
    made.owner()
    downgrade(old_store, "0004")
    with old_store.engine.connect() as connection:
        assert connection.execute(text("SELECT name FROM users")).scalars().all() == ["mina"]
    old_store.migrate(tmp_path)
    mina = made.read("mina")
    assert (mina.kind, mina.consent, mina.shares, mina.unlearnt_at) == ("person", True, False, None)
    with old_store.write() as session:
        permissions.change(session, mina, shares=True)
        assert [user.name for user in population.sharing(session)] == ["mina"]
    shared = made.shared(mina)
    child = made.publish(mina, parent=shared)
    assert made.states(mina) == ["retired", "active"]
    assert leave(old_store, mina) == {mina.id, made.owner().id}
    assert made.states(mina) == ["retired", "withdrawn"]
    assert Path(child.folder).is_dir()


def test_the_population_is_made_once_and_is_no_person(
    database: Database, made: PopulationVersions
) -> None:
    def ensure() -> int:
        with database.write() as session:
            return population.ensure(session).id

    assert len(set(at_once([ensure] * 6))) == 1
    mina = made.person("mina")
    with database.read() as session:
        owner = population.find(session)
        assert owner is not None and population.is_population(owner)
        assert not population.is_population(mina)
        assert [user.name for user in summarize(session)] == ["mina"]
        with pytest.raises(ReservedUserError):
            find_user(session, population.NAME)
    for name in (population.NAME, f" {population.NAME}", "@Population", "@x"):
        with pytest.raises(AttuneError), database.write() as session:
            add_user(session, name)


def test_only_those_who_share_and_consent_are_members(
    database: Database, made: PopulationVersions
) -> None:
    mina, wilf, iris = (made.person(name) for name in ("mina", "wilf", "iris"))
    made.person("otto", shares=False)
    with pytest.raises(UnprocessableError, match="consent first"), database.write() as session:
        add_user(session, "zoe", consent=False, shares=True)
    with database.write() as session:
        permissions.change(session, wilf, consent=False)
    assert not made.read("wilf").shares
    with pytest.raises(UnprocessableError), database.write() as session:
        permissions.change(session, wilf, shares=True)
    with database.write() as session:
        permissions.change(session, wilf, consent=True)
        erase_user(session, iris)
        assert [user.name for user in population.sharing(session)] == ["mina"]
        assert population.left(session, [iris.id, wilf.id, mina.id]) == [wilf.id, iris.id]
    shared = made.candidate(made.owner(), members=[mina])
    with database.write() as session:
        population.record_members(session, shared.id, [wilf.id, mina.id])
        rows = session.scalars(select(AdapterMember.user_id).order_by(AdapterMember.user_id))
        assert rows.all() == [mina.id, wilf.id]


def test_a_refresh_of_the_population_needs_two_who_share(
    database: Database, made: PopulationVersions
) -> None:
    made.person("mina")
    made.person("otto", shares=False)
    made.person("iris", texts=3)
    owner = made.owner()
    with (
        pytest.raises(UnprocessableError, match=r"has 1: .* users share NAME"),
        database.write() as session,
    ):
        refreshes.open_refresh(session, owner, "perce")
    made.person("wilf")
    with database.write() as session:
        assert refreshes.open_refresh(session, owner, "perce").user_id == owner.id


def test_the_population_is_due_with_a_tenth_of_new_texts(
    database: Database, made: PopulationVersions
) -> None:
    rule = DueRule(min_new_texts=10, quiet_minutes=0, min_gap_hours=8)

    def due(most: int = 2000) -> int | None:
        with database.write() as session:
            found = population_due(session, rule, now(), most)
        return None if found is None else found.text_count

    mina = made.person("mina", texts=100)
    made.person("otto", texts=90, shares=False)
    assert due() is None  # nobody else shares
    made.person("wilf", texts=100)
    assert (due(), due(150)) == (200, 150)
    made.shared(mina)
    assert due() is None
    for count, expected in ((21, None), (2, 223)):
        with database.write() as session:
            at = memory.texts(session, mina)[-1].position + 1
            rows = [NewText("q", f"more {at + i}", at + i) for i in range(count)]
            memory.add_texts(session, mina, rows)
        assert due() == expected
    with database.write() as session:
        refreshes.open_refresh(session, made.owner(), "perce")
    assert due() is None
    with database.write() as session:
        session.execute(update(Refresh).values(status="failed", finished_at=now()))
        session.execute(update(User).values(last_refresh_at=now() - HOUR))
    assert due() is None
    with database.write() as session:
        session.execute(update(User).values(last_refresh_at=now() - 9 * HOUR))
    assert due() == 223


def test_a_night_trains_the_population_behind_the_users_and_alone(
    database: Database, made: PopulationVersions
) -> None:
    for name in ("mina", "wilf", "iris"):
        made.person(name, texts=20)
    at = now()
    plan_id = plans.make_plan(database, "night-1", DueRule(), Capacity(fleet_size=4), at)
    with database.read() as session:
        rows = [(entry.fleet, name) for entry, name in plans.entries(session, plan_id)]
    assert sorted(rows[:-1]) == [(1, "iris"), (1, "mina"), (1, "wilf")]
    assert rows[-1] == (2, population.NAME)
    opened = fleets.open_fleets(database, plan_id, 1, 2)
    assert [(workflow, len(ids)) for workflow, ids in opened] == [
        ("night-1-fleet-1", 3),
        ("night-1-fleet-2", 1),
    ]
    with database.read() as session:
        refresh = session.get_one(Refresh, opened[1][1][0])
    assert (refresh.user_id, refresh.origin) == (made.owner().id, "nightly")


def test_a_night_too_short_for_the_population_carries_it_over_to_the_front(
    database: Database, made: PopulationVersions
) -> None:
    made.person("mina", texts=20)
    made.person("wilf", texts=20)
    at = now()
    plans.make_plan(database, "night-1", DueRule(), Capacity(window_s=1.0), at)
    made.person("iris", texts=300)
    later = at + 24 * HOUR
    plan_id = plans.make_plan(database, "night-2", DueRule(), Capacity(), later)
    with database.read() as session:
        names = [name for _, name in plans.entries(session, plan_id)]
        planned = session.scalars(select(PlanEntry.state)).all()
    assert set(names[:2]) == {"wilf", population.NAME} or names[:2] == ["mina", population.NAME]
    assert names.index(population.NAME) == 1 and planned.count("carried over") == 2
