"""Long answers: their pages, what they read of the store, and where their bytes are made."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable

import pytest
from fastapi.responses import JSONResponse
from fastapi.testclient import TestClient
from gateway_calls import chat
from scripted_engine import ScriptedEngine
from sqlalchemy import delete, event

from server.routes import export
from server.routes.memory import list_history
from server.services import Services
from server.store.tables.people import User, UserText
from server.store.users import find_user


def mina_of(services: Services) -> User:
    with services.database.read() as session:
        return find_user(session, "mina")


def history(user: User, services: Services) -> bytes:
    return bytes(list_history(user, services).body)


def exported(
    user: User, services: Services, between: Callable[[], None] = lambda: None
) -> list[bytes]:
    """The parts of an export, and what happens after each."""

    async def read() -> AsyncIterator[bytes]:
        async for part in export.export(user, services).body_iterator:
            assert isinstance(part, bytes)
            yield part
            between()

    async def collect() -> list[bytes]:
        return [part async for part in read()]

    return asyncio.run(collect())


def whole_export(user: User, services: Services) -> bytes:
    return b"".join(exported(user, services))


@pytest.mark.parametrize(("name", "answer"), [("history", history), ("export", whole_export)])
def test_long_answers_leave_vectors_and_tokens_in_the_store(
    gateway: TestClient,
    mina: str,
    services: Services,
    scripted_engine: ScriptedEngine,
    name: str,
    answer: Callable[[User, Services], bytes],
) -> None:
    scripted_engine.replies = ["warm"]
    chat(gateway)
    user = mina_of(services)
    statements = list[str]()

    def note(_c: object, _cursor: object, statement: str, *_rest: object) -> None:
        statements.append(statement)

    event.listen(services.database.engine, "before_cursor_execute", note)
    # These functions have made the bytes: FastAPI runs them in threads.
    made = answer(user, services)
    event.remove(services.database.engine, "before_cursor_execute", note)
    assert made == gateway.get(f"/v1/users/mina/{name}").content
    assert b"bread number 7" in made
    read = " ".join(statements)
    assert "texts.text" in read
    for column in ("embedding", "fingerprint", "token_ids", "logprobs"):
        assert f".{column}" not in read, column


def test_a_history_is_listed_page_by_page_in_its_order(gateway: TestClient, mina: str) -> None:
    rows = [{"text": f"older {i}", "order": -i} for i in range(1, 4)]
    rows += [{"text": f"as old as another {i}", "order": 5} for i in range(3)]
    gateway.post("/v1/users/mina/history", content="\n".join(map(json.dumps, rows)))
    read, after, sizes = list[str](), 0, list[int]()
    while after is not None:
        answer = gateway.get("/v1/users/mina/history", params={"after": after, "limit": 4}).json()
        read += [text["text"] for text in answer["data"]]
        sizes.append(len(answer["data"]))
        after = answer["next"]
    assert read == [
        *(f"older {i}" for i in (3, 2, 1)),
        *(f"bread number {i}" for i in range(6)),
        *(f"as old as another {i}" for i in range(3)),
        *(f"bread number {i}" for i in (6, 7)),
    ]
    assert sizes == [4, 4, 4, 2]


def test_a_page_has_a_hundred_texts_unless_asked_otherwise(gateway: TestClient, mina: str) -> None:
    rows = [{"text": f"another {i}"} for i in range(95)]
    gateway.post("/v1/users/mina/history", content="\n".join(map(json.dumps, rows)))
    assert len(gateway.get("/v1/users/mina/history").json()["data"]) == 100
    answer = gateway.get("/v1/users/mina/history", params={"limit": 1000}).json()
    assert (len(answer["data"]), answer["next"]) == (103, None)


def test_nobody_pages_through_anothers_texts(gateway: TestClient, mina: str) -> None:
    gateway.post("/v1/users", json={"name": "wilf"})
    own = gateway.get("/v1/users/mina/history").json()["data"][0]["id"]
    answer = gateway.get("/v1/users/wilf/history", params={"after": own})
    assert answer.status_code == 404


def test_an_export_is_one_json_object_as_other_answers_are(
    gateway: TestClient, mina: str, services: Services, scripted_engine: ScriptedEngine
) -> None:
    gateway.post("/v1/users/mina/facts", json={"text": 'naïve, "quoted" \n and 😀'})
    scripted_engine.replies = ["warm", "warmer"]
    for _ in range(2):
        chat(gateway)
    answer = gateway.get("/v1/users/mina/export")
    kept = answer.json()
    assert answer.headers["content-type"] == "application/json"
    assert answer.content == JSONResponse(kept).body
    shown = gateway.get("/v1/users/mina").json()
    lists = ("history", "conversations", "interactions", "adapters", "refreshes")
    assert list(kept) == [*shown, *lists]
    facts = gateway.get("/v1/users/mina/facts").json()["data"]
    assert {name: kept[name] for name in shown} == {**shown, "facts": facts}
    assert kept["history"] == gateway.get("/v1/users/mina/history").json()["data"]
    assert [turn["reply"] for turn in kept["interactions"]] == ["warm", "warmer"]
    assert len(kept["conversations"]) == 1


def test_an_export_is_read_a_page_at_a_time(
    mina: str, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "_ROWS_A_PAGE", 3)
    user = mina_of(services)
    parts = exported(user, services)
    assert [part.count(b"bread number") for part in parts if b"bread" in part] == [3, 3, 2]

    def forget() -> None:
        with services.database.write() as session:
            session.execute(delete(UserText).where(UserText.text.in_(["bread number 4"])))

    left = json.loads(b"".join(exported(user, services, between=forget)))["history"]
    assert [text["text"] for text in left] == [f"bread number {i}" for i in (0, 1, 2, 3, 5, 6, 7)]
