"""A limit on the body of requests, counted as its bytes arrive.

Bodies are parsed on the event loop, in one go: a large one would hold up every other request.
"""

from collections.abc import Callable

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.errors import TooLargeError, http_error

# A prompt and a reply may come together; JSON spells a character with up to twelve bytes, in
# two halves of six, but hardly a whole text so; and each message has its own names and braces.
_BYTES_PER_CHAR = 16
# For bodies that have more around their text than text, however short texts must be.
_FRAME_BYTES = 64 * 2**10


def most_body_bytes(max_message_chars: int) -> int:
    """Return how long a body may be that holds texts of this many characters."""
    return _FRAME_BYTES + _BYTES_PER_CHAR * max_message_chars


class RefusedBody(HTTPException):
    """Raised while a route reads a body: FastAPI lets no other error of a middleware through.

    Attributes:
        error: Why the body is refused.
    """

    def __init__(self, error: TooLargeError) -> None:
        super().__init__(http_error(error)[0], str(error))
        self.error = error


class BodyLimitMiddleware:
    """Refuses longer bodies, by their declared length or as soon as too much has arrived.

    Args:
        app: What is limited.
        most: Bytes that a body may have.
        exempt: Endpoints that read their body piece by piece, with a limit of their own.
    """

    def __init__(self, app: ASGIApp, most: int, exempt: frozenset[Callable[..., object]]) -> None:
        self._app = app
        self._most = most
        self._exempt = exempt

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, and count what it sends."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        arrived, declared = 0, _declared_bytes(scope)

        async def counted() -> Message:
            nonlocal arrived
            # Which endpoint it is was found out before the body is read.
            limited = scope.get("endpoint") not in self._exempt
            if limited and declared > self._most:
                raise self._refusal()
            message = await receive()
            arrived += len(message.get("body", b""))
            if limited and arrived > self._most:
                raise self._refusal()
            return message

        await self._app(scope, counted, send)

    def _refusal(self) -> RefusedBody:
        return RefusedBody(
            TooLargeError(
                f"The request's body is longer than the {self._most:,} bytes that are taken: "
                "shorten it."
            )
        )


def _declared_bytes(scope: Scope) -> int:
    """The body's length by its header; 0 where it comes in pieces."""
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit():
            return int(value)
    return 0
