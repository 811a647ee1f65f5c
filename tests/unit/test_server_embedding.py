"""Embedding what a user wrote: beside the requests, in chunks, once; and for clients."""

import asyncio
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from threading import Event

import anyio
from anyio import to_thread
from fastapi import BackgroundTasks, Request
from fastapi.testclient import TestClient
from remembered_texts import remember
from scripted_engine import WordEncoder
from sqlalchemy import delete, update
from starlette.types import Message

from perce.retrieval import Vectors
from server.context import ContextSource
from server.embedding import FEW
from server.routes import memory as memory_routes
from server.services import Services
from server.store import memory
from server.store.tables.adapters import Adapter, Lease
from server.store.tables.base import now
from server.store.tables.people import Fact, UserText
from server.store.users import find_user


class CountingEncoder(WordEncoder):
    """Remembers what it was asked to embed, and lets other threads run."""

    def __init__(self) -> None:
        self.encoded: list[str] = []
        self.calls: list[int] = []

    def encode(self, texts: Sequence[str]) -> Vectors:
        self.encoded += texts
        self.calls.append(len(texts))
        time.sleep(0.001)
        return super().encode(texts)


class StuckEncoder(WordEncoder):
    """Embeds queries at once, and texts not before it is let go on."""

    def __init__(self) -> None:
        self.asked, self.go_on = Event(), Event()

    def encode(self, texts: Sequence[str]) -> Vectors:
        if len(texts) > 1:
            self.asked.set()
            assert self.go_on.wait(60)
        return super().encode(texts)


def bare_texts(services: Services) -> int:
    with services.database.read() as session:
        texts = memory.texts(session, find_user(session, "mina"))
        return sum(text.embedding is None for text in texts)


def test_an_import_answers_first_and_embeds_in_chunks(
    services: Services, source: Callable[[WordEncoder], ContextSource]
) -> None:
    encoder = CountingEncoder()
    parts = replace(services, contexts=source(encoder))
    afterwards = BackgroundTasks()
    with services.database.read() as session:
        user = find_user(session, "mina")
    lines = [json.dumps({"query": "q", "text": f"text {i}", "order": 9 + i}) for i in range(600)]

    async def body() -> Message:
        return {"type": "http.request", "body": "\n".join(lines).encode()}

    async def imported() -> None:
        request = Request({"type": "http"}, body)
        answer = await memory_routes.import_history(request, user, parts, afterwards)
        assert answer["imported"] == 600 and encoder.encoded == []
        await afterwards()

    asyncio.run(imported())
    assert sorted(encoder.encoded) == sorted(f"q\ntext {i}" for i in range(600))
    assert encoder.calls == [256, 256, 88]


def test_two_embeddings_at_once_share_the_work(
    services: Services, source: Callable[[WordEncoder], ContextSource]
) -> None:
    encoder = CountingEncoder()
    own = source(encoder)
    user = remember(services, 1500)

    async def three() -> list[str]:
        async with anyio.create_task_group() as group:
            for _ in range(3):
                group.start_soon(own.embedding.embed, user)
        return [candidate.item.kind for candidate in await own.retrieve(user, "text 7")]

    assert asyncio.run(three()) == ["fact", "text", "text", "text"]
    assert len(encoder.encoded) == 1500 + 1 and len(set(encoder.encoded)) == 1501


def test_a_small_history_is_there_for_the_next_chat(
    services: Services, source: Callable[[WordEncoder], ContextSource]
) -> None:
    user = remember(services, 300)
    found = asyncio.run(source(WordEncoder()).retrieve(user, "text 299"))
    assert "text 299" in [candidate.item.text for candidate in found]


def test_requests_during_a_large_import_take_no_thread_from_others(
    services: Services, source: Callable[[WordEncoder], ContextSource]
) -> None:
    encoder = StuckEncoder()
    own = source(encoder)
    user = remember(services, FEW + 100)

    async def crowded() -> list[list[str]]:
        kinds: list[list[str]] = []

        async def ask() -> None:
            found = await own.retrieve(user, "bread number 3")
            kinds.append([candidate.item.kind for candidate in found])

        async with anyio.create_task_group() as group:
            group.start_soon(own.embedding.embed, user)
            try:
                with anyio.fail_after(30):
                    async with anyio.create_task_group() as requests:
                        for _ in range(60):
                            requests.start_soon(ask)
            finally:
                encoder.go_on.set()
        return kinds

    answers = asyncio.run(crowded())
    assert answers == [["fact", "text", "text", "text"]] * 60
    assert bare_texts(services) == 0


def test_a_request_that_waits_for_a_few_texts_holds_no_shared_thread(
    services: Services, source: Callable[[WordEncoder], ContextSource]
) -> None:
    encoder = StuckEncoder()
    own = source(encoder)
    user = remember(services, 20)

    async def crowded() -> None:
        async with anyio.create_task_group() as group:
            for _ in range(60):
                group.start_soon(own.retrieve, user, "text 3")
            try:
                with anyio.fail_after(20):
                    while not encoder.asked.is_set():
                        await anyio.sleep(0.01)
                    await anyio.sleep(0.3)  # for the others to ask as well
                    assert await to_thread.run_sync(lambda: "free") == "free"
            finally:
                encoder.go_on.set()

    asyncio.run(crowded())


def test_leases_are_renewed_while_all_shared_threads_are_taken(
    services: Services, mina: str, adapter: Adapter
) -> None:
    with services.database.read() as session:
        user = find_user(session, "mina")
    leased = services.leases.take(user, "active")
    with services.database.write() as session:
        session.get_one(Lease, leased.token).expires_at = now()
        session.add(Lease(id="dead", adapter_id=adapter.id, expires_at=now()))
    go_on = Event()

    async def crowded() -> None:
        shared = to_thread.current_default_thread_limiter()
        async with anyio.create_task_group() as group:
            for _ in range(int(shared.total_tokens)):
                group.start_soon(to_thread.run_sync, go_on.wait, 60)
            while shared.available_tokens:
                await anyio.sleep(0.01)
            try:
                with anyio.fail_after(20):
                    await services.upkeep.keep_leases()
            finally:
                go_on.set()

    asyncio.run(crowded())
    with services.database.read() as session:
        assert session.get(Lease, "dead") is None
        assert session.get_one(Lease, leased.token).expires_at > now()


def test_a_text_that_is_removed_while_it_is_embedded_stays_removed(
    services: Services, source: Callable[[WordEncoder], ContextSource]
) -> None:
    user = remember(services, 2)

    class Removing(WordEncoder):
        def encode(self, texts: Sequence[str]) -> Vectors:
            with services.database.write() as session:
                session.execute(delete(UserText).where(UserText.text == "text 1"))
            return super().encode(texts)

    asyncio.run(source(Removing()).embedding.embed(user))
    with services.database.read() as session:
        rows = memory.texts(session, user)
    assert "text 1" not in [row.text for row in rows]
    assert all(row.embedding for row in rows)


def test_what_nobody_embedded_is_embedded_in_the_background(
    services: Services, source: Callable[[WordEncoder], ContextSource]
) -> None:
    remember(services, 3 * FEW)
    asyncio.run(source(WordEncoder()).embedding.embed_left_over())
    assert bare_texts(services) == 0


def test_facts_are_shown_before_they_are_embedded(
    services: Services, source: Callable[[WordEncoder], ContextSource]
) -> None:
    user = remember(services, FEW + 1)
    with services.database.write() as session:
        session.execute(update(Fact).values(embedding=None))
        memory.add_fact(session, user, "i keep bees.")
    found = asyncio.run(source(WordEncoder()).retrieve(user, "bread"))
    assert {c.item.text for c in found if c.item.kind == "fact"} == {
        "i have a sourdough named gerald.",
        "i keep bees.",
    }


def test_embeddings_in_both_encodings(gateway: TestClient, mina: str) -> None:
    plain = gateway.post("/v1/embeddings", json={"input": ["a b", "c"]}).json()
    assert [len(row["embedding"]) for row in plain["data"]] == [256, 256]
    coded = gateway.post("/v1/embeddings", json={"input": "a", "encoding_format": "base64"}).json()
    assert isinstance(coded["data"][0]["embedding"], str)
