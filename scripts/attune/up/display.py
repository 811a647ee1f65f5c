"""What `attune up` shows while it works: a line per service with the time it has taken.

On a terminal the lines move; elsewhere (a log, a CI run) each change is a line of its own.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from scripts.attune.up.supervisor import Event
from ui.records import Refresh

_WAIT = "starting"


class Display:
    """Progress on one console."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._progress: Progress | None = None
        self._tasks: dict[str, TaskID] = {}

    @contextmanager
    def starting(self, names: list[str]) -> Iterator[None]:
        """Show every service's start until all are ready."""
        columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
        if not self.console.is_terminal:
            self.console.print(f"starting {', '.join(names)}")
            yield
            return
        with Progress(*columns, console=self.console) as self._progress:
            self._tasks = {
                name: self._progress.add_task(f"{name:<8} {_WAIT}", total=1) for name in names
            }
            try:
                yield
            finally:
                for name, task in self._tasks.items():
                    if not self._progress.tasks[task].finished:
                        self._progress.update(task, description=f"{name:<8} stopped")
                self._tasks = {}
        self._progress = None

    def event(self, event: Event) -> None:
        """Show what happened to a service."""
        task = self._tasks.get(event.service)
        if self._progress is not None and task is not None:
            if event.kind == "ready":
                text = f"{event.service:<8} ready"
                self._progress.update(task, description=text, completed=1)
            return
        if event.kind == "ready":
            self.note(f"{event.service} ready after {event.seconds:.0f} s")
        elif event.kind == "died":
            wait = f"{event.seconds:.0f} s" if event.seconds >= 1 else "a moment"
            self.note(f"{event.service} {event.detail}; it starts again in {wait}")

    def note(self, text: str) -> None:
        """Print one line."""
        self.console.print(escape(text), highlight=False)


class RefreshBar:
    """The progress of one refresh: its stage, and the steps of its training."""

    def __init__(self, console: Console) -> None:
        self._console = console
        columns = (
            SpinnerColumn(),
            TextColumn("refresh  {task.description}"),
            BarColumn(),
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            TimeElapsedColumn(),
        )
        self._progress = Progress(*columns, console=console, disable=not console.is_terminal)
        self._task = self._progress.add_task("queued", total=1)
        self._stage: str | None = None

    def __enter__(self) -> "RefreshBar":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def show(self, refresh: Refresh) -> None:
        """Show where a refresh stands."""
        stage = refresh.status if refresh.finished else refresh.stage or refresh.status
        steps = refresh.progress
        self._progress.update(
            self._task,
            description=stage,
            completed=steps.step if steps else 0,
            total=steps.steps if steps else 1,
        )
        if stage != self._stage and not self._console.is_terminal:
            self._console.print(f"refresh: {stage}")
        self._stage = stage
