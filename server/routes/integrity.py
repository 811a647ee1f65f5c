"""Checking all adapters against the registry, and removing what belongs to none."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import structlog
from fastapi import APIRouter
from fastapi.concurrency import run_in_threadpool
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from perce.adapter_files import model_fingerprint
from server import population, swap
from server.integrity import Finding, Integrity, remove
from server.routes.depends import Admin, Parts
from server.schemas import VerifyRequest
from server.services import Services
from server.store.tables.adapters import Adapter
from server.store.tables.people import User
from server.store.users import find_user

log = structlog.get_logger()
router = APIRouter(prefix="/v1")

# Hashing takes a while: an answer is due long before any client loses patience.
_USERS_A_PAGE = 50


@router.post("/adapters/verify")
async def verify(request: VerifyRequest, parts: Parts, _admin: Admin) -> dict[str, Any]:
    """Check files against checksums, base models, and folders against rows; repair removes strays.

    All users are checked page by page: ask again with `after` set to `next` until that is null.
    """
    users, versions, found = await run_in_threadpool(_check, parts, request)
    repaired = [request.repair and await _repair(parts, finding) for finding in found]
    return {
        "object": "adapters.verification",
        "users": len(users),
        "versions": versions,
        "findings": [
            {**asdict(finding), "repaired": done}
            for finding, done in zip(found, repaired, strict=True)
        ],
        "next": users[-1].id if len(users) == _USERS_A_PAGE and request.user is None else None,
    }


def _check(parts: Services, request: VerifyRequest) -> tuple[Sequence[User], int, list[Finding]]:
    # The model may have been exchanged since the start; unchanged files are not hashed again.
    base_model = model_fingerprint(parts.settings.model)
    integrity = Integrity(parts.database, parts.settings.adapters_dir(), base_model)
    with parts.database.read() as session:
        users = _page(session, request)
        ids = [user.id for user in users]
        versions = session.scalars(
            select(func.count()).select_from(Adapter).where(Adapter.user_id.in_(ids))
        ).one()
    found = [finding for user in users for finding in integrity.of_user(user)]
    if request.user is None and not request.after:
        found += integrity.of_nobody()
    return users, versions, found


def _page(session: Session, request: VerifyRequest) -> Sequence[User]:
    if request.user == population.NAME:
        owner = population.find(session)
        return [] if owner is None else [owner]
    if request.user is not None:
        return [find_user(session, request.user)]
    query = select(User).where(User.id > request.after).order_by(User.id).limit(_USERS_A_PAGE)
    return session.scalars(query).all()


async def _repair(parts: Services, finding: Finding) -> bool:
    """Remove a stray, once no engine can look for it; return whether that was done."""
    if not finding.removable:
        return False
    for name in finding.engine_names:
        await swap.unload(parts.engines, name)
    removed = await run_in_threadpool(remove, finding)
    log.info("stray removed", path=finding.path, problem=finding.problem)
    return removed
