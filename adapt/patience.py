"""Patience with a store that is away for a while: its database restarts, or fails over.

What is tried again is what was not done. Minutes pass before a refresh fails of it; longer
than its lease a worker cannot live without the store anyway (`adapt.heartbeat`).
"""

import time
from collections.abc import Callable
from typing import TypeVar

import structlog
from dbos import StepOptions
from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as NoConnectionError

from adapt.errors import StoreUnavailableError

log = structlog.get_logger()
STORE_AWAY = (OperationalError, InterfaceError, NoConnectionError)
"""How the store's driver says that the database is away, or too busy to answer in time."""
# Together 8 minutes of waiting.
_ATTEMPTS = 20
_FIRST_S = 1.0
_GROWTH = 1.3

T = TypeVar("T")


def patiently(name: str, should_retry: Callable[[BaseException], bool]) -> StepOptions:
    """Return the options of a durable step that is tried again for minutes."""
    return {
        "name": name,
        "retries_allowed": True,
        "interval_seconds": _FIRST_S,
        "backoff_rate": _GROWTH,
        "max_attempts": _ATTEMPTS,
        "should_retry": should_retry,
    }


def store_error(error: Exception) -> StoreUnavailableError:
    """Name an error of `STORE_AWAY` without its statement, so that it can be kept."""
    return StoreUnavailableError(
        f"The store could not be reached ({getattr(error, 'orig', None) or error}): see that its "
        "database runs."
    )


def persist(name: str, action: Callable[[], T]) -> T:
    """Do what is no recorded step, and must not fail because the store is away for a while.

    Raises:
        StoreUnavailableError: It was away for minutes.
    """
    for attempt in range(_ATTEMPTS - 1):
        try:
            return action()
        except STORE_AWAY as error:
            log.warning("the store is away", work=name, reason=str(store_error(error)))
            time.sleep(_FIRST_S * _GROWTH**attempt)
    try:
        return action()
    except STORE_AWAY as error:
        raise store_error(error) from None
