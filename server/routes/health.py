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
    """Every engine answers, so chats will; and how many active adapters are damaged.

    Damage does not make the gateway unready: its users are answered by an older version.
    """
    for engine in parts.engines:
        await engine.check()
    base = await parts.engines[0].served_model()
    adapters = {
        "verified": parts.upkeep.verified,
        "finished": parts.upkeep.finished,
        "damaged": len(parts.damage.known),
    }
    return {"status": "ready", "model": base.name, "adapters": adapters}


@router.get("/metrics")
async def metrics() -> Response:
    """Prometheus metrics of the gateway."""
    return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)
