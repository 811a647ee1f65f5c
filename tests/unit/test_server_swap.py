"""The swap on two scripted engines: warm, drain, erase, what a crash leaves, the disk budget."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest
from scripted_engine import ScriptedEngine
from shelf import Shelf
from sqlalchemy import select

from perce.tokens import ChatTokenizer
from server import leases, pointer, retention, swap
from server.adapter_store import DamagedAdapterError
from server.engine import Engine
from server.errors import EngineAsleepError, EngineUnavailableError
from server.naps import note_nap
from server.store.tables.adapters import Adapter
from server.store.tables.base import now
from server.store.tables.people import AuditEntry, User
from server.store.tables.refreshes import Refresh


@dataclass
class Engines:
    """Two engines, and what to do with clients of them."""

    first: ScriptedEngine
    second: ScriptedEngine

    def run(self, action: Callable[[Sequence[Engine]], Awaitable[None]]) -> None:
        async def connected() -> None:
            engines = [
                Engine("http://engine", transport=each.transport())
                for each in (self.first, self.second)
            ]
            await action(engines)
            for engine in engines:
                await engine.close()

        asyncio.run(connected())

    def hold(self, *adapters: Adapter) -> None:
        for engine in (self.first, self.second):
            engine.loaded |= {adapter.name: adapter.folder for adapter in adapters}


@pytest.fixture
def engines(reference_tokenizer: ChatTokenizer) -> Engines:
    return Engines(ScriptedEngine(reference_tokenizer), ScriptedEngine(reference_tokenizer))


@pytest.fixture
def drain(shelf: Shelf, engines: Engines) -> Callable[..., None]:
    def drained(user: User, keep: int = 5) -> None:
        engines.run(lambda clients: swap.drain(shelf.database, clients, user.id, keep))

    return drained


def files(adapter: Adapter) -> bool:
    return Path(adapter.folder).exists()


def test_warm_loads_and_tries_on_every_engine(shelf: Shelf, engines: Engines) -> None:
    adapter = shelf.candidate(shelf.user())
    engines.run(lambda clients: swap.warm(shelf.database, clients, adapter))
    for engine in (engines.first, engines.second):
        assert engine.loaded == {adapter.name: adapter.folder}
        assert engine.bodies("/v1/completions")[0]["model"] == adapter.name


def test_warm_fails_where_one_engine_does(shelf: Shelf, engines: Engines) -> None:
    adapter = shelf.candidate(shelf.user())
    engines.first.down = True
    with pytest.raises(EngineUnavailableError):
        engines.run(lambda clients: swap.warm(shelf.database, clients, adapter))
    assert engines.second.bodies("/v1/completions")  # to its end, not dropped on the way
    engines.first.down = False
    engines.run(lambda clients: swap.warm(shelf.database, clients, adapter))
    assert set(engines.first.loaded) == set(engines.second.loaded) == {adapter.name}


def test_warm_never_shows_an_engine_a_damaged_version(shelf: Shelf, engines: Engines) -> None:
    adapter = shelf.candidate(shelf.user())
    (Path(adapter.folder) / "adapter_model.safetensors").write_bytes(b"damaged")
    with pytest.raises(DamagedAdapterError):
        engines.run(lambda clients: swap.warm(shelf.database, clients, adapter))
    assert engines.first.requests == engines.second.requests == []


@pytest.mark.parametrize("expected_in_s", [30, -30])
def test_engines_that_sleep_load_nothing_and_unload_all_the_same(
    shelf: Shelf, engines: Engines, drain: Callable[..., None], expected_in_s: float
) -> None:
    user = shelf.user()
    old, new = shelf.publish(user), shelf.publish(user)
    engines.hold(old)
    with shelf.database.write() as session:
        note_nap(session, ["http://engine"], "w", now() + timedelta(seconds=expected_in_s))
    with pytest.raises(EngineAsleepError):
        engines.run(lambda clients: swap.warm(shelf.database, clients, new))
    assert engines.first.requests == engines.second.requests == []
    drain(user, keep=0)
    assert engines.first.loaded == engines.second.loaded == {}
    assert not files(old)


def test_drain_waits_for_the_last_request_and_spares_the_active_version(
    shelf: Shelf, engines: Engines
) -> None:
    user = shelf.user()
    old, new = shelf.publish(user), shelf.publish(user)
    engines.hold(old, new)
    with shelf.database.write() as session:
        token = leases.take(session, old)
    assert token is not None

    async def while_in_use(clients: Sequence[Engine]) -> None:
        draining = asyncio.create_task(swap.drain(shelf.database, clients, user.id, keep=5))
        await asyncio.sleep(0.5)
        assert old.name in engines.first.loaded and not draining.done()
        with shelf.database.write() as session:
            leases.release(session, token)
        await draining

    engines.run(while_in_use)
    for engine in (engines.first, engines.second):
        assert set(engine.loaded) == {new.name}
    assert files(old)


def test_a_drain_gives_up_on_what_stays_in_use_and_does_the_rest(
    shelf: Shelf, engines: Engines
) -> None:
    user = shelf.user()
    versions = [shelf.publish(user) for _ in range(4)]
    engines.hold(*versions)
    with shelf.database.write() as session:
        leases.take(session, versions[0])

    async def impatient(clients: Sequence[Engine]) -> None:
        await swap.drain(shelf.database, clients, user.id, keep=1, patience_s=0.3)

    with pytest.raises(swap.AdapterInUseError, match="u1@v1"):
        engines.run(impatient)
    assert set(engines.first.loaded) == {"u1@v1", "u1@v4"}
    assert shelf.states(user) == ["retired", "erased", "retired", "active"]
    assert [files(version) for version in versions] == [True, False, True, True]


def test_the_audit_says_why_files_went(shelf: Shelf, drain: Callable[..., None]) -> None:
    user = shelf.user()
    shelf.publish(user)
    shelf.publish(user)
    shelf.candidate(user)
    drain(user, keep=0)
    with shelf.database.read() as session:
        entries = session.scalars(select(AuditEntry).order_by(AuditEntry.subject)).all()
    assert [(entry.subject, entry.counts["why"]) for entry in entries] == [
        ("u1@v1", "beyond the kept versions"),
        ("u1@v3", "its refresh ended before it became active"),
    ]


def test_an_engine_that_is_down_stops_nothing_on_the_other(
    shelf: Shelf, engines: Engines, drain: Callable[..., None]
) -> None:
    user = shelf.user()
    versions = [shelf.publish(user) for _ in range(3)]
    engines.hold(*versions)
    engines.first.down = True
    with pytest.raises(EngineUnavailableError):
        drain(user, keep=1)
    assert set(engines.second.loaded) == {"u1@v3"}
    # What the first engine may still hold keeps its files: it would die looking for them.
    assert files(versions[0]) and shelf.read(versions[0]).erased_at is None
    engines.first.down = False
    drain(user, keep=1)
    assert set(engines.first.loaded) == {"u1@v3"}
    assert not files(versions[0]) and shelf.read(versions[0]).erased_at is not None


def test_versions_beyond_the_kept_ones_go_and_their_rows_stay(
    shelf: Shelf, drain: Callable[..., None]
) -> None:
    user = shelf.user()
    versions = [shelf.publish(user) for _ in range(4)]
    drain(user, keep=2)
    assert shelf.states(user) == ["erased", "retired", "retired", "active"]
    assert [files(version) for version in versions] == [False, True, True, True]
    assert shelf.read(versions[0]).erased_at is not None
    assert shelf.read(versions[0]).checksums == versions[0].checksums
    with shelf.database.read() as session:
        entry = session.scalars(select(AuditEntry)).one()
    assert (entry.action, entry.subject) == ("erase adapter", "u1@v1")


def test_a_version_that_was_rolled_back_to_is_never_surplus(
    shelf: Shelf, drain: Callable[..., None]
) -> None:
    user = shelf.user()
    first = shelf.publish(user)
    for _ in range(3):
        shelf.publish(user)
    with shelf.database.write() as session:
        pointer.rollback(session, user, first, None)
    drain(user, keep=1)
    assert shelf.states(user) == ["active", "erased", "erased", "retired"]
    assert files(first)


def test_a_version_in_use_cannot_be_claimed_and_a_claimed_one_not_used(shelf: Shelf) -> None:
    user = shelf.user()
    old = shelf.publish(user)
    shelf.publish(user)
    with shelf.database.write() as session:
        token = leases.take(session, old)
        assert token is not None
    with shelf.database.write() as session:
        assert not retention.claim(session, old.id, "test")
        leases.release(session, token)
    with shelf.database.write() as session:
        assert retention.claim(session, old.id, "test")
    with shelf.database.write() as session:
        assert leases.take(session, old) is None


def test_candidates_go_when_their_refresh_is_over(
    shelf: Shelf, engines: Engines, drain: Callable[..., None]
) -> None:
    user = shelf.user()
    under_way, abandoned = shelf.candidate(user), shelf.candidate(user)
    engines.hold(under_way, abandoned)
    with shelf.database.write() as session:
        for adapter, status in ((under_way, "running"), (abandoned, "failed")):
            session.add(
                Refresh(
                    id=adapter.name,
                    user_id=user.id,
                    method="perce",
                    status=status,
                    adapter_id=adapter.id,
                )
            )
    drain(user)
    assert shelf.states(user) == ["candidate", "erased"]
    assert (files(under_way), files(abandoned)) == (True, False)
    assert set(engines.first.loaded) == {under_way.name}


def test_the_budget_takes_the_oldest_first_and_the_only_way_back_last(shelf: Shelf) -> None:
    mina, wilf = shelf.user("mina"), shelf.user("wilf")
    size = len(b"weights") + len("{}")
    for user in (wilf, mina, mina, mina, wilf):
        shelf.publish(user)  # retired, oldest first: u2@v1, u1@v1, u1@v2

    def claimed(budget: int) -> list[str]:
        with shelf.database.write() as session:
            ids = retention.claim_over_budget(session, budget)
            return [session.get_one(Adapter, one).name for one in ids]

    assert claimed(5 * size) == []
    assert claimed(4 * size) == ["u1@v1"]
    assert claimed(2 * size) == ["u2@v1", "u1@v2"]
    assert claimed(size) == []  # active versions never go, whatever the budget
    assert shelf.states(mina) == ["erased", "erased", "active"]
    assert shelf.states(wilf) == ["erased", "active"]


def test_the_budget_passes_over_what_is_in_use(shelf: Shelf) -> None:
    user = shelf.user()
    versions = [shelf.publish(user) for _ in range(3)]
    with shelf.database.write() as session:
        leases.take(session, versions[0])
    with shelf.database.write() as session:
        assert retention.claim_over_budget(session, versions[0].size_bytes) == [versions[1].id]
