"""Arranging one night: whom to refresh, in which order, in which fleet, and whom later.

Pure: who is due comes from `server.due`, how long a refresh takes from `server.pace`, and
the rows of a plan are written by `server.plans`.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import groupby, islice
from typing import Literal, NamedTuple, TypeVar

from server.due import DueUser
from server.pace import Pace

State = Literal["planned", "queued", "carried over", "skipped"]
T = TypeVar("T")
_LAST = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Capacity:
    """What a night can hold.

    Attributes:
        window_s: Seconds from the start of the round in which refreshes may start; None for
            no end.
        fleet_size: Users who are trained together.
        workers: Workers that share the queue.
    """

    window_s: float | None = None
    fleet_size: int = 1
    workers: int = 1


class Planned(NamedTuple):
    """A due user's place in the plan; `fleet` is None for those who are carried over."""

    user_id: int
    fleet: int | None
    expected_s: float


def urgency(user: DueUser, at: datetime) -> float:
    """Return staleness times activity: hours since the last refresh, times new texts.

    Both count alike: who wrote twice as much waits half as long. Where a user was never
    refreshed, staleness counts from the day when the user was added.
    """
    return max((at - user.stale_since).total_seconds(), 0.0) / 3600 * user.new_texts


def arrange(due: Sequence[DueUser], pace: Pace, capacity: Capacity, at: datetime) -> list[Planned]:
    """Put the due users in order and cut the order where the window ends.

    First come those whom earlier plans left out, those who have waited longest before all
    others; then the most urgent. Who is refreshed alone comes behind those who have waited as
    long, in a fleet of its own. Nobody overtakes by being short: what comes behind the cut is
    carried over whole. The first fleet is planned even if the window is too short for it. So at
    least one user is planned each night, and of n users who are due on one night, each is
    planned within n nights, whoever else becomes due meanwhile.
    """
    order = sorted(
        due,
        key=lambda user: (
            user.waiting_since or _LAST,
            user.alone,
            -urgency(user, at),
            user.id,
        ),
    )
    room = None if capacity.window_s is None else capacity.window_s * capacity.workers
    arranged: list[Planned] = []
    spent, open_ = 0.0, True
    for number, fleet in enumerate(_fleets(order, capacity.fleet_size), start=1):
        seconds = [pace.seconds(user.new_texts, user.text_count) for user in fleet]
        spent += sum(seconds)
        open_ = number == 1 or (open_ and (room is None or spent <= room))
        arranged += [
            Planned(user.id, number if open_ else None, expected)
            for user, expected in zip(fleet, seconds, strict=True)
        ]
    return arranged


def _fleets(order: Sequence[DueUser], size: int) -> Iterator[list[DueUser]]:
    """Cut the order into fleets; who is refreshed alone is a fleet, and ends the one before."""
    for alone, users in groupby(order, key=lambda user: user.alone):
        yield from grouped(users, 1 if alone else size)


def grouped(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Cut a sequence into lists of this size; the last one may be shorter."""
    rest = iter(items)
    while group := list(islice(rest, size)):
        yield group
