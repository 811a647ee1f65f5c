"""Keys beyond the first one of each user: for services, and for users who lost theirs."""

from typing import Any

from fastapi import APIRouter

from server.errors import BadRequestError
from server.routes.depends import Admin, Parts
from server.schemas import KeyRequest
from server.store.users import add_key, find_user, revoke_keys

router = APIRouter(prefix="/v1/keys")


@router.post("", status_code=201)
def add(request: KeyRequest, parts: Parts, _admin: Admin) -> dict[str, Any]:
    """Make a key, shown this once; a user's new key replaces the old one."""
    if (request.role == "user") != (request.user is not None):
        raise BadRequestError("A key of role 'user' names a user, and one of role 'service' none.")
    with parts.database.write() as session:
        user = None if request.user is None else find_user(session, request.user)
        if user is not None:
            revoke_keys(session, user)
        key = add_key(session, request.role, user)
    return {"object": "key", "role": request.role, "user": request.user, "key": key}
