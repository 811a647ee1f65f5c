"""Work that is done while the services run, and its end where they have to stop."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from threading import Event
from typing import TypeVar

from scripts.attune.up.errors import NotRestoredError
from scripts.attune.up.supervisor import Supervisor

T = TypeVar("T")
LEAVE_S = 10.0
"""How long work that is to end may take to put in order what it began."""


def done_meanwhile(
    supervisor: Supervisor, work: Callable[[Event], T], leave_s: float = LEAVE_S
) -> T:
    """Do work in a thread while this one keeps the services running.

    Where that ends with an error or Ctrl-C, the services are stopped: after the work, or after
    its time to leave, and at once after a second Ctrl-C.

    Args:
        supervisor: Keeps the services running.
        work: Given an event, which is set when the work is to end.
        leave_s: How long it may take then.

    Raises:
        NotRestoredError: The work had to end, and could not put in order what it began.
    """
    leave = Event()
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(work, leave)
        try:
            supervisor.watch(until=future.done)
        except BaseException as ended:
            leave.set()
            with suppress(KeyboardInterrupt):
                wait([future], leave_s)
            supervisor.stop()  # so that work that goes on all the same fails and its thread ends
            if isinstance(failure := future.exception(), NotRestoredError):
                raise failure from ended
            raise
        return future.result()
