"""Keeps services running: starts them together, starts again what dies, stops all.

One thread, which looks every quarter of a second; the kernel ends a service when the
thread that started it ends, so all starts are this thread's.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from scripts.attune.up.errors import ServiceDiedError
from scripts.attune.up.process import GRACE_S, Child, Service

LOOK_S = 0.25
PROBE_S = 0.5


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """When a service that died is started again, and when that is given up.

    Attributes:
        first_wait_s: Wait before the first restart; it doubles with each death in a row.
        longest_wait_s: The wait's limit.
        steady_s: A service that was ready for so long has a clean record again.
        most_deaths: So many deaths in a row, and the supervisor gives up.
    """

    first_wait_s: float = 0.5
    longest_wait_s: float = 15.0
    steady_s: float = 60.0
    most_deaths: int = 5

    def wait_s(self, deaths: int) -> float:
        """Seconds to wait after so many deaths in a row."""
        return min(self.longest_wait_s, self.first_wait_s * 2.0 ** (deaths - 1))


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to a service.

    Attributes:
        service: Its name.
        kind: What happened.
        seconds: From its start to its readiness, or until it is started again.
        detail: How it died.
    """

    service: str
    kind: Literal["starting", "ready", "died"]
    seconds: float = 0.0
    detail: str = ""


class _Kept:
    """A service with its current process and its record."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.child: Child | None = None
        self.ready_since: float | None = None
        self.start_s = 0.0
        self.deaths = 0
        self.start_at = 0.0
        self.probe_at = 0.0


class Supervisor:
    """Runs services until it is told to stop.

    Args:
        services: What to run.
        logs: Folder of their logs, one `NAME.log` each; that of the run before is `.log.1`.
        on_event: Told of everything that happens.
        policy: When to start again what died.
        grace_s: How long a service may take to end.
    """

    def __init__(
        self,
        services: Sequence[Service],
        logs: Path,
        on_event: Callable[[Event], None],
        policy: RestartPolicy | None = None,
        grace_s: float = GRACE_S,
    ) -> None:
        self._kept = [_Kept(service) for service in services]
        self._logs = logs
        self._on_event = on_event
        self._policy = policy or RestartPolicy()
        self._grace_s = grace_s

    def start(self) -> dict[str, float]:
        """Start every service and wait until all are ready.

        Returns:
            Seconds from each service's start to its readiness.

        Raises:
            ServiceDiedError: One ended, or was not ready in time.
        """
        for kept in self._kept:
            self._start(kept)
        while any(kept.ready_since is None for kept in self._kept):
            for kept in self._kept:
                child = kept.child
                assert child is not None
                if how := child.ended():
                    raise self._died(kept, f"{how} while starting")
                if kept.ready_since is None:
                    self._probe(kept, child)
            time.sleep(LOOK_S)
        return {kept.service.name: kept.start_s for kept in self._kept}

    def watch(self, until: Callable[[], bool]) -> None:
        """Keep all services running until a condition holds.

        Raises:
            ServiceDiedError: A service died too often in a row.
        """
        while not until():
            for kept in self._kept:
                self._look(kept)
            time.sleep(LOOK_S)

    def stop(self) -> None:
        """End every service, all at the same time."""
        children = [kept.child for kept in self._kept if kept.child is not None]
        for child in children:
            child.terminate()
        for child in children:
            child.wait()
        for kept in self._kept:
            kept.child = None

    def _look(self, kept: _Kept) -> None:
        now = time.monotonic()
        child = kept.child
        if child is None:
            if now >= kept.start_at:
                self._start(kept)
        elif how := child.ended():
            self._bury(kept, how)
        elif kept.ready_since is None:
            self._probe(kept, child)
        elif now - kept.ready_since >= self._policy.steady_s:
            kept.deaths = 0

    def _start(self, kept: _Kept) -> None:
        kept.child = Child(kept.service, self._logs, self._grace_s)
        kept.ready_since = None
        self._on_event(Event(kept.service.name, "starting"))

    def _probe(self, kept: _Kept, child: Child) -> None:
        now = time.monotonic()
        if now < kept.probe_at:
            return
        kept.probe_at = now + PROBE_S
        if kept.service.ready():
            kept.ready_since, kept.start_s = time.monotonic(), child.age_s
            self._on_event(Event(kept.service.name, "ready", kept.start_s))
        elif child.age_s > kept.service.start_timeout_s:
            limit = kept.service.start_timeout_s
            raise self._died(kept, f"was not ready after {limit:.0f} s")

    def _bury(self, kept: _Kept, how: str) -> None:
        kept.deaths += 1
        if kept.deaths >= self._policy.most_deaths:
            raise self._died(kept, f"{how}, {kept.deaths} times in a row")
        wait_s = self._policy.wait_s(kept.deaths)
        kept.child, kept.start_at = None, time.monotonic() + wait_s
        self._on_event(Event(kept.service.name, "died", wait_s, how))

    def _died(self, kept: _Kept, how: str) -> ServiceDiedError:
        assert kept.child is not None
        return ServiceDiedError(kept.service.name, how, kept.child.log, kept.child.last_lines())
