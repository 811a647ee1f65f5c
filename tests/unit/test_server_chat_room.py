"""How long a reply may be: what the model's length leaves, less what PIR needs."""

import pytest
from fastapi.testclient import TestClient
from gateway_calls import HELLO, chat, error_of, events
from scripted_engine import ScriptedEngine

ROOM = 5


@pytest.fixture
def engine(scripted_engine: ScriptedEngine, gateway: TestClient) -> ScriptedEngine:
    """An engine with little room behind the prompt of a user without any memory."""
    gateway.post("/v1/users", json={"name": "mina"})
    scripted_engine.max_length = len(scripted_engine.tokenizer.prompt_ids(HELLO)) + ROOM
    scripted_engine.replies = ["bread " * 50]
    return scripted_engine


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("limit", [None, "max_tokens", "max_completion_tokens"])
def test_a_reply_that_fills_the_model_leaves_a_token_to_its_pir(
    gateway: TestClient, engine: ScriptedEngine, stream: bool, limit: str | None
) -> None:
    wish = {limit: 5000} if limit else {}
    answer = chat(gateway, stream=stream, personalization={"pir": True}, **wish)
    assert answer.status_code == 200, answer.text
    last = events(answer.text)[-2] if stream else answer.json()
    assert len(last["personalization"]["pir"]) == ROOM - 1


@pytest.mark.parametrize(("asked", "sent"), [(None, ROOM), (3, 3), (5000, 5000)])
def test_without_pir_all_the_room_is_for_the_reply(
    gateway: TestClient, engine: ScriptedEngine, asked: int | None, sent: int
) -> None:
    assert chat(gateway, max_tokens=asked).status_code == 200
    assert engine.bodies("/v1/chat/completions")[0]["max_tokens"] == sent


def test_a_prompt_that_leaves_room_for_a_reply_or_its_pir_gets_the_reply_alone(
    gateway: TestClient, engine: ScriptedEngine
) -> None:
    engine.max_length -= ROOM - 1
    status, message = error_of(chat(gateway, personalization={"pir": True}))
    assert (status, "shorten the conversation" in message) == (400, True)
    assert chat(gateway).status_code == 200
