"""Leaving the population at the gateway: what is withdrawn, and how its files go."""

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from gateway_calls import HELLO
from population_versions import PopulationVersions
from remembered_drains import RememberedDrains
from running_stack import wait_until
from scripted_engine import ScriptedEngine
from sqlalchemy import select

from server import leases, swap
from server.engine import Engine
from server.errors import EngineUnavailableError
from server.integrity import Integrity
from server.services import Services
from server.store.tables.adapters import Adapter
from server.store.tables.people import ApiKey, Conversation, Fact, Interaction, UserText
from server.store.tables.refreshes import Refresh
from server.upkeep import Upkeep

SHARES = {"shares": True}


@pytest.fixture
def made(gateway: TestClient, services: Services) -> PopulationVersions:
    """Makes versions in the gateway's store; the gateway has migrated it."""
    base = services.damage.base.fingerprint
    return PopulationVersions(services.database, services.settings.adapters_dir(), base)


@pytest.fixture
def engine(scripted_engine: ScriptedEngine) -> Iterator[Engine]:
    client = Engine("http://engine", transport=scripted_engine.transport())
    yield client
    asyncio.run(client.close())


def own(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def files(*adapters: Adapter) -> list[bool]:
    return [Path(adapter.folder).exists() for adapter in adapters]


def drain(services: Services, engine: Engine, user_id: int) -> None:
    asyncio.run(swap.drain(services.database, (engine,), user_id, keep=5))


@pytest.mark.parametrize("change", [{"shares": False}, {"consent": False}])
def test_taking_sharing_back_takes_what_was_learnt_at_once(
    gateway: TestClient,
    mina: str,
    made: PopulationVersions,
    services: Services,
    scripted_engine: ScriptedEngine,
    engine: Engine,
    change: dict[str, bool],
) -> None:
    gateway.patch("/v1/users/mina", json=SHARES)
    user, wilf, otto = made.read("mina"), made.person("wilf"), made.person("otto", shares=False)
    spared = made.shared(wilf)
    shared = made.shared(wilf, user)
    derived = made.publish(otto, shared)
    scripted_engine.loaded |= {one.name: one.folder for one in (spared, shared, derived)}
    scripted_engine.replies = ["hello"] * 3
    body = {"user": "otto", "messages": HELLO}
    answer = gateway.post("/v1/chat/completions", json=body).json()
    assert answer["personalization"]["adapter"] == "v1"
    for _ in range(2):  # whoever is unsure does it again
        assert gateway.patch("/v1/users/mina", json=change).status_code == 200
        answer = gateway.post("/v1/chat/completions", json=body).json()
        assert answer["personalization"]["adapter"] is None
    listed = gateway.get("/v1/users/otto/adapters").json()
    assert [(one["version"], one["state"]) for one in listed["data"]] == [("v1", "withdrawn")]
    for label in ("v1", "none"):
        answer = gateway.post("/v1/users/otto/adapters/rollback", json={"to": label})
        assert answer.status_code == (404 if label == "v1" else 200)
    owner = made.owner()
    refused = gateway.post("/v1/users/@population/adapters/rollback", json={"to": "v2"})
    assert refused.status_code == 404
    answer = gateway.post("/v1/users/@population/adapters/rollback", json={"to": "v1"}).json()
    assert answer["active"] == "v1"
    assert files(spared, shared, derived) == [True, True, True]
    for user_id in (owner.id, otto.id):
        drain(services, engine, user_id)
    assert files(spared, shared, derived) == [True, False, False]
    assert set(scripted_engine.loaded) == {spared.name}


def test_erasing_a_user_erases_what_everybody_learnt_from_them(
    gateway: TestClient,
    mina: str,
    made: PopulationVersions,
    scripted_engine: ScriptedEngine,
) -> None:
    gateway.patch("/v1/users/mina", json=SHARES)
    user, otto = made.read("mina"), made.person("otto", shares=False)
    shared = made.shared(user, made.person("wilf"))
    derived, of_mina = made.publish(otto, shared), made.publish(user, shared)
    fresh = made.publish(made.person("iris"))
    scripted_engine.loaded |= {one.name: one.folder for one in (shared, derived, of_mina, fresh)}
    scripted_engine.down = True
    assert gateway.delete("/v1/users/mina").status_code == 503
    # Nothing is served any more, but an engine may hold it yet: files and rows stay.
    assert made.states(otto) == ["withdrawn"] and all(files(shared, derived, of_mina))
    assert gateway.get("/v1/users/mina").status_code == 200
    assert gateway.get("/v1/users/mina", headers=own(mina)).status_code == 401
    assert gateway.delete("/v1/users/mina").status_code == 503
    scripted_engine.down = False
    assert gateway.delete("/v1/users/mina").json()["name"] == "mina"
    assert files(shared, derived, of_mina, fresh) == [False, False, False, True]
    assert set(scripted_engine.loaded) == {fresh.name}
    assert gateway.delete("/v1/users/mina").status_code == 404
    rows = gateway.get("/v1/users/otto/adapters").json()["data"]
    assert rows[0]["state"] == "withdrawn" and rows[0]["erased_at"] is not None
    found = gateway.post("/v1/adapters/verify", json={}).json()
    assert found["findings"] == []


def test_erasing_somebody_who_never_shared_touches_nobody_else(
    gateway: TestClient, mina: str, made: PopulationVersions
) -> None:
    shared = made.shared(made.person("wilf"))
    made.publish(made.read("mina"), shared)
    assert gateway.delete("/v1/users/mina").status_code == 200
    assert made.states(made.owner()) == ["active"] and all(files(shared))


def test_a_running_request_keeps_a_withdrawn_version_until_it_ends(
    gateway: TestClient,
    mina: str,
    made: PopulationVersions,
    services: Services,
    scripted_engine: ScriptedEngine,
    engine: Engine,
) -> None:
    gateway.patch("/v1/users/mina", json=SHARES)
    shared = made.shared(made.read("mina"))
    scripted_engine.loaded[shared.name] = shared.folder
    with services.database.write() as session:
        token = leases.take(session, shared)
    assert token is not None
    gateway.patch("/v1/users/mina", json={"shares": False})

    async def while_in_use() -> None:
        draining = asyncio.create_task(
            swap.drain(services.database, (engine,), made.owner().id, keep=5)
        )
        await asyncio.sleep(0.5)
        assert shared.name in scripted_engine.loaded and files(shared) == [True]
        with services.database.write() as session:
            leases.release(session, token)
        await draining

    asyncio.run(while_in_use())
    assert scripted_engine.loaded == {} and files(shared) == [False]


def test_upkeep_finishes_a_withdrawal_whose_drains_were_never_asked_for(
    gateway: TestClient,
    mina: str,
    made: PopulationVersions,
    services: Services,
    scripted_engine: ScriptedEngine,
    engine: Engine,
) -> None:
    gateway.patch("/v1/users/mina", json=SHARES)
    otto = made.person("otto", shares=False)
    shared = made.shared(made.read("mina"))
    derived = made.publish(otto, shared)
    scripted_engine.loaded[shared.name] = shared.folder
    # The worker is away: nobody is told of the drains.
    assert gateway.patch("/v1/users/mina", json={"shares": False}).status_code == 200
    integrity = Integrity(services.database, services.settings.adapters_dir(), made.base_model)
    assert [one.problem for one in integrity.of_user(otto)] == ["unfinished"]
    jobs = RememberedDrains()
    upkeep = Upkeep(
        services.settings, services.database, (engine,), jobs, services.leases, services.damage
    )
    asyncio.run(upkeep.tidy())
    assert sorted(jobs.drained) == sorted({made.owner().id, otto.id})
    scripted_engine.down = True
    for user_id in jobs.drained:
        with pytest.raises(EngineUnavailableError):
            drain(services, engine, user_id)
    assert files(shared, derived) == [True, True]
    scripted_engine.down = False
    for user_id in jobs.drained:
        drain(services, engine, user_id)
    assert files(shared, derived) == [False, False] and scripted_engine.loaded == {}
    assert integrity.of_user(otto) == integrity.of_user(made.owner()) == []


def test_files_that_a_refresh_places_after_the_drain_go_by_the_next_one(
    gateway: TestClient,
    mina: str,
    made: PopulationVersions,
    services: Services,
    engine: Engine,
) -> None:
    gateway.patch("/v1/users/mina", json=SHARES)
    candidate = made.candidate(made.owner(), members=[made.read("mina")])
    with services.database.write() as session:
        session.add(
            Refresh(
                id="r1",
                user_id=made.owner().id,
                method="perce",
                status="running",
                stage="publish",
                adapter_id=candidate.id,
            )
        )
    gateway.patch("/v1/users/mina", json={"shares": False})
    drain(services, engine, made.owner().id)
    assert files(candidate) == [False]
    Path(candidate.folder).mkdir()  # the worker's copy arrives
    with services.database.write() as session:
        refresh = session.get_one(Refresh, "r1")
        assert refresh.cancel_requested
        refresh.status = "cancelled"
    drain(services, engine, made.owner().id)
    assert files(candidate) == [False]
    listed = gateway.get("/v1/users/@population/adapters").json()["data"]
    assert listed[0]["erased_at"] is not None


def test_erasing_deletes_texts_at_once_and_files_when_the_reply_has_ended(
    gateway: TestClient, mina: str, made: PopulationVersions, services: Services
) -> None:
    user = made.read("mina")
    version = made.publish(user)
    with services.database.write() as session:
        token = leases.take(session, version)
        session.add(Refresh(id="r1", user_id=user.id, method="perce", status="running"))
    assert token is not None
    work = services.settings.home / "work" / "r1"
    work.mkdir(parents=True)
    (work / "dataset.json").write_text("[]")

    def content() -> int:
        tables = (Fact, UserText, Conversation, Interaction, ApiKey)
        with services.database.read() as session:
            rows = [session.scalars(select(t).where(t.user_id == user.id)).all() for t in tables]
        return sum(map(len, rows))

    assert content() == 10
    with ThreadPoolExecutor(1) as pool:
        erasing = pool.submit(gateway.delete, "/v1/users/mina")
        wait_until(lambda: content() == 0 and not work.exists(), 30)
        with services.database.read() as session:
            assert session.get_one(Refresh, "r1").cancel_requested
        assert not erasing.done() and files(version) == [True]
        assert made.states(user) == ["withdrawn"]
        with services.database.write() as session:
            leases.release(session, token)
        erased = erasing.result().json()
    assert (erased["texts"], erased["facts"], erased["adapters"]) == (8, 1, 1)
    assert files(version) == [False] and not Path(version.folder).parent.exists()


def test_erasing_waits_for_nobody_elses_withdrawn_versions(
    gateway: TestClient, mina: str, made: PopulationVersions, services: Services
) -> None:
    wilf = made.person("wilf")
    others = made.shared(wilf)
    with services.database.write() as session:
        leases.take(session, others)
    gateway.patch("/v1/users/wilf", json={"shares": False})
    assert gateway.delete("/v1/users/mina").status_code == 200
    assert files(others) == [True]
