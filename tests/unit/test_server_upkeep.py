"""The gateway's upkeep: finding damage, and finishing what a crash left half done."""

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from remembered_drains import RememberedDrains
from scripted_engine import ScriptedEngine
from shelf import BASE_MODEL, Shelf

from server import erasure, leases, pointer, registry
from server.damage import Damage, ServedBase
from server.engine import Engine
from server.errors import EngineUnavailableError
from server.integrity import LEFTOVER_AGE_S
from server.leases import Leases
from server.settings import Settings
from server.store.tables.adapters import Adapter, Lease
from server.store.tables.base import now
from server.store.tables.refreshes import Refresh
from server.store.users import erase_user
from server.upkeep import Upkeep


@pytest.fixture
def jobs() -> RememberedDrains:
    return RememberedDrains()


@pytest.fixture
def damage() -> Damage:
    return Damage(ServedBase(BASE_MODEL))


@pytest.fixture
def held(shelf: Shelf, damage: Damage) -> Leases:
    return Leases(shelf.database, damage)


Work = Callable[[Upkeep], Awaitable[None]]


@pytest.fixture
def upkeep(
    shelf: Shelf,
    scripted_engine: ScriptedEngine,
    jobs: RememberedDrains,
    held: Leases,
    damage: Damage,
) -> Callable[..., Upkeep]:
    def run(work: Work, **settings: float) -> Upkeep:
        chosen = Settings(home=shelf.home).model_copy(update=settings)
        engine = Engine("http://engine", transport=scripted_engine.transport())
        made = Upkeep(chosen, shelf.database, (engine,), jobs, held, damage)

        async def worked() -> None:
            await work(made)
            await engine.close()

        asyncio.run(worked())
        return made

    return run


def test_a_flip_whose_drain_was_never_asked_for_is_finished(
    shelf: Shelf,
    upkeep: Callable[..., Upkeep],
    scripted_engine: ScriptedEngine,
    jobs: RememberedDrains,
) -> None:
    mina, wilf = shelf.user("mina"), shelf.user("wilf")
    old, new = shelf.publish(mina), shelf.publish(mina)
    calm = shelf.publish(wilf)
    for adapter in (old, new, calm):
        scripted_engine.loaded[adapter.name] = adapter.folder
    upkeep(Upkeep.tidy)
    assert jobs.drained == [mina.id]


def test_a_version_in_use_is_left_to_the_drain_that_waits_for_it(
    shelf: Shelf,
    upkeep: Callable[..., Upkeep],
    scripted_engine: ScriptedEngine,
    jobs: RememberedDrains,
) -> None:
    user = shelf.user()
    old, _ = shelf.publish(user), shelf.publish(user)
    scripted_engine.loaded[old.name] = old.folder
    with shelf.database.write() as session:
        leases.take(session, old)
    upkeep(Upkeep.tidy)
    assert jobs.drained == []


def test_erased_files_in_use_take_no_place_in_the_queue(
    shelf: Shelf, upkeep: Callable[..., Upkeep], jobs: RememberedDrains
) -> None:
    user = shelf.user()
    withdrawn = shelf.publish(user)
    with shelf.database.write() as session:
        token = leases.take(session, withdrawn)
        registry.move(session.get_one(Adapter, withdrawn.id), "withdrawn")
    assert token is not None
    upkeep(Upkeep.tidy)
    assert jobs.drained == []
    with shelf.database.write() as session:
        leases.release(session, token)
    upkeep(Upkeep.tidy)
    assert jobs.drained == [user.id]


def test_what_an_interrupted_erasure_left_is_removed_and_nothing_else(
    shelf: Shelf, upkeep: Callable[..., Upkeep], scripted_engine: ScriptedEngine
) -> None:
    gone, unknown, kept = (shelf.user(name) for name in ("gone", "unknown", "kept"))
    stray, of_nobody, stays = (shelf.publish(user) for user in (gone, unknown, kept))
    trash = shelf.adapters_dir / ".u1.0123abcd"
    trash.mkdir()
    os.utime(trash, (0, trash.stat().st_mtime - LEFTOVER_AGE_S - 1))
    work = shelf.home / "work"
    for name in ("under-way", "over"):
        (work / name).mkdir(parents=True)
        (work / name / "dataset.json").write_text("[]")
    with shelf.database.write() as session:
        session.add(Refresh(id="under-way", user_id=kept.id, method="perce", status="running"))
        erasure.begin(session, gone)
    with shelf.database.write() as session:
        erase_user(session, gone)
        # As if this store had never known the user: it may be another one's adapter.
        erase_user(session, unknown)
    scripted_engine.loaded[stray.name] = stray.folder
    scripted_engine.down = True

    async def refused(made: Upkeep) -> None:
        with pytest.raises(EngineUnavailableError):
            await made.remove_strays()

    upkeep(refused)
    assert Path(stray.folder).exists()  # an engine may hold it
    scripted_engine.down = False
    upkeep(Upkeep.remove_strays)
    assert scripted_engine.loaded == {}
    assert sorted(path.name for path in shelf.adapters_dir.iterdir()) == ["u2", "u3"]
    assert Path(of_nobody.folder).exists() and Path(stays.folder).exists()
    assert [path.name for path in work.iterdir()] == ["under-way"]


def test_a_claimed_erasure_and_a_lost_candidate_are_finished(
    shelf: Shelf, upkeep: Callable[..., Upkeep], jobs: RememberedDrains
) -> None:
    mina, wilf = shelf.user("mina"), shelf.user("wilf")
    claimed = shelf.publish(mina)
    shelf.publish(mina)
    shelf.candidate(wilf)
    with shelf.database.write() as session:
        registry.move(session.get_one(Adapter, claimed.id), "erased")
    upkeep(Upkeep.tidy)
    assert sorted(jobs.drained) == [mina.id, wilf.id]


def test_the_disk_budget_is_kept(
    shelf: Shelf, upkeep: Callable[..., Upkeep], jobs: RememberedDrains
) -> None:
    user = shelf.user()
    versions = [shelf.publish(user) for _ in range(3)]
    upkeep(Upkeep.tidy, adapters_disk_gb=2 * versions[0].size_bytes / 2**30)
    assert shelf.states(user) == ["erased", "retired", "active"]
    assert jobs.drained == [user.id]


def test_what_the_registry_does_not_know_is_unloaded(
    shelf: Shelf, upkeep: Callable[..., Upkeep], scripted_engine: ScriptedEngine
) -> None:
    user = shelf.user()
    gone, kept = shelf.publish(user), shelf.publish(shelf.user("wilf"))
    with shelf.database.write() as session:
        erase_user(session, user)
    scripted_engine.loaded = {gone.name: "x", kept.name: "y", "somebody-elses-adapter": "z"}
    upkeep(Upkeep.tidy)
    assert set(scripted_engine.loaded) == {kept.name, "somebody-elses-adapter"}


def test_an_engine_or_a_queue_that_is_away_ends_nothing(
    shelf: Shelf,
    upkeep: Callable[..., Upkeep],
    scripted_engine: ScriptedEngine,
    jobs: RememberedDrains,
) -> None:
    user = shelf.user()
    old, _ = shelf.publish(user), shelf.publish(user)
    scripted_engine.loaded[old.name] = old.folder
    scripted_engine.down = True

    async def three_rounds(made: Upkeep) -> None:
        running = asyncio.create_task(made.run())
        await asyncio.sleep(0.3)
        scripted_engine.down, jobs.away = False, True
        await asyncio.sleep(0.3)
        assert jobs.drained == [] and not running.done()
        jobs.away = False
        while not jobs.drained:
            await asyncio.sleep(0.05)
        await asyncio.sleep(0.3)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    upkeep(three_rounds, upkeep_every_s=0.05)
    # Asked for once: a drain may have to wait, and many would keep the worker busy.
    assert jobs.drained == [user.id]


def test_leases_of_running_requests_outlive_those_of_a_dead_gateway(
    shelf: Shelf, upkeep: Callable[..., Upkeep], held: Leases
) -> None:
    user = shelf.user()
    adapter = shelf.publish(user)
    leased = held.take(user, "active")
    with shelf.database.write() as session:
        session.add(Lease(id="dead", adapter_id=adapter.id, expires_at=now()))
        session.get_one(Lease, leased.token).expires_at = now()
    upkeep(Upkeep.keep_leases)
    with shelf.database.read() as session:
        assert leases.count(session, adapter.id) == 1
        assert session.get(Lease, "dead") is None
    assert leased.token is not None
    held.give_back(leased.token)
    upkeep(Upkeep.keep_leases)
    with shelf.database.read() as session:
        assert leases.count(session, adapter.id) == 0


def test_all_active_versions_are_verified_at_the_start(
    shelf: Shelf, upkeep: Callable[..., Upkeep], damage: Damage
) -> None:
    versions = [shelf.publish(shelf.user(f"user{i}")) for i in range(4)]
    (Path(versions[1].folder) / "adapter_model.safetensors").unlink()
    (Path(versions[3].folder) / "adapter_model.safetensors").write_bytes(b"WEIGHTS")
    made = upkeep(Upkeep.verify_active)
    assert (made.verified, made.finished) == (4, True)
    assert {adapter.name for adapter in damage.known} == {"u2@v1", "u4@v1"}


def test_damage_is_forgotten_when_it_is_repaired_or_rolled_back(
    shelf: Shelf, upkeep: Callable[..., Upkeep], damage: Damage
) -> None:
    mina, wilf = shelf.user("mina"), shelf.user("wilf")
    files = [
        Path(shelf.publish(user).folder) / "adapter_model.safetensors" for user in (mina, wilf)
    ]
    for file in files:
        file.write_bytes(b"WEIGHTS")
    upkeep(Upkeep.verify_active)
    assert len(damage.known) == 2
    files[0].write_bytes(b"weights")
    with shelf.database.write() as session:
        pointer.deactivate(session, wilf)
    upkeep(Upkeep.tidy)
    assert list(damage.known) == []
