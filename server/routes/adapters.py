"""A user's adapter versions and refreshes, and the schedule of the nightly ones."""

from typing import Any

from fastapi import APIRouter
from fastapi.concurrency import run_in_threadpool
from sqlalchemy.orm import Session

from perce.errors import AttuneError
from server import registry, swap
from server.jobs import Schedule
from server.refreshes import close, find_refresh, list_refreshes, open_due, open_refresh
from server.routes.depends import Admin, Parts, PathUser
from server.routes.views import adapter_views, refresh_view
from server.schemas import RefreshRequest, RollbackRequest, ScheduleRequest
from server.services import Services
from server.store.tables import Adapter, Refresh, User

router = APIRouter(prefix="/v1")


@router.get("/users/{user}/adapters")
def list_adapters(user: PathUser, parts: Parts) -> dict[str, Any]:
    """List all versions of the user's adapter, newest first."""
    with parts.database.read() as session:
        return _adapters(session, user)


@router.post("/users/{user}/adapters/rollback")
async def rollback(request: RollbackRequest, user: PathUser, parts: Parts) -> dict[str, Any]:
    """Make an earlier version active again, or the base model; the other one is drained."""
    target = await run_in_threadpool(_rollback_target, parts, user, request.to)
    if target is not None:
        await swap.warm(parts.engines, target)
    return await run_in_threadpool(_flip, parts, user, target)


@router.post("/users/{user}/refreshes", status_code=202)
def refresh(request: RefreshRequest, user: PathUser, parts: Parts) -> dict[str, Any]:
    """Start a refresh of the user's adapter."""
    with parts.database.write() as session:
        opened = open_refresh(session, user, request.method)
    _enqueue(parts, opened)
    with parts.database.read() as session:
        return refresh_view(session, opened)


@router.get("/users/{user}/refreshes")
def list_all(user: PathUser, parts: Parts) -> dict[str, Any]:
    """List the user's refreshes, newest first."""
    with parts.database.read() as session:
        rows = list_refreshes(session, user)
        return {"object": "list", "data": [refresh_view(session, row) for row in rows]}


@router.get("/users/{user}/refreshes/{refresh_id}")
def show(refresh_id: str, user: PathUser, parts: Parts) -> dict[str, Any]:
    """Show one refresh: progress while it runs, then the verdict."""
    with parts.database.read() as session:
        return refresh_view(session, find_refresh(session, user, refresh_id))


@router.get("/schedule")
def show_schedule(parts: Parts, _admin: Admin) -> dict[str, Any]:
    """Show when due users are refreshed."""
    return _schedule_view(parts.jobs.schedule())


@router.put("/schedule")
def set_schedule(request: ScheduleRequest, parts: Parts, _admin: Admin) -> dict[str, Any]:
    """Change the schedule; what is left out stays."""
    current = parts.jobs.schedule()
    changed = Schedule(
        cron=current.cron if request.cron is None else request.cron,
        timezone=current.timezone if request.timezone is None else request.timezone,
        paused=current.paused if request.paused is None else request.paused,
        min_new_texts=(
            current.min_new_texts if request.min_new_texts is None else request.min_new_texts
        ),
    )
    parts.jobs.set_schedule(changed)
    return _schedule_view(changed)


@router.post("/schedule/run", status_code=202)
def run_now(parts: Parts, _admin: Admin) -> dict[str, Any]:
    """Start a refresh for every user who is due, now."""
    schedule = parts.jobs.schedule()
    with parts.database.write() as session:
        opened = open_due(session, schedule.min_new_texts)
    for one in opened:
        _enqueue(parts, one)
    with parts.database.read() as session:
        return {"object": "list", "data": [refresh_view(session, row) for row in opened]}


def _adapters(session: Session, user: User) -> dict[str, Any]:
    rows = registry.versions(session, user)
    current = next((row.label for row in rows if row.state == "active"), None)
    return {"object": "list", "active": current, "data": adapter_views(rows)}


def _rollback_target(parts: Services, user: User, to: str | None) -> Adapter | None:
    with parts.database.read() as session:
        if to == "none":
            return None
        return registry.previous(session, user) if to is None else registry.find(session, user, to)


def _flip(parts: Services, user: User, target: Adapter | None) -> dict[str, Any]:
    with parts.database.write() as session:
        if target is None:
            old = registry.deactivate(session, user)
        else:
            old = registry.activate(session, target)
    if old is not None:
        parts.jobs.drain(user.id)
    with parts.database.read() as session:
        return _adapters(session, user)


def _enqueue(parts: Services, opened: Refresh) -> None:
    """Hand a refresh to the worker; one that cannot be handed over is closed as failed."""
    try:
        parts.jobs.refresh(opened.id)
    except AttuneError as error:
        with parts.database.write() as session:
            close(session, opened.id, "failed", error=str(error))
        raise


def _schedule_view(schedule: Schedule) -> dict[str, Any]:
    following = schedule.next_run()
    return {
        "cron": schedule.cron,
        "timezone": schedule.timezone,
        "paused": schedule.paused,
        "next_run": following.isoformat() if following else None,
        "min_new_texts": schedule.min_new_texts,
    }
