"""Refreshes through the gateway's HTTP, and engines that sleep while their GPU trains."""

import json
from collections.abc import Iterator
from datetime import timedelta

import pytest
from fastapi.testclient import TestClient
from scripted_engine import ScriptedEngine

from server.app import create_app
from server.naps import note_nap
from server.refreshes import open_refresh
from server.services import Services
from server.store.tables.base import now
from server.store.tables.refreshes import Plan, Refresh
from server.store.users import find_user


@pytest.fixture
def gateway(services: Services) -> Iterator[TestClient]:
    headers = {"Authorization": "Bearer attune-admin"}
    with TestClient(create_app(services), headers=headers) as client:
        client.post("/v1/users", json={"name": "mina"})
        rows = [{"query": f"q {i}", "text": f"text {i}", "order": i} for i in range(9)]
        client.post("/v1/users/mina/history", content="\n".join(map(json.dumps, rows)))
        yield client


@pytest.fixture
def refresh(services: Services, gateway: TestClient) -> str:
    with services.database.write() as session:
        return open_refresh(session, find_user(session, "mina"), "perce").id


def test_a_refresh_that_waits_is_cancelled_once(gateway: TestClient, refresh: str) -> None:
    path = f"/v1/users/mina/refreshes/{refresh}"
    answer = gateway.post(f"{path}/cancel")
    assert (answer.status_code, answer.json()["status"]) == (202, "cancelled")
    assert gateway.get(path).json()["finished_at"] is not None
    again = gateway.post(f"{path}/cancel")
    assert (again.status_code, again.json()["error"]["code"]) == (409, "conflict")
    assert gateway.post("/v1/users/mina/refreshes/none/cancel").status_code == 404


def test_the_progress_of_a_training_is_shown(
    services: Services, gateway: TestClient, refresh: str
) -> None:
    with services.database.write() as session:
        row = session.get_one(Refresh, refresh)
        row.status, row.stage, row.step, row.steps = "running", "train", 3, 9
        row.tokens_per_s, row.seconds_left = 512.0, 6.5
    shown = gateway.get(f"/v1/users/mina/refreshes/{refresh}").json()
    assert shown["progress"] == {
        "step": 3,
        "steps": 9,
        "tokens_per_s": 512.0,
        "seconds_left": 6.5,
    }
    asked = gateway.post(f"/v1/users/mina/refreshes/{refresh}/cancel").json()
    assert (asked["status"], asked["cancel_requested"]) == ("running", True)


def test_the_newest_round_s_progress_is_for_admins(
    services: Services, gateway: TestClient, refresh: str
) -> None:
    assert gateway.get("/v1/schedule/progress").status_code == 404
    with services.database.write() as session:
        plan = Plan(run="night", summary={"due": 1})
        session.add(plan)
        session.flush()
        session.get_one(Refresh, refresh).plan_id = plan.id
    shown = gateway.get("/v1/schedule/progress").json()
    assert (shown["users"], shown["done"], shown["summary"]) == (1, 0, {"due": 1})
    with services.database.write() as session:
        session.add(Plan(run="a plan that is still being written"))
    assert gateway.get("/v1/schedule/progress").json() == shown
    stranger = {"Authorization": "Bearer attune-nobody"}
    assert gateway.get("/v1/schedule/progress", headers=stranger).status_code == 401


def test_a_refresh_that_no_worker_was_told_of_leaves_the_user_as_due_as_before(
    services: Services, gateway: TestClient
) -> None:
    with services.database.write() as session:
        find_user(session, "mina").waiting_since = waiting = now()
    # No worker has made the job queue yet.
    answer = gateway.post("/v1/users/mina/refreshes", json={})
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "jobs_unavailable")
    (listed,) = gateway.get("/v1/users/mina/refreshes").json()["data"]
    assert (listed["status"], listed["error"]) == ("failed", answer.json()["error"]["message"])
    assert listed["finished_at"] is not None
    with services.database.read() as session:
        user = find_user(session, "mina")
    assert (user.last_refresh_at, user.waiting_since) == (None, waiting)


@pytest.mark.parametrize("stream", [False, True])
def test_while_all_engines_sleep_clients_are_told_when_to_come_back(
    services: Services, gateway: TestClient, scripted_engine: ScriptedEngine, stream: bool
) -> None:
    with services.database.write() as session:
        note_nap(session, ["http://engine"], "worker", now() + timedelta(seconds=40))
    body = {
        "user": "mina",
        "messages": [{"role": "user", "content": "Hello?"}],
        "stream": stream,
    }
    answer = gateway.post("/v1/chat/completions", json=body)
    assert answer.status_code == 503
    assert 35 <= int(answer.headers["Retry-After"]) <= 40
    assert answer.json()["error"]["code"] == "engine_asleep"
    assert scripted_engine.bodies("/v1/chat/completions") == []
