"""OpenAI's own endpoints: models, chat, completions, embeddings."""

import base64
import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any

from fastapi import APIRouter
from fastapi.concurrency import run_in_threadpool
from sse_starlette import EventSourceResponse

from perce.errors import AttuneError
from server.errors import TooLargeError, http_error
from server.personas import Persona
from server.routes.depends import Caller, Parts, acting_user
from server.schemas import ChatRequest, CompletionRequest, EmbeddingRequest
from server.services import Services
from server.store.tables.people import User

router = APIRouter(prefix="/v1")


@router.get("/models")
async def models(parts: Parts, caller: Caller) -> dict[str, Any]:
    """List the model: one, since adapters are chosen by user and not by name."""
    base = await parts.engines[0].served_model()
    entry = {"id": base.name, "object": "model", "created": 0, "owned_by": "attune"}
    return {"object": "list", "data": [entry]}


@router.post("/chat/completions", response_model=None)
async def chat(
    request: ChatRequest, parts: Parts, caller: Caller
) -> dict[str, Any] | EventSourceResponse:
    """Answer as the user's own model, whole or streamed."""
    user = await run_in_threadpool(acting_user, parts, caller, request.user)
    if not request.stream:
        return await parts.chat.complete(user, request)
    return await _event_stream(parts.chat.stream(user, request))


@router.post("/completions", response_model=None)
async def completions(
    request: CompletionRequest, parts: Parts, caller: Caller
) -> dict[str, Any] | EventSourceResponse:
    """Complete a raw prompt with the user's adapter; no persona is put in front of it."""
    user = await run_in_threadpool(acting_user, parts, caller, request.user)
    size = len(str(request.prompt))
    if size > parts.settings.max_message_chars:
        raise TooLargeError(
            f"The prompt has {size:,} characters and at most "
            f"{parts.settings.max_message_chars:,} are taken: shorten it."
        )
    if request.stream:
        return await _event_stream(_completion_chunks(parts, user, request))
    wish = request.personalization.model_copy(update={"persona": False})
    async with parts.personas.choose(user, [], wish) as persona:
        body = _completion_body(request, persona)
        response = await persona.post("/v1/completions", body)
    response["model"] = request.model or persona.base.name
    return response


@router.post("/embeddings")
def embeddings(request: EmbeddingRequest, parts: Parts, caller: Caller) -> dict[str, Any]:
    """Embed texts with the encoder that retrieval uses."""
    texts = [request.input] if isinstance(request.input, str) else request.input
    size = sum(map(len, texts))
    if size > parts.settings.max_message_chars:
        raise TooLargeError(
            f"The input has {size:,} characters and at most "
            f"{parts.settings.max_message_chars:,} are taken: send less at once."
        )
    vectors = parts.encoder.encode(texts)
    in_base64 = request.encoding_format == "base64"
    data = [
        {
            "object": "embedding",
            "index": index,
            "embedding": base64.b64encode(vector.tobytes()).decode()
            if in_base64
            else vector.tolist(),
        }
        for index, vector in enumerate(vectors)
    ]
    words = sum(len(text.split()) for text in texts)
    usage = {"prompt_tokens": words, "total_tokens": words}
    model = request.model or parts.settings.encoder or "all-MiniLM-L6-v2"
    return {"object": "list", "data": data, "model": model, "usage": usage}


def _completion_body(request: CompletionRequest, persona: Persona) -> dict[str, Any]:
    body = request.model_dump(exclude_unset=True, exclude={"personalization", "user"})
    kept = {"model": persona.model, "stream": request.stream, "cache_salt": persona.cache_salt}
    return {**body, **kept}


async def _completion_chunks(
    parts: Services, user: User, request: CompletionRequest
) -> AsyncGenerator[dict[str, Any]]:
    wish = request.personalization.model_copy(update={"persona": False})
    async with parts.personas.choose(user, [], wish) as persona:
        body = _completion_body(request, persona)
        async for chunk in persona.stream("/v1/completions", body):
            yield chunk


async def _event_stream(chunks: AsyncGenerator[dict[str, Any]]) -> EventSourceResponse:
    """Send chunks as server-sent events.

    The first chunk is awaited before the response starts, so that an error until then has
    its proper status; an error after it becomes an event in OpenAI's error shape.
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

    return EventSourceResponse(events())


def _event(chunk: dict[str, Any]) -> dict[str, str]:
    return {"data": json.dumps(chunk, ensure_ascii=False)}
