"""Embedding what a user wrote: after the answer, in chunks, once; and embeddings for clients."""

import asyncio
import json
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from fastapi import BackgroundTasks, Request
from fastapi.testclient import TestClient
from scripted_engine import WordEncoder
from sqlalchemy import delete
from starlette.types import Message

from perce.retrieval import Vectors
from server.context import ContextSource
from server.routes import memory as memory_routes
from server.services import Services
from server.store import memory
from server.store.tables.people import UserText
from server.store.users import find_user


class CountingEncoder(WordEncoder):
    """Remembers what it was asked to embed, and can be made to wait."""

    def __init__(self) -> None:
        self.encoded: list[str] = []
        self.calls: list[int] = []

    def encode(self, texts: Sequence[str]) -> Vectors:
        self.encoded += texts
        self.calls.append(len(texts))
        time.sleep(0.001)  # lets other threads run
        return super().encode(texts)


def test_an_import_answers_first_and_embeds_in_chunks(services: Services, mina: str) -> None:
    encoder = CountingEncoder()
    own = ContextSource(services.database, encoder, services.settings, services.tokenizer)
    parts = replace(services, contexts=own)
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


def test_two_embeddings_at_once_share_the_work(services: Services, mina: str) -> None:
    encoder = CountingEncoder()
    own = ContextSource(services.database, encoder, services.settings, services.tokenizer)
    with services.database.write() as session:
        user = find_user(session, "mina")
        memory.add_texts(
            session, user, [memory.NewText("q", f"text {i}", 9.0 + i) for i in range(1500)]
        )
    with ThreadPoolExecutor(4) as pool:
        for run in [pool.submit(own.embed, user) for _ in range(3)]:
            run.result()
        found = own.retrieve(user, "text 7")
    assert len(encoder.encoded) == 1500 + 1 and len(set(encoder.encoded)) == 1501
    assert [candidate.item.kind for candidate in found] == ["fact", "text", "text", "text"]


def test_a_text_that_is_removed_while_it_is_embedded_stays_removed(
    services: Services, mina: str
) -> None:
    with services.database.write() as session:
        user = find_user(session, "mina")
        memory.add_texts(session, user, [memory.NewText("q", f"new {i}", 9.0 + i) for i in (1, 2)])

    class Removing(WordEncoder):
        def encode(self, texts: Sequence[str]) -> Vectors:
            with services.database.write() as session:
                session.execute(delete(UserText).where(UserText.text == "new 1"))
            return super().encode(texts)

    ContextSource(services.database, Removing(), services.settings, services.tokenizer).embed(user)
    with services.database.read() as session:
        rows = memory.texts(session, user)
    assert "new 1" not in [row.text for row in rows]
    assert all(row.embedding for row in rows)


def test_embeddings_in_both_encodings(gateway: TestClient, mina: str) -> None:
    plain = gateway.post("/v1/embeddings", json={"input": ["a b", "c"]}).json()
    assert [len(row["embedding"]) for row in plain["data"]] == [256, 256]
    coded = gateway.post("/v1/embeddings", json={"input": "a", "encoding_format": "base64"}).json()
    assert isinstance(coded["data"][0]["embedding"], str)
