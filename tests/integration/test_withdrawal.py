"""Leaving the population: what is withdrawn, and what races with it; on SQLite and PostgreSQL."""

from functools import partial
from pathlib import Path

import pytest
from population_versions import PopulationVersions
from simultaneous import at_once
from sqlalchemy import func, select

from server import (
    adapter_store,
    leases,
    permissions,
    pointer,
    population,
    refreshes,
    registry,
    withdrawal,
)
from server.due import DueRule, due_users
from server.errors import (
    ConflictError,
    UnknownUserError,
)
from server.store import counters
from server.store.database import Database
from server.store.tables.adapters import Adapter, Lease
from server.store.tables.base import now
from server.store.tables.people import AuditEntry, User
from server.store.tables.refreshes import Refresh
from server.store.users import erase_user, find_user


@pytest.fixture
def made(database: Database, tmp_path: Path) -> PopulationVersions:
    return PopulationVersions(database, tmp_path / "adapters")


def leave(database: Database, user: User) -> set[int]:
    with database.write() as session:
        return withdrawal.leave(session, user.id)


def test_leaving_withdraws_all_that_descends_and_nothing_else(
    database: Database, made: PopulationVersions
) -> None:
    mina, wilf, iris, otto = (made.person(name) for name in ("mina", "wilf", "iris", "otto"))
    own = made.publish(otto)
    first = made.shared(mina, wilf)
    of_mina, of_iris = made.publish(mina, first), made.publish(iris, first)
    made.publish(iris, of_iris)
    made.candidate(iris, of_iris)
    made.publish(otto, own)
    second = made.shared(wilf)
    made.publish(wilf, second)
    with database.write() as session:
        for user in (iris, otto):
            counters.recount(session, user.id)
    assert [made.read(name).new_texts for name in ("iris", "otto")] == [0, 0]
    assert leave(database, mina) == {mina.id, iris.id, made.owner().id}
    assert made.states(made.owner()) == ["withdrawn", "active"]
    assert made.states(mina) == ["withdrawn"]
    assert made.states(iris) == ["withdrawn"] * 3
    assert (made.states(otto), made.states(wilf)) == (["retired", "active"], ["active"])
    assert [made.read(name).new_texts for name in ("mina", "iris", "otto")] == [10, 10, 0]
    with database.read() as session:
        answers = leases.choose(session, iris, "active")
        assert answers is not None and answers.id == second.id
        entries = session.scalars(select(AuditEntry).where(AuditEntry.action == "withdraw")).all()
    assert {entry.subject for entry in entries} == {
        first.name,
        of_mina.name,
        *(f"u{iris.id}@v{n}" for n in (1, 2, 3)),
    }
    assert all(set(entry.counts) == {"bytes"} for entry in entries)


def test_leaving_twice_changes_nothing_more(database: Database, made: PopulationVersions) -> None:
    mina, wilf = made.person("mina"), made.person("wilf")
    made.publish(wilf, made.shared(mina, wilf))
    assert leave(database, mina) == {wilf.id, made.owner().id}
    with database.read() as session:
        before = session.scalar(select(func.count(AuditEntry.id)))
    assert leave(database, mina) == set()
    with database.read() as session:
        assert session.scalar(select(func.count(AuditEntry.id))) == before
    assert made.states(wilf) == ["withdrawn"]


def test_descent_goes_on_through_what_was_erased_and_spares_verdicts(
    database: Database, made: PopulationVersions
) -> None:
    mina, wilf = made.person("mina"), made.person("wilf")
    shared = made.shared(mina)
    child = made.publish(wilf, shared)
    rejected = made.candidate(wilf, child)
    made.publish(made.owner(), members=[wilf])
    with database.write() as session:
        registry.reject(session, rejected, "no better")
        registry.move(session.get_one(Adapter, shared.id), "erased")
    assert leave(database, mina) == {wilf.id}
    assert made.states(wilf) == ["withdrawn", "rejected"]
    assert made.states(made.owner()) == ["erased", "active"]


def test_who_lost_a_version_stays_due_until_the_next_one(
    database: Database, made: PopulationVersions
) -> None:
    mina, wilf = made.person("mina"), made.person("wilf", texts=12)
    made.publish(wilf)
    made.publish(wilf, made.shared(mina))
    leave(database, mina)
    with database.write() as session:
        counters.refresh_ended(session, wilf.id)
    assert made.read("wilf").new_texts == 12
    with database.read() as session:
        rule = DueRule(min_gap_hours=0)
        assert [one.id for one in due_users(session, rule, now())] == [mina.id, wilf.id]
    made.publish(wilf)
    with database.write() as session:
        counters.recount(session, wilf.id)
    assert made.read("wilf").new_texts == 0


@pytest.mark.parametrize("status", ["queued", "running"])
def test_what_the_population_learns_now_is_given_up_by_who_is_in_it(
    database: Database, made: PopulationVersions, status: str
) -> None:
    mina, iris = made.person("mina"), made.person("iris", shares=False)
    made.person("wilf")
    with database.write() as session:
        opened = refreshes.open_refresh(session, made.owner(), "perce")
        refreshes.advance(session, opened.id, status=status)
    leave(database, iris)
    with database.read() as session:
        assert session.get_one(Refresh, opened.id).status == status
    leave(database, mina)
    with database.read() as session:
        refresh = session.get_one(Refresh, opened.id)
    assert refresh.cancel_requested and "left the population" in (refresh.reason or "")
    assert refresh.status == ("cancelled" if status == "queued" else "running")


def test_without_consent_what_is_learnt_from_the_user_stops(
    database: Database, made: PopulationVersions
) -> None:
    mina = made.person("mina", shares=False)
    with database.write() as session:
        opened = refreshes.open_refresh(session, mina, "perce")
        permissions.change(session, mina, consent=False)
    with database.read() as session:
        assert session.get_one(Refresh, opened.id).status == "cancelled"


def test_no_lease_is_taken_on_a_withdrawn_version_and_no_files_are_kept(
    database: Database, made: PopulationVersions
) -> None:
    mina, wilf = made.person("mina"), made.person("wilf")
    child = made.publish(wilf, made.shared(mina))
    leave(database, mina)
    with database.write() as session:
        assert leases.take(session, child) is None
        assert leases.choose(session, wilf, "active") is None
        assert not registry.attach_files(session, child.id, {"a.json": "0"}, 2)
        with pytest.raises(ConflictError, match="withdrawn"):
            pointer.activate(session, child)


def test_children_that_are_published_meanwhile_are_withdrawn_too(
    database: Database, made: PopulationVersions
) -> None:
    mina = made.person("mina")
    people = [made.person(f"user{n}", texts=0) for n in range(6)]
    shared = made.shared(mina)

    def publish(user: User, rounds: int = 5) -> int:
        """As a refresh does it: each version goes on from the one before."""
        parent_id = shared.id
        for number in range(rounds):
            with database.write() as session:
                population.turn(session)
                parent = registry.fresh(session, Adapter.id == parent_id)
                if parent is None or parent.state == "withdrawn":
                    return number
                provenance = registry.Provenance("sha256:base", "perce", parent_id)
                child = registry.add_candidate(session, user, provenance, {}, Path("/nowhere"))
                registry.attach_files(session, child.id, {"a.json": "0" * 64}, 2)
                parent_id = child.id
            try:
                with database.write() as session:
                    pointer.promote(session, child.id)
            except ConflictError:
                return number + 1
        return rounds

    at_once([*(partial(publish, user) for user in people), partial(leave, database, mina)])
    states = [state for user in people for state in made.states(user)]
    assert set(states) <= {"withdrawn"}
    assert made.states(made.owner()) == ["withdrawn"]


def test_two_who_leave_at_once_do_not_block_each_other(
    database: Database, made: PopulationVersions
) -> None:
    people = [made.person(f"user{n}") for n in range(6)]
    shared = made.shared(*people)
    for user in people:
        made.publish(user, shared)
    outcomes = at_once([partial(leave, database, user) for user in people])
    everybody = {made.owner().id, *(user.id for user in people)}
    assert sorted(map(str, outcomes)) == sorted(map(str, [everybody, *[set()] * 5]))


def test_a_version_is_leased_before_it_is_withdrawn_or_not_at_all(
    database: Database, made: PopulationVersions
) -> None:
    people = [made.person(f"user{n}") for n in range(6)]
    for mina in people:
        shared = made.shared(mina)

        def lease(adapter: Adapter = shared) -> str | None:
            with database.write() as session:
                token = leases.take(session, adapter)
                state = registry.fresh(session, Adapter.id == adapter.id)
                assert token is None or (state is not None and state.state != "withdrawn")
                return token

        token, lost = at_once([lease, partial(leave, database, mina)])
        assert lost == {made.owner().id}
        with database.read() as session:
            held = session.scalars(select(Lease.id).where(Lease.adapter_id == shared.id)).all()
        assert list(held) == ([] if token is None else [token])


def test_erasing_a_member_leaves_no_version_that_learnt_from_them(
    database: Database, made: PopulationVersions
) -> None:
    mina, wilf = made.person("mina"), made.person("wilf")
    made.publish(mina, made.shared(mina, wilf))
    with database.write() as session:
        withdrawal.leave(session, mina.id)
    with database.write() as session:
        erase_user(session, mina)
        assert population.left(session, [mina.id, wilf.id]) == [mina.id]
        with pytest.raises(UnknownUserError):
            find_user(session, "mina")
    assert made.states(made.owner()) == ["withdrawn"]


def test_files_that_two_delete_at_once_are_gone_and_nobody_fails(tmp_path: Path) -> None:
    for number in range(10):
        folder = tmp_path / str(number) / "v1"
        folder.mkdir(parents=True)
        (folder / "adapter_config.json").write_text("{}")
        assert at_once([partial(adapter_store.delete, folder)] * 4) == [None] * 4
        assert not folder.exists()
