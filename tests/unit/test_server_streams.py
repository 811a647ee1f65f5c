"""Streams from the engine to the client: several choices, names, and streams that are left."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable

import pytest
from fastapi.testclient import TestClient
from gateway_calls import HELLO, events
from scripted_engine import ScriptedEngine
from sqlalchemy import func, select
from sse_starlette import EventSourceResponse

from server.auth import Principal
from server.reply import Reply
from server.routes.openai import completions
from server.schemas import ChatRequest, CompletionRequest
from server.services import Services
from server.store.tables.adapters import Adapter, Lease
from server.store.tables.people import User
from server.store.users import find_user

PIR = {"personalization": {"pir": True}}


def asked(**extra: object) -> ChatRequest:
    return ChatRequest.model_validate({"messages": HELLO, "stream": True, **extra})


def mina_of(services: Services) -> User:
    with services.database.read() as session:
        return find_user(session, "mina")


def test_all_choices_are_sent_before_the_pir_of_the_first(
    gateway: TestClient, mina: str, services: Services, scripted_engine: ScriptedEngine
) -> None:
    scripted_engine.replies = ["gerald is warm"]
    unscored, extensions = {0: "", 1: ""}, []

    async def read() -> None:
        async for chunk in services.chat.stream(mina_of(services), asked(n=2, **PIR)):
            extensions.append(chunk.get("personalization"))
            for choice in chunk["choices"]:
                if not scripted_engine.bodies("/v1/completions"):
                    unscored[choice["index"]] += choice["delta"].get("content") or ""

    assert gateway.portal
    gateway.portal.call(read)
    assert unscored == {0: "gerald is warm", 1: "gerald is warm"}
    *before, last = extensions
    assert before == [None] * len(before)
    assert last is not None
    assert "".join(token["text"] for token in last["pir"]) == "gerald is warm"


def test_a_reply_is_complete_when_all_its_choices_have_ended() -> None:
    reply, told = Reply(), []
    for index, ends in ((0, None), (1, None), (0, "stop"), (1, None), (1, "length")):
        choice = {"index": index, "delta": {}, "finish_reason": ends}
        reply.add({"id": "chatcmpl-0", "choices": [choice], "prompt_token_ids": [5, 6]})
        told.append(reply.complete)
    reply.add({"id": "chatcmpl-0", "choices": []})
    assert told == [False, False, False, False, True]
    assert reply.complete
    assert reply.prompt_token_ids == [5, 6]


async def chat_stream(services: Services) -> AsyncGenerator[object]:
    return services.chat.stream(mina_of(services), asked())


async def completion_stream(services: Services) -> AsyncGenerator[object]:
    request = CompletionRequest(prompt="bread is", user="mina", stream=True)
    answer = await completions(request, services, Principal("service"))
    assert isinstance(answer, EventSourceResponse)
    assert isinstance(answer.body_iterator, AsyncGenerator)
    return answer.body_iterator


@pytest.mark.parametrize("stream", [chat_stream, completion_stream])
def test_the_engines_stream_is_closed_before_the_lease_goes_back(
    gateway: TestClient,
    adapter: Adapter,
    services: Services,
    scripted_engine: ScriptedEngine,
    stream: Callable[[Services], Awaitable[AsyncGenerator[object]]],
) -> None:
    leases_at_close = list[int | None]()

    def leases() -> int | None:
        with services.database.read() as session:
            return session.scalar(select(func.count()).select_from(Lease))

    scripted_engine.closed = lambda: leases_at_close.append(leases())
    # Long enough for the lease to go back, were it not for the stream.
    scripted_engine.closing_s = 0.3
    scripted_engine.replies = ["gerald is warm"]

    async def leave() -> None:
        chunks = await stream(services)
        await anext(chunks)
        await chunks.aclose()
        await asyncio.sleep(2 * scripted_engine.closing_s)

    assert gateway.portal
    gateway.portal.call(leave)
    assert leases_at_close == [1]
    assert leases() == 0


@pytest.mark.parametrize("model", [None, "mine"])
def test_streamed_completions_never_name_an_adapter(
    gateway: TestClient, adapter: Adapter, scripted_engine: ScriptedEngine, model: str | None
) -> None:
    scripted_engine.replies = ["so warm"]
    body = {"user": "mina", "prompt": "bread is", "stream": True, "model": model}
    (chunk, done) = events(gateway.post("/v1/completions", json=body).text)
    assert scripted_engine.bodies("/v1/completions")[-1]["model"] == adapter.name
    assert (chunk["choices"][0]["text"], chunk["model"]) == ("so warm", model or "scripted")
    assert done == "[DONE]"
