"""What the gateway refuses, and what it says when a part of it is away."""

import json
from collections.abc import Callable

import pytest
from fastapi.testclient import TestClient
from gateway_calls import chat, error_of, events
from httpx2 import Response
from scripted_engine import ScriptedEngine
from sqlalchemy import select

from server.services import Services
from server.store.tables.people import Interaction

BAD_REQUESTS: list[tuple[Callable[[TestClient], Response], int, str]] = [
    (lambda g: chat(g, user="nobody"), 404, "attune users add nobody"),
    (lambda g: chat(g, user=None), 400, "name one in the field 'user'"),
    (lambda g: chat(g, messages=[]), 400, "messages"),
    (
        lambda g: chat(g, messages=[{"role": "user", "content": [{"type": "image_url"}]}]),
        400,
        "text",
    ),
    (lambda g: chat(g, personalization={"persone": True}), 400, "persone"),
    (lambda g: chat(g, personalization={"adapter": "v9"}), 404, "no published adapter v9"),
    (lambda g: chat(g, personalization={"adapter": "../v1"}), 400, "no adapter version"),
    (lambda g: chat(g, personalization={"pir": True, "contrast": "adapter"}), 409, "refresh first"),
    (lambda g: chat(g, personalization={"pir": True, "persona": False}), 400, "leave 'persona' on"),
    (
        lambda g: chat(g, messages=[{"role": "user", "content": "x" * 200_000}]),
        413,
        "200,000 characters",
    ),
    (
        lambda g: chat(g, messages=[{"role": "user", "content": "word " * 19_000}]),
        400,
        "shorten the conversation",
    ),
    (
        lambda g: g.post(
            "/v1/chat/completions", content=b"{", headers={"content-type": "application/json"}
        ),
        400,
        "JSON",
    ),
    (lambda g: g.post("/v1/pir", json={"user": "mina", "query": "q"}), 400, "'reply'"),
    (lambda g: g.post("/v1/pir", json={"user": "mina", "reply": "r"}), 400, "'query'"),
    (
        lambda g: g.post("/v1/feedback", json={"user": "mina", "id": "chatcmpl-0"}),
        404,
        "no logged reply",
    ),
    (lambda g: g.post("/v1/feedback", json={"id": "chatcmpl-0"}), 400, "name one in the field"),
    (lambda g: chat(g, messages=[{"role": "user", "content": [{"type": "text"}]}]), 400, "'text'"),
    (
        lambda g: chat(g, messages=[{"role": "assistant", "content": "a", "tool_calls": [{}]}]),
        400,
        "tool_calls",
    ),
    (
        lambda g: g.post("/v1/pir", json={"user": "mina", "query": "q", "token_ids": [-1]}),
        400,
        "token_ids",
    ),
    (lambda g: g.post("/v1/users", json={"name": "mina"}), 409, "already"),
    (lambda g: g.post("/v1/users", json={"name": "../mina"}), 400, "cannot be a user name"),
    (lambda g: g.post("/v1/users/mina/facts", json={"text": " "}), 400, "empty"),
    (lambda g: g.delete("/v1/users/mina/facts/999"), 404, "no fact 999"),
    (lambda g: g.post("/v1/users/mina/adapters/rollback", json={}), 409, "nothing to roll back"),
    (lambda g: g.delete(f"/v1/users/mina/facts/{2**64}"), 404, "no fact"),
    (lambda g: g.get("/v1/users/mina/refreshes/none"), 404, "no refresh"),
    (lambda g: g.get("/v1/users/mina/refreshes/%00"), 404, "no refresh"),
    (lambda g: g.post("/v1/users/mina/refreshes/%00/cancel"), 404, "no refresh"),
    (lambda g: g.get("/v1/schedule/plan", params={"after": 2**31}), 400, "after"),
    (lambda g: g.post("/v1/adapters/verify", json={"after": 2**31}), 400, "after"),
    (lambda g: g.get("/v1/users/mina/history", params={"after": 2**31}), 400, "after"),
    (lambda g: g.get("/v1/users/mina/history", params={"after": 999}), 404, "no text 999"),
    (lambda g: g.get("/v1/users/mina/history", params={"limit": 1001}), 400, "limit"),
    (lambda g: g.get("/v1/users/mina/history", params={"limit": 0}), 400, "limit"),
    (lambda g: g.get("/v1/nothing"), 404, "Not Found"),
]


@pytest.mark.parametrize(("send", "status", "words"), BAD_REQUESTS)
def test_bad_requests_get_a_clear_error(
    gateway: TestClient, mina: str, send: Callable[[TestClient], Response], status: int, words: str
) -> None:
    found, message = error_of(send(gateway))
    assert (found, words in message) == (status, True), message
    assert gateway.get("/healthz").status_code == 200


@pytest.mark.parametrize("text", ["a\0b", "half \ud83d of one"])
def test_what_no_store_can_hold_is_a_bad_request(
    gateway: TestClient, mina: str, scripted_engine: ScriptedEngine, text: str
) -> None:
    scripted_engine.replies = ["so warm"]
    feedback = {"id": chat(gateway).json()["id"], "edited": text}
    for path, body in (("/v1/feedback", feedback), ("/v1/users/mina/facts", {"text": text})):
        answer = gateway.post(path, content=json.dumps(body))
        assert answer.status_code == 400, answer.text
        assert answer.json()["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize("stream", [False, True])
def test_an_engine_that_is_down_is_a_503(
    gateway: TestClient, mina: str, scripted_engine: ScriptedEngine, stream: bool
) -> None:
    scripted_engine.down = True
    status, message = error_of(chat(gateway, stream=stream))
    assert status == 503 and "try again" in message
    assert error_of(gateway.get("/readyz"))[0] == 503


def test_a_stream_that_breaks_off_ends_with_an_error_event(
    gateway: TestClient, mina: str, scripted_engine: ScriptedEngine, services: Services
) -> None:
    scripted_engine.replies = ["gerald is warm and well"]
    scripted_engine.break_stream_after = 2
    streamed = events(chat(gateway, stream=True).text)
    assert streamed[-1]["error"]["code"] == "engine_unavailable"
    assert "[DONE]" not in streamed
    with services.database.read() as session:
        assert session.scalars(select(Interaction)).all() == []


def test_the_jobs_being_away_fails_the_refresh_and_says_so(gateway: TestClient, mina: str) -> None:
    status, message = error_of(gateway.post("/v1/users/mina/refreshes", json={}))
    assert status == 503 and "start the worker" in message
    (row,) = gateway.get("/v1/users/mina/refreshes").json()["data"]
    assert row["status"] == "failed"
