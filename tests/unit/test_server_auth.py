"""Who may do what: keys of users, of services and of nobody."""

import pytest
from fastapi.testclient import TestClient
from gateway_calls import HELLO, error_of
from scripted_engine import ScriptedEngine

from server.app import create_app
from server.services import Services


def test_a_key_acts_for_its_own_user_alone(
    gateway: TestClient, mina: str, scripted_engine: ScriptedEngine
) -> None:
    gateway.post("/v1/users", json={"name": "wilf"})
    own = {"Authorization": f"Bearer {mina}"}
    scripted_engine.replies = ["hello"]
    body = {"messages": HELLO}
    assert gateway.post("/v1/chat/completions", json=body, headers=own).status_code == 200
    other = gateway.post("/v1/chat/completions", json={**body, "user": "wilf"}, headers=own)
    assert other.status_code == 403
    for path in ("/v1/users/wilf", "/v1/users/wilf/history", "/v1/users", "/v1/schedule"):
        assert gateway.get(path, headers=own).status_code == 403
    assert gateway.delete("/v1/users/mina", headers=own).status_code == 403


def test_a_service_key_acts_for_anyone_and_manages_nobody(
    gateway: TestClient, mina: str, scripted_engine: ScriptedEngine
) -> None:
    key = gateway.post("/v1/keys", json={"role": "service"}).json()["key"]
    service = {"Authorization": f"Bearer {key}"}
    scripted_engine.replies = ["hello"]
    body = {"messages": HELLO, "user": "mina"}
    assert gateway.post("/v1/chat/completions", json=body, headers=service).status_code == 200
    assert gateway.get("/v1/users/mina/history", headers=service).status_code == 200
    another = gateway.post("/v1/keys", json={"role": "service"}, headers=service)
    assert another.status_code == gateway.get("/v1/users", headers=service).status_code == 403


def test_a_new_key_of_a_user_replaces_the_old_one(gateway: TestClient, mina: str) -> None:
    new = gateway.post("/v1/keys", json={"role": "user", "user": "mina"}).json()["key"]
    status = [
        gateway.get("/v1/users/mina", headers={"Authorization": f"Bearer {key}"}).status_code
        for key in (mina, new)
    ]
    assert status == [401, 200]
    assert error_of(gateway.post("/v1/keys", json={"role": "user"}))[0] == 400


@pytest.mark.parametrize(
    "header", [None, "Bearer wrong", "Basic attune-admin", "Bearer ", "attune-admin"]
)
def test_wrong_keys_are_refused_everywhere(services: Services, header: str | None) -> None:
    headers = {"Authorization": header} if header else {}
    with TestClient(create_app(services), headers=headers) as client:
        for path in ("/v1/users", "/v1/models", "/v1/users/mina/adapters", "/v1/schedule"):
            assert error_of(client.get(path))[0] == 401
        assert client.get("/healthz").status_code == 200
