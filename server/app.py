"""The gateway as an ASGI application: routes, errors in OpenAI's shape, life cycle."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog
from anyio import create_task_group
from fastapi import FastAPI, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from perce.errors import AttuneError
from server.body_limit import BodyLimitMiddleware, RefusedBody, most_body_bytes
from server.errors import EngineAsleepError, error_body, http_error
from server.metrics import MetricsMiddleware
from server.routes import (
    adapters,
    export,
    health,
    integrity,
    keys,
    memory,
    openai,
    pir,
    refreshes,
    schedule,
    users,
)
from server.services import Services

log = structlog.get_logger()


def create_app(services: Services) -> FastAPI:
    """Build the gateway around its services."""

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        await run_in_threadpool(services.database.migrate, services.settings.home)
        await run_in_threadpool(services.contexts.embedding.take_over)
        async with create_task_group() as background:
            background.start_soon(services.upkeep.run)
            background.start_soon(services.contexts.run)
            yield
            background.cancel_scope.cancel()
        await services.close()

    app = FastAPI(title="Attune", lifespan=lifespan)
    app.state.services = services
    app.add_middleware(
        BodyLimitMiddleware,
        most=most_body_bytes(services.settings.max_message_chars),
        exempt=frozenset({memory.import_history}),
    )
    app.add_middleware(MetricsMiddleware)
    routed = (
        health,
        openai,
        pir,
        keys,
        users,
        memory,
        export,
        adapters,
        refreshes,
        schedule,
        integrity,
    )
    for module in routed:
        app.include_router(module.router)
    app.add_exception_handler(AttuneError, _attune_error)
    app.add_exception_handler(RequestValidationError, _invalid_request)
    app.add_exception_handler(RefusedBody, _refused_body)
    app.add_exception_handler(HTTPException, _http_exception)
    app.add_exception_handler(Exception, _unforeseen)
    return app


async def _attune_error(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, AttuneError)
    status, body = http_error(error)
    if isinstance(error, EngineAsleepError):
        return JSONResponse(body, status, {"Retry-After": str(error.retry_after_s)})
    return JSONResponse(body, status)


async def _invalid_request(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"] if part != "body")
    message = f"{where or 'The body'}: {first['msg']}."
    return JSONResponse(
        error_body(message, "invalid_request_error", "invalid_request", where or None), 400
    )


async def _refused_body(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RefusedBody)
    status, body = http_error(error.error)
    return JSONResponse(body, status)


async def _http_exception(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    kind = "invalid_request_error" if error.status_code < 500 else "server_error"
    return JSONResponse(
        error_body(str(error.detail), kind, "http_error"), error.status_code, error.headers
    )


async def _unforeseen(request: Request, error: Exception) -> JSONResponse:
    log.error("unforeseen error", path=request.url.path, exc_info=error)
    message = "Something went wrong in the gateway; its log has the details."
    return JSONResponse(error_body(message, "server_error", "internal"), 500)
