"""How the parts of the scripted gateway answer: a status and JSON, by method and path."""

from collections.abc import Callable
from typing import Any

Answer = tuple[int, Any]
Routes = dict[str, Callable[..., Answer]]
"""By method and pattern of a path; called with the path's groups and the request's body."""

USER = r"/v1/users/(?P<user>[^/]+)"


def listed(data: list[Any]) -> Answer:
    return 200, {"object": "list", "data": data}


def refused(status: int, message: str) -> Answer:
    error = {"message": message, "type": "invalid_request_error", "param": None, "code": None}
    return status, {"error": error}
