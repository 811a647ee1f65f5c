"""Adapter versions of a user, or of the population: list them, and roll back to one."""

from dataclasses import dataclass
from typing import Any

import structlog
from anyio import CancelScope
from fastapi import APIRouter
from fastapi.concurrency import run_in_threadpool
from sqlalchemy.orm import Session

from server import leases, pointer, population, registry, swap
from server.errors import JobsUnavailableError
from server.routes.depends import Parts, PathOwner
from server.routes.views import adapter_views
from server.schemas import RollbackRequest
from server.services import Services
from server.store.tables.adapters import Adapter
from server.store.tables.people import User

log = structlog.get_logger()
router = APIRouter(prefix="/v1")


@dataclass(frozen=True, slots=True)
class _Chosen:
    """Where a rollback goes, what was active when "the one before" was asked for, and a lease."""

    target: Adapter | None
    seen: Adapter | None
    token: str | None


@router.get("/users/{user}/adapters")
def list_adapters(user: PathOwner, parts: Parts) -> dict[str, Any]:
    """List all versions of the user's adapter, newest first."""
    with parts.database.read() as session:
        return _adapters(session, user)


@router.post("/users/{user}/adapters/rollback")
async def rollback(request: RollbackRequest, user: PathOwner, parts: Parts) -> dict[str, Any]:
    """Make an earlier version active again, or none of the user's own; drain the other one."""
    chosen = await run_in_threadpool(_choose_target, parts, user, request.to)
    try:
        if chosen.target is not None:
            await run_in_threadpool(parts.damage.check, chosen.target)
            await swap.warm(parts.database, parts.engines, chosen.target)
        return await run_in_threadpool(_flip, parts, user, chosen)
    finally:
        if chosen.token is not None:
            with CancelScope(shield=True):
                await run_in_threadpool(parts.leases.give_back, chosen.token)


def _adapters(session: Session, user: User) -> dict[str, Any]:
    rows = registry.versions(session, user)
    current = next((row.label for row in rows if row.state == "active"), None)
    answers = leases.choose(session, user, "active")
    return {
        "object": "list",
        "active": current,
        "answers": population.label_for(user, answers) if answers else None,
        "data": adapter_views(session, rows),
    }


def _choose_target(parts: Services, user: User, to: str | None) -> _Chosen:
    """Find where to roll back to, with a lease on it: until the flip it must not be erased."""
    with parts.database.write() as session:
        if to is None:
            target, seen = pointer.previous(session, user), registry.active(session, user)
        else:
            target, seen = None if to == "none" else registry.find(session, user, to), None
        token = parts.leases.hold(session, target) if target else None
    return _Chosen(target, seen, token)


def _flip(parts: Services, user: User, chosen: _Chosen) -> dict[str, Any]:
    with parts.database.write() as session:
        old = pointer.rollback(session, user, chosen.target, chosen.seen)
    if old is not None:
        try:
            parts.jobs.drain(user.id)
        except JobsUnavailableError as error:
            # The flip is done; the gateway's upkeep asks again.
            log.warning("drain not enqueued", adapter=old.name, reason=str(error))
    with parts.database.read() as session:
        return _adapters(session, user)
