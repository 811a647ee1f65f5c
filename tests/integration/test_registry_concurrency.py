"""Flips, leases and erasures that race, on the databases that they run on."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from threading import Barrier

import pytest
from sqlalchemy import select

from server import leases, pointer, registry, retention
from server.errors import ConflictError
from server.store.database import Database
from server.store.tables.adapters import Adapter, Lease
from server.store.tables.people import User
from server.store.users import add_user

THREADS = 8


@pytest.fixture
def user(database: Database) -> User:
    with database.write() as session:
        return add_user(session, "mina")[0]


def candidates(database: Database, user: User, count: int) -> list[Adapter]:
    """Versions that could become active; their files play no part here."""
    provenance = registry.Provenance("sha256:base", "perce", None)
    with database.write() as session:
        made = [
            registry.add_candidate(session, user, provenance, {}, Path("/nowhere"))
            for _ in range(count)
        ]
        for adapter in made:
            registry.attach_files(session, adapter.id, {"a.json": "0" * 64}, 2)
    return made


def at_once(works: list[Callable[[], object]]) -> list[object]:
    """Run all works in threads that start together; a conflict is an outcome like another."""
    barrier = Barrier(len(works))

    def run(work: Callable[[], object]) -> object:
        barrier.wait()
        try:
            return work()
        except ConflictError as error:
            return error

    with ThreadPoolExecutor(len(works)) as pool:
        return list(pool.map(run, works))


def states(database: Database, user: User) -> list[str]:
    with database.read() as session:
        return [adapter.state for adapter in registry.versions(session, user)][::-1]


def test_of_many_promotions_at_once_one_is_active_and_none_fails(
    database: Database, user: User
) -> None:
    made = candidates(database, user, THREADS)

    def promote(adapter: Adapter) -> bool:
        with database.write() as session:
            return pointer.promote(session, adapter.id)

    outcomes = at_once([partial(promote, adapter) for adapter in made])
    assert outcomes == [True] * THREADS
    assert sorted(states(database, user)) == ["active", *["retired"] * (THREADS - 1)]


def test_one_rollback_sent_by_many_goes_back_once(database: Database, user: User) -> None:
    for adapter in candidates(database, user, 3):
        with database.write() as session:
            pointer.promote(session, adapter.id)

    def back() -> Adapter | None:
        with database.read() as session:
            seen, target = registry.active(session, user), pointer.previous(session, user)
        barrier.wait()
        with database.write() as session:
            return pointer.rollback(session, user, target, seen)

    barrier = Barrier(THREADS)
    outcomes = at_once([back] * THREADS)
    assert states(database, user) == ["retired", "active", "retired"]
    assert sum(isinstance(outcome, Adapter) for outcome in outcomes) == 1
    assert not any(isinstance(outcome, ConflictError) for outcome in outcomes)


def test_a_version_is_leased_or_erased_and_never_both(database: Database, user: User) -> None:
    for adapter in candidates(database, user, 12):
        with database.write() as session:
            pointer.promote(session, adapter.id)
    with database.read() as session:
        retired = registry.versions(session, user, "retired")

    def lease(adapter: Adapter) -> bool:
        with database.write() as session:
            return leases.take(session, adapter) is not None

    def claim(adapter: Adapter) -> bool:
        with database.write() as session:
            return retention.claim(session, adapter.id, "test")

    for adapter in retired:
        leased, claimed = at_once([partial(lease, adapter), partial(claim, adapter)])
        assert leased is not claimed
        with database.read() as session:
            there = session.scalars(select(Lease.adapter_id)).all()
        assert (adapter.id in there) is leased


def test_two_gateways_keep_the_budget_without_erasing_too_much(
    database: Database, user: User
) -> None:
    for adapter in candidates(database, user, 9):
        with database.write() as session:
            pointer.promote(session, adapter.id)

    def sweep() -> int:
        with database.write() as session:
            return len(retention.claim_over_budget(session, 5 * 2))

    assert sum(int(str(outcome)) for outcome in at_once([sweep] * 4)) == 4
    assert states(database, user).count("erased") == 4
