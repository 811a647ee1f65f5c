"""Streams of which the client takes nothing any more."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

from starlette.types import Message

from server.routes.event_stream import SEND_TIMEOUT_S, event_stream

SCOPE = {"type": "http", "method": "POST", "path": "/", "headers": []}


class Chunks:
    """Chunks without end; knows whether they were closed."""

    def __init__(self) -> None:
        self.closed = False

    async def all(self) -> AsyncGenerator[dict[str, Any]]:
        try:
            while True:
                yield {"choices": []}
        finally:
            # As a lease is given back: it has to be awaited.
            await asyncio.sleep(0)
            self.closed = True


async def never() -> Message:
    await asyncio.Event().wait()
    raise AssertionError


def test_a_client_that_stops_reading_ends_its_stream() -> None:
    chunks, sent = Chunks(), list[Message]()

    async def send(message: Message) -> None:
        sent.append(message)
        if len(sent) > 3:
            await asyncio.Event().wait()

    async def serve() -> None:
        response = await event_stream(chunks.all(), send_timeout_s=0.05)
        async with asyncio.timeout(30):
            await response(SCOPE, never, send)

    asyncio.run(serve())
    assert chunks.closed
    assert [message["type"] for message in sent][:2] == [
        "http.response.start",
        "http.response.body",
    ]


def test_every_stream_has_a_limit() -> None:
    async def limit() -> float | None:
        chunks = Chunks().all()
        response = await event_stream(chunks)
        await chunks.aclose()
        return response.send_timeout

    assert asyncio.run(limit()) == SEND_TIMEOUT_S
