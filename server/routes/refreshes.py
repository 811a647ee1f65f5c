"""Refreshes of a user, or of the population: start, follow, cancel; and the newest round."""

from dataclasses import asdict
from typing import Any

from fastapi import APIRouter

from perce.errors import AttuneError
from server import plans
from server.cancellation import cancel_refresh
from server.errors import NotFoundError
from server.refreshes import advance, find_refresh, list_refreshes, open_refresh
from server.rounds import round_progress
from server.routes.depends import Admin, Parts, PathOwner
from server.routes.views import refresh_view
from server.schemas import RefreshRequest
from server.services import Services
from server.store.tables.base import now
from server.store.tables.refreshes import Refresh

router = APIRouter(prefix="/v1")


@router.post("/users/{user}/refreshes", status_code=202)
def start(request: RefreshRequest, user: PathOwner, parts: Parts) -> dict[str, Any]:
    """Start a refresh of the user's adapter."""
    with parts.database.write() as session:
        opened = open_refresh(session, user, request.method)
    hand_over(parts, opened)
    with parts.database.read() as session:
        return refresh_view(session, opened)


@router.get("/users/{user}/refreshes")
def list_all(user: PathOwner, parts: Parts) -> dict[str, Any]:
    """List the user's refreshes, newest first."""
    with parts.database.read() as session:
        rows = list_refreshes(session, user)
        return {"object": "list", "data": [refresh_view(session, row) for row in rows]}


@router.get("/users/{user}/refreshes/{refresh_id}")
def show(refresh_id: str, user: PathOwner, parts: Parts) -> dict[str, Any]:
    """Show one refresh: progress while it runs, then the verdict."""
    with parts.database.read() as session:
        return refresh_view(session, find_refresh(session, user, refresh_id))


@router.post("/users/{user}/refreshes/{refresh_id}/cancel", status_code=202)
def cancel(refresh_id: str, user: PathOwner, parts: Parts) -> dict[str, Any]:
    """Cancel a refresh: one that waits at once, one that trains after its optimizer step."""
    with parts.database.write() as session:
        return refresh_view(session, cancel_refresh(session, user, refresh_id))


@router.get("/schedule/progress")
def progress(parts: Parts, _admin: Admin) -> dict[str, Any]:
    """Show how the newest round stands: users done, tokens per second, time left."""
    with parts.database.read() as session:
        plan = plans.latest(session)
        if plan is None:
            raise NotFoundError("No round has run yet: start one with `attune schedule run-now`.")
        stands = asdict(round_progress(session, plan.id))
    started = stands["started_at"]
    return {
        "object": "round",
        **stands,
        "started_at": started.isoformat() if started else None,
        "planned_at": plan.created_at.isoformat(),
        "summary": plan.summary,
    }


def hand_over(parts: Services, opened: Refresh) -> None:
    """Hand a refresh to the workers; one that cannot be handed over has failed."""
    try:
        parts.jobs.refresh([opened.id], opened.workflow_id or opened.id)
    except AttuneError as error:
        with parts.database.write() as session:
            # Not closed: nothing was tried, so the user stays as due as before.
            advance(session, opened.id, status="failed", finished_at=now(), error=str(error))
        raise
