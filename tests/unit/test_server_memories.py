"""What the gateway keeps of users' memories: how long, how much, and of which encoder."""

import asyncio
from collections.abc import Callable, Sequence

import pytest
from fastapi.testclient import TestClient
from gateway_calls import chat
from remembered_texts import remember
from scripted_engine import WordEncoder
from sqlalchemy import delete, select

from perce.retrieval import Vectors
from server.context import ContextSource
from server.errors import EncoderChangedError
from server.memories import Memories
from server.services import Services
from server.store import encoders, memory
from server.store.tables.people import Conversation, User
from server.store.users import add_user, find_user


def test_a_change_of_memory_and_an_erasure_let_go_of_what_was_kept(
    services: Services, source: Callable[[WordEncoder], ContextSource]
) -> None:
    own = source(WordEncoder())
    user = remember(services, 1)

    def asked() -> set[int]:
        asyncio.run(own.retrieve(user, "bread"))
        own.memories.drop_stale()
        return own.memories.users()

    assert asked() == {user.id}
    remember(services, 1, start=5)
    own.memories.drop_stale()
    assert own.memories.users() == set()
    assert asked() == {user.id}
    with services.database.write() as session:
        session.execute(delete(User).where(User.id == user.id))
    own.memories.drop_stale()
    assert own.memories.users() == set()
    # Who was erased just now has no memory, and none is kept.
    assert asyncio.run(own.retrieve(user, "bread")) == []
    assert own.memories.users() == set()


def test_one_version_of_a_memory_is_kept(
    services: Services, source: Callable[[WordEncoder], ContextSource]
) -> None:
    own = source(WordEncoder())
    for start in range(3):
        user = remember(services, 1, start)
        found = asyncio.run(own.retrieve(user, f"text {start}"))
        assert f"text {start}" in [candidate.item.text for candidate in found]
    assert own.memories.users() == {user.id}


def test_memories_are_kept_within_bounds_of_bytes(services: Services, mina: str) -> None:
    own = services.contexts
    small = Memories(services.database, own.embedding, most_bytes=1)
    with services.database.write() as session:
        mina_, otto = find_user(session, "mina"), add_user(session, "otto")[0]

    async def both() -> None:
        for user in (mina_, otto):
            await small.of(user)

    asyncio.run(both())
    assert small.users() == {otto.id}


def test_vectors_of_another_encoder_are_made_anew(
    services: Services, source: Callable[[WordEncoder], ContextSource]
) -> None:
    class Narrow(WordEncoder):
        def encode(self, texts: Sequence[str]) -> Vectors:
            return super().encode(texts)[:, :7]

    own = source(WordEncoder())
    user = remember(services, 3)
    asyncio.run(own.retrieve(user, "bread"))
    assert encoders.take_over(services.database, "all-MiniLM-L6-v2") == 0
    changed = ContextSource(
        services.database,
        Narrow(),
        services.settings.model_copy(update={"encoder": "other"}),
        services.tokenizer,
    )
    changed.embedding.take_over()
    found = asyncio.run(changed.retrieve(user, "bread number 3"))
    assert [candidate.item.kind for candidate in found] == ["fact", "text", "text", "text"]
    with services.database.read() as session:
        assert {len(t.embedding or b"") for t in memory.texts(session, user)} == {7 * 4}
    # A gateway that still has the old one neither adds to them nor compares with them.
    remember(services, 1, start=7)
    with pytest.raises(EncoderChangedError, match="ATTUNE_ENCODER"):
        asyncio.run(own.retrieve(user, "bread"))


def test_a_removed_fact_stays_in_no_pinned_context(gateway: TestClient, mina: str) -> None:
    chat(gateway)
    pinned = gateway.get("/v1/users/mina/export").json()["conversations"]
    assert "gerald" in pinned[0]["context"][0]["text"]
    (fact,) = gateway.get("/v1/users/mina/facts").json()["data"]
    assert gateway.delete(f"/v1/users/mina/facts/{fact['id']}").status_code == 204
    assert gateway.get("/v1/users/mina/export").json()["conversations"] == []
    chat(gateway)
    assert "gerald" not in gateway.get("/v1/users/mina/export").text


def test_a_context_that_became_stale_while_it_was_chosen_is_not_pinned(
    services: Services, source: Callable[[WordEncoder], ContextSource]
) -> None:
    user = remember(services, 1)
    with services.database.read() as session:
        fact = memory.facts(session, user)[0].id

    class Removing(WordEncoder):
        def encode(self, texts: Sequence[str]) -> Vectors:
            if texts[0] == "hi":
                with services.database.write() as session:
                    memory.remove_fact(session, user, fact)
            return super().encode(texts)

    own = source(Removing())
    asyncio.run(own.for_conversation(user, [{"role": "user", "content": "hi"}]))
    with services.database.read() as session:
        assert session.scalars(select(Conversation)).all() == []
