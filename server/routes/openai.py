"""OpenAI's own endpoints: models, chat, completions, embeddings."""

import base64
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from fastapi import APIRouter
from fastapi.concurrency import run_in_threadpool
from sse_starlette import EventSourceResponse

from server.routes.depends import Caller, Parts, acting_user
from server.routes.event_stream import event_stream
from server.schemas import ENGINES_OWN, ChatRequest, CompletionRequest, EmbeddingRequest
from server.services import Services
from server.servings import Serving
from server.store.tables.people import User
from server.text_check import check_text

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
    return await event_stream(parts.chat.stream(user, request))


@router.post("/completions", response_model=None)
async def completions(
    request: CompletionRequest, parts: Parts, caller: Caller
) -> dict[str, Any] | EventSourceResponse:
    """Complete a raw prompt with the user's adapter; no persona is put in front of it."""
    user = await run_in_threadpool(acting_user, parts, caller, request.user)
    most = parts.settings.max_message_chars
    await run_in_threadpool(check_text, "The prompt has", [request.prompt], most)
    others = list((request.model_extra or {}).values())
    await run_in_threadpool(check_text, "The request's other fields have", others, most)
    if request.stream:
        return await event_stream(_completion_chunks(parts, user, request))
    wish = request.personalization.model_copy(update={"persona": False})
    async with parts.servings.choose(user, [], wish) as serving:
        body = _completion_body(request, serving)
        response = await serving.post("/v1/completions", body)
    response["model"] = request.model or serving.base.name
    return response


@router.post("/embeddings")
def embeddings(request: EmbeddingRequest, parts: Parts, caller: Caller) -> dict[str, Any]:
    """Embed texts with the encoder that retrieval uses."""
    texts = [request.input] if isinstance(request.input, str) else request.input
    check_text("The input has", texts, parts.settings.max_message_chars)
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


def _completion_body(request: CompletionRequest, serving: Serving) -> dict[str, Any]:
    body = request.model_dump(exclude_unset=True, exclude={"personalization", "user"} | ENGINES_OWN)
    kept = {"model": serving.model, "stream": request.stream, "cache_salt": serving.cache_salt}
    return {**body, **kept}


async def _completion_chunks(
    parts: Services, user: User, request: CompletionRequest
) -> AsyncGenerator[dict[str, Any]]:
    wish = request.personalization.model_copy(update={"persona": False})
    async with parts.servings.choose(user, [], wish) as serving:
        body = _completion_body(request, serving)
        async with aclosing(serving.stream("/v1/completions", body)) as chunks:
            async for chunk in chunks:
                chunk["model"] = request.model or serving.base.name
                yield chunk
