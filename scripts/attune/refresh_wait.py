"""Following refreshes to their ends, with a bar for each, through restarts of the gateway."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from ui.gateway import Gateway
from ui.records import Refresh
from ui.transport import GatewayError

RESTARTING = frozenset({None, 502, 503, 504})
"""Statuses of a gateway, or what stands before it, that may well be back soon."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How to wait.

    Attributes:
        poll_s: Seconds between looks.
        restart_s: Seconds in which a gateway that does not answer may come back.
    """

    poll_s: float = 1.0
    restart_s: float = 300.0


def follow(
    gateway: Gateway,
    started: Sequence[Refresh],
    notes: Console,
    patience: Patience,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> list[Refresh]:
    """Watch refreshes until all have ended.

    Args:
        gateway: Where they run.
        started: The refreshes.
        notes: Where the bars go.
        patience: How to wait.
        clock: Seconds that only rise.
        sleep: Waits.

    Raises:
        GatewayError: The gateway refused, or did not come back in time.
    """
    now = list(started)
    with _Bars(now, notes) as bars:
        answered = clock()
        while not all(refresh.finished for refresh in now):
            sleep(patience.poll_s)
            try:
                now = [one if one.finished else gateway.refresh(one.user, one.id) for one in now]
            except GatewayError as error:
                if error.status not in RESTARTING or clock() - answered > patience.restart_s:
                    raise
                bars.say("the gateway does not answer: waiting for it")
            else:
                answered = clock()
                bars.draw(now)
    return now


class _Bars:
    """A bar for each refresh, and one for all of them together."""

    def __init__(self, refreshes: Sequence[Refresh], notes: Console) -> None:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[stage]}"),
            TimeElapsedColumn(),
        )
        self._progress = Progress(*columns, console=notes, transient=True)
        self._all: TaskID | None = None
        if len(refreshes) > 1:
            self._all = self._progress.add_task("all", total=len(refreshes), stage="")
        self._bars = [
            self._progress.add_task(one.user, total=None, stage=one.status) for one in refreshes
        ]

    def __enter__(self) -> "_Bars":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def draw(self, refreshes: Sequence[Refresh]) -> None:
        """Show how all refreshes stand."""
        for bar, refresh in zip(self._bars, refreshes, strict=True):
            steps = refresh.progress
            self._progress.update(
                bar,
                total=1 if refresh.finished else steps.steps if steps else None,
                completed=1 if refresh.finished else steps.step if steps else 0,
                stage=stage_line(refresh),
            )
        if self._all is not None:
            done = sum(refresh.finished for refresh in refreshes)
            line = f"{done} of {len(refreshes)} users done"
            self._progress.update(self._all, completed=done, stage=line)

    def say(self, line: str) -> None:
        """Show a line in place of the stages."""
        for bar in self._bars:
            self._progress.update(bar, stage=line)


def stage_line(refresh: Refresh) -> str:
    """Where a refresh is: its stage, tokens per second and time left while it trains."""
    if refresh.finished:
        return refresh.status
    if refresh.cancel_requested:
        return "being cancelled"
    parts = [refresh.stage or refresh.status]
    steps = refresh.progress
    if steps is not None and steps.tokens_per_s is not None:
        parts.append(f"{steps.tokens_per_s:,.0f} tokens/s")
    if steps is not None and steps.seconds_left is not None:
        parts.append(f"{duration(steps.seconds_left)} left")
    return " · ".join(parts)


def duration(seconds: float) -> str:
    """Seconds as a person says them: `45 s`, `3 min 20 s`, `2 h 5 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"
