"""Every error that the online side raises on purpose, and the one mapping to HTTP.

An error's message says what happened and what to do. `http_error` is the only place
that knows status codes; the body is always in OpenAI's shape.
"""

from typing import Any

from perce.cutting import PromptTooLong
from perce.errors import AttuneError
from perce.tokens import TemplateRefusal, UnsupportedContent


class BadRequestError(AttuneError):
    """The request cannot be understood as it stands."""


class WrongKeyError(AttuneError):
    """The key is missing, unknown or revoked: send `Authorization: Bearer KEY`."""


class ForbiddenError(AttuneError):
    """The key is valid, but not for this: use an admin key, or the user's own."""


class UnknownUserError(AttuneError):
    """There is no such user: add one with `attune users add NAME`."""

    def __init__(self, name: str) -> None:
        super().__init__(f"There is no user {name!r}: add one with `attune users add {name}`.")


class ReservedUserError(AttuneError):
    """The name is the population's, who is no person."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"{name} is not a person but the owner of the adapter that all share: it can be "
            "refreshed and rolled back, with an admin key, and nothing else. Name a person."
        )


class NotFoundError(AttuneError):
    """What the path names does not exist for this user."""


class ConflictError(AttuneError):
    """The state does not allow this now."""


class TooLargeError(AttuneError):
    """The request is larger than this server takes."""


class UnprocessableError(AttuneError):
    """The request is well formed, but there is not enough to do it with."""


class EngineUnavailableError(AttuneError):
    """The engine does not answer: it is starting or restarting; try again in a minute."""


class EngineAsleepError(AttuneError):
    """The engine sleeps while its GPU trains: try again when `Retry-After` says.

    Attributes:
        retry_after_s: Seconds until it is expected back.
    """

    def __init__(self, retry_after_s: int) -> None:
        super().__init__(
            f"The engine sleeps while its GPU trains; it is expected back in {retry_after_s} s: "
            "try again then."
        )
        self.retry_after_s = retry_after_s


class EngineRefusedError(AttuneError):
    """The engine answered with an error of its own; its status and text are kept.

    Attributes:
        status: The engine's HTTP status.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class PromptMismatchError(AttuneError):
    """The engine read another prompt than the model's own chat template makes of the messages.

    PIR would show the difference as the user's. Start the engine without `--chat-template`,
    `--default-chat-template-kwargs` and other options that change prompts.
    """

    def __init__(self) -> None:
        super().__init__(
            "The engine read another prompt than the model's own chat template makes of the "
            "messages, so no PIR can be told. Start it without --chat-template and "
            "--default-chat-template-kwargs, or ask without PIR."
        )


class EncoderChangedError(AttuneError):
    """Another process was started with another `ATTUNE_ENCODER`: give all the same, and restart."""

    def __init__(self) -> None:
        super().__init__(
            "The stored vectors are another encoder's than this gateway's: start gateway and "
            "workers anew with the same ATTUNE_ENCODER."
        )


class ReplyMismatchError(AttuneError):
    """The engine's text is not what its tokens say: it left a part out, such as the thinking.

    PIR would be told of the wrong words. Start the engine without `--reasoning-parser`.
    """

    def __init__(self) -> None:
        super().__init__(
            "The engine left a part of what the model wrote out of the reply, as a reasoning "
            "parser does with the thinking, so no PIR can be told. Start it without "
            "--reasoning-parser, switch thinking off in the request where the model can "
            '("reasoning_effort": "none"), or ask without PIR.'
        )


class JobsUnavailableError(AttuneError):
    """The job queue cannot be reached: start the worker (`attune up` does)."""


_STATUS: dict[type[AttuneError], tuple[int, str, str]] = {
    BadRequestError: (400, "invalid_request_error", "bad_request"),
    TemplateRefusal: (400, "invalid_request_error", "bad_request"),
    UnsupportedContent: (400, "invalid_request_error", "unsupported_content"),
    WrongKeyError: (401, "authentication_error", "invalid_api_key"),
    ForbiddenError: (403, "permission_error", "forbidden"),
    UnknownUserError: (404, "invalid_request_error", "unknown_user"),
    NotFoundError: (404, "invalid_request_error", "not_found"),
    ReservedUserError: (409, "invalid_request_error", "reserved_user"),
    ConflictError: (409, "invalid_request_error", "conflict"),
    PromptTooLong: (413, "invalid_request_error", "too_large"),
    TooLargeError: (413, "invalid_request_error", "too_large"),
    UnprocessableError: (422, "invalid_request_error", "unprocessable"),
    PromptMismatchError: (502, "server_error", "prompt_mismatch"),
    ReplyMismatchError: (502, "server_error", "reply_mismatch"),
    EngineAsleepError: (503, "server_error", "engine_asleep"),
    EngineUnavailableError: (503, "server_error", "engine_unavailable"),
    EncoderChangedError: (503, "server_error", "encoder_changed"),
    JobsUnavailableError: (503, "server_error", "jobs_unavailable"),
}


def http_error(error: AttuneError) -> tuple[int, dict[str, Any]]:
    """Return the HTTP status and the body, in OpenAI's error shape, of an error."""
    message = str(error) or (type(error).__doc__ or "").strip()
    if isinstance(error, EngineRefusedError):
        kind = "invalid_request_error" if error.status < 500 else "server_error"
        status = error.status if error.status < 500 else 502
        return status, error_body(message, kind, "engine_refused")
    for cls in type(error).__mro__:
        if cls in _STATUS:
            status, kind, code = _STATUS[cls]
            return status, error_body(message, kind, code)
    return 500, error_body(message, "server_error", "internal")


def error_body(message: str, kind: str, code: str, param: str | None = None) -> dict[str, Any]:
    """Return an error body in OpenAI's shape."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}
