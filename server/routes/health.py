"""Is the gateway alive, is the engine ready, and what do they measure?"""

from typing import Any

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from server.routes.depends import Parts

router = APIRouter()


@router.get("/healthz")
async def healthz() -> dict[str, str]:
    """The gateway lives."""
    return {"status": "ok"}


@router.get("/readyz")
async def readyz(parts: Parts) -> dict[str, Any]:
    """Every engine answers, so chats will."""
    for engine in parts.engines:
        await engine.check()
    base = await parts.engines[0].served_model()
    return {"status": "ready", "model": base.name}


@router.get("/metrics")
async def metrics() -> Response:
    """Prometheus metrics of the gateway."""
    return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)
