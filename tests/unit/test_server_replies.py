"""Whose a logged reply is, and who names it."""

import pytest
from fastapi.testclient import TestClient
from gateway_calls import HELLO, chat, error_of
from scripted_engine import ScriptedEngine
from sqlalchemy import select

from server.services import Services
from server.store.tables.people import Interaction

ENGINES_OWN = {
    "request_id": "mine",
    "priority": -9,
    "session_id": "s",
    "kv_transfer_params": {"remote_host": "elsewhere"},
    "ec_transfer_params": {"remote_host": "elsewhere"},
    "vllm_xargs": {"x": 1},
}


@pytest.fixture
def reply(gateway: TestClient, mina: str, scripted_engine: ScriptedEngine) -> str:
    """The id of a reply of mina's."""
    scripted_engine.replies = ["so warm"]
    name: str = chat(gateway).json()["id"]
    return name


def key_of(gateway: TestClient, role: str) -> dict[str, str]:
    if role == "service":
        key = gateway.post("/v1/keys", json={"role": "service"}).json()["key"]
    else:
        key = gateway.post("/v1/users", json={"name": "omar"}).json()["key"]
    return {"Authorization": f"Bearer {key}"}


def test_feedback_on_another_persons_reply_is_feedback_on_none(
    gateway: TestClient, reply: str, services: Services
) -> None:
    omar, service = key_of(gateway, "user"), key_of(gateway, "service")
    for headers in (omar, service):
        answers = [
            gateway.post(
                "/v1/feedback", json={"user": "omar", "id": name, "edited": "x"}, headers=headers
            )
            for name in (reply, "chatcmpl-none")
        ]
        (there, words), (nowhere, other_words) = map(error_of, answers)
        assert there == nowhere == 404
        assert words.replace(reply, "chatcmpl-none") == other_words
        assert "mina" not in words
    with services.database.read() as session:
        assert session.scalars(select(Interaction.edited)).all() == [None]


def test_a_service_says_whose_feedback_it_brings(gateway: TestClient, reply: str) -> None:
    service = key_of(gateway, "service")
    nobody = gateway.post("/v1/feedback", json={"id": reply, "feedback": "up"}, headers=service)
    assert error_of(nobody)[0] == 400
    body = {"user": "mina", "id": reply, "feedback": "up"}
    assert gateway.post("/v1/feedback", json=body, headers=service).status_code == 200


def test_a_user_needs_no_name_for_feedback(gateway: TestClient, mina: str, reply: str) -> None:
    own = {"Authorization": f"Bearer {mina}"}
    answer = gateway.post("/v1/feedback", json={"id": reply, "feedback": "up"}, headers=own)
    assert answer.json() == {"id": reply, "feedback": "up", "edited": None}


@pytest.mark.parametrize("stream", [False, True])
def test_no_client_names_its_reply_or_steers_the_engine(
    gateway: TestClient, mina: str, scripted_engine: ScriptedEngine, stream: bool
) -> None:
    scripted_engine.replies = ["a", "b"]
    for _ in range(2):
        assert chat(gateway, stream=stream, **ENGINES_OWN).status_code == 200
    completion = {"user": "mina", "prompt": [1, 2], **ENGINES_OWN}
    assert gateway.post("/v1/completions", json=completion).status_code == 200
    bodies = scripted_engine.bodies("/v1/chat/completions")
    bodies += scripted_engine.bodies("/v1/completions")
    assert len(bodies) == 3
    assert not [field for body in bodies for field in ENGINES_OWN if field in body]
    assert HELLO[0] in bodies[0]["messages"]
