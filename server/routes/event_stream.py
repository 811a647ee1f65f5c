"""Chunks of a reply as server-sent events."""

import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any

import structlog
from sse_starlette import EventSourceResponse
from sse_starlette.sse import SendTimeoutError
from starlette.types import Receive, Scope, Send

from perce.errors import AttuneError
from server.errors import http_error

log = structlog.get_logger()

SEND_TIMEOUT_S = 60.0
"""Longest wait for a client to take an event. One that stops reading, but stays connected, would
keep its lease, and with it an adapter version that is to go; no client that reads needs a minute
for one event."""


async def event_stream(
    chunks: AsyncGenerator[dict[str, Any]], send_timeout_s: float = SEND_TIMEOUT_S
) -> EventSourceResponse:
    """Send chunks as server-sent events.

    The first chunk is awaited before the response starts, so that an error until then has
    its proper status; an error after it becomes an event in OpenAI's error shape.

    Args:
        chunks: What is sent; closed at the end, however it comes.
        send_timeout_s: Seconds that a client may take for one event before it is given up.
    """
    first = await anext(chunks, None)

    async def events() -> AsyncIterator[dict[str, str]]:
        async with aclosing(chunks):
            if first is not None:
                yield _event(first)
            try:
                async for chunk in chunks:
                    yield _event(chunk)
            except AttuneError as error:
                yield _event(http_error(error)[1])
                return
            yield {"data": "[DONE]"}

    return _EventStream(events(), send_timeout=send_timeout_s)


class _EventStream(EventSourceResponse):
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        except SendTimeoutError:
            # Not our fault, and nobody is there to be told: the server closes the connection.
            log.warning("a client stopped reading, and its stream was ended")


def _event(chunk: dict[str, Any]) -> dict[str, str]:
    return {"data": json.dumps(chunk, ensure_ascii=False)}
