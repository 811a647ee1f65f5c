"""The online mode: texts that arrive lead to a round soon, through the job queue.

The round itself, with its budget, is the worker's. Asking for it costs the request that
brought the texts nothing: it runs after the answer was sent.
"""

import structlog

from server.errors import JobsUnavailableError
from server.jobs import Jobs
from server.store.tables.base import now

log = structlog.get_logger()


def texts_arrived(jobs: Jobs) -> None:
    """Ask for an online round if the schedule says so.

    Where the queue cannot be reached, the texts stay counted: the next arrival asks again,
    and the nightly round finds their users in any case.
    """
    try:
        if jobs.schedule().online:
            jobs.hold_online_round(now())
    except JobsUnavailableError as error:
        log.warning("online round not asked for", reason=str(error))
