"""Users: adding, listing, changing and erasing them."""

from collections.abc import Iterable
from typing import Any

import structlog
from fastapi import APIRouter, BackgroundTasks
from fastapi.concurrency import run_in_threadpool

from server import adapter_store, erasure, permissions, swap
from server.errors import JobsUnavailableError
from server.routes.depends import Admin, Caller, Parts, PathUser
from server.routes.views import user_view
from server.schemas import UserChange, UserRequest
from server.services import Services
from server.store.tables.adapters import Adapter
from server.store.tables.people import User
from server.store.users import add_user, audit_subject, erase_user, lock_person, summarize

log = structlog.get_logger()
router = APIRouter(prefix="/v1/users")


@router.post("", status_code=201)
def add(request: UserRequest, parts: Parts, _admin: Admin) -> dict[str, Any]:
    """Add a user; the key is shown this once."""
    with parts.database.write() as session:
        user, key = add_user(session, request.name, request.consent, request.shares)
        return {**user_view(summarize(session, user.name)[0]), "key": key}


@router.get("")
def list_all(parts: Parts, _admin: Admin) -> dict[str, Any]:
    """List all users."""
    with parts.database.read() as session:
        return {"object": "list", "data": [user_view(user) for user in summarize(session)]}


@router.get("/{user}")
def show(user: PathUser, parts: Parts) -> dict[str, Any]:
    """Show one user."""
    with parts.database.read() as session:
        return user_view(summarize(session, user.name)[0])


@router.patch("/{user}")
def change(
    request: UserChange,
    user: PathUser,
    caller: Caller,
    parts: Parts,
    afterwards: BackgroundTasks,
) -> dict[str, Any]:
    """Change what a user allows; whoever acts for the user may take a permission back.

    Who else's texts the shared adapter learns from concerns all: an admin decides that.
    """
    if request.shares:
        caller.require_admin()
    with parts.database.write() as session:
        lost = permissions.change(session, user, request.consent, request.shares)
        # Last, since refreshes are locked before users; it takes the change back.
        lock_person(session, user)
        view = user_view(summarize(session, user.name)[0])
    afterwards.add_task(_ask_for_drains, parts, lost)
    return view


@router.delete("/{user}")
async def erase(user: PathUser, parts: Parts, _admin: Admin) -> dict[str, Any]:
    """Erase a user: history, memory, embeddings, adapter files of all versions, and the key.

    So go everybody's versions that learnt from the user through the population. Texts and
    keys go at once; files when running replies end, so that no engine looks for what is gone.
    Where that fails, or takes too long, the same call goes on with it.
    """
    content, left = await run_in_threadpool(_erase_content, parts, user)
    await swap.erase_all(parts.database, parts.engines, left)
    rest = await run_in_threadpool(_erase_rest, parts, user)
    counts = {name: count + content.get(name, 0) for name, count in rest.items()}
    return {"object": "user.erased", "name": user.name, **counts}


def _erase_content(parts: Services, user: User) -> tuple[dict[str, int], list[Adapter]]:
    """Erase all that needs not wait; return how much, and the versions that have to."""
    with parts.database.write() as session:
        counts, refresh_ids = erasure.begin(session, user)
    erasure.clear_work(parts.settings.home, refresh_ids)
    with parts.database.read() as session:
        return counts, erasure.remaining(session, user)


def _erase_rest(parts: Services, user: User) -> dict[str, int]:
    """Erase the user's folder, and then the rows: a crash between the two can be mended."""
    adapter_store.delete(parts.settings.adapters_dir() / audit_subject(user.id))
    with parts.database.write() as session:
        return erase_user(session, user)


def _ask_for_drains(parts: Services, user_ids: Iterable[int]) -> None:
    """Have the files of withdrawn versions deleted; the gateway's upkeep asks again."""
    try:
        for user_id in sorted(user_ids):
            parts.jobs.drain(user_id)
    except JobsUnavailableError as error:
        log.warning("drains not enqueued", reason=str(error))
