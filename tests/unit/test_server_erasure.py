"""While a user is erased: what still runs leaves no trace, and nothing new is kept."""

from collections.abc import Callable

import pytest
from fastapi.testclient import TestClient
from gateway_calls import HELLO, chat, error_of
from httpx2 import Response
from scripted_engine import ScriptedEngine
from sqlalchemy import select

from server import erasure
from server.services import Services
from server.store.tables.adapters import Adapter
from server.store.tables.people import ApiKey, Fact, Interaction, User, UserText
from server.store.users import find_user


@pytest.fixture
def begin(services: Services, mina: str) -> Callable[[], None]:
    """Erases mina's content; her row stays, as it does while files are in use."""

    def begun() -> None:
        with services.database.write() as session:
            erasure.begin(session, find_user(session, "mina"))

    return begun


def kept(services: Services) -> list[object]:
    """Whatever the store has of mina beside her row, her refreshes and her versions."""
    with services.database.read() as session:
        user = find_user(session, "mina")
        tables = (Fact, UserText, Interaction, ApiKey)
        return [
            row for t in tables for row in session.scalars(select(t).where(t.user_id == user.id))
        ]


@pytest.mark.parametrize("stream", [False, True])
def test_a_chat_that_runs_during_an_erasure_is_not_kept(
    gateway: TestClient,
    services: Services,
    scripted_engine: ScriptedEngine,
    begin: Callable[[], None],
    stream: bool,
) -> None:
    def erased_meanwhile(text: str) -> str:
        begin()
        return text

    scripted_engine.replies, scripted_engine.parser = ["warm"], erased_meanwhile
    assert chat(gateway, stream=stream).status_code == 200
    assert kept(services) == []
    with services.database.read() as session:
        assert find_user(session, "mina").last_message_at is None


WRITES: list[Callable[[TestClient, str], Response]] = [
    lambda g, _: g.post("/v1/users/mina/facts", json={"text": "i row."}),
    lambda g, _: g.delete("/v1/users/mina/facts/1"),
    lambda g, _: g.post("/v1/users/mina/history", content='{"query": "q", "text": "t"}'),
    lambda g, _: g.patch("/v1/users/mina", json={"consent": True}),
    lambda g, _: g.post("/v1/keys", json={"role": "user", "user": "mina"}),
    lambda g, reply: g.post("/v1/feedback", json={"user": "mina", "id": reply, "edited": "t"}),
]


@pytest.mark.parametrize("write", WRITES)
def test_nothing_is_kept_of_who_is_being_erased(
    gateway: TestClient,
    services: Services,
    scripted_engine: ScriptedEngine,
    begin: Callable[[], None],
    adapter: Adapter,
    write: Callable[[TestClient, str], Response],
) -> None:
    scripted_engine.replies = ["warm", "warm"]
    reply: str = chat(gateway).json()["id"]
    begin()
    status, message = error_of(write(gateway, reply))
    assert (status, "attune users erase mina" in message) == (409, True)
    # A chat is answered by the base model and forgotten.
    assert chat(gateway, messages=HELLO).json()["personalization"]["adapter"] is None
    assert kept(services) == []
    shown = gateway.get("/v1/users/mina").json()
    assert (shown["texts"], shown["facts"], shown["consent"]) == (0, 0, False)
    assert [user["name"] for user in gateway.get("/v1/users").json()["data"]] == ["mina"]
    assert gateway.delete("/v1/users/mina").json()["adapters"] == 1
    assert gateway.get("/v1/users/mina").status_code == 404
    with services.database.read() as session:
        assert session.get(User, adapter.user_id) is None
