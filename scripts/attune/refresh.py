"""`attune refresh`: train, gate and publish a user's next adapter version."""

import time
from collections.abc import Sequence
from typing import Annotated

import typer
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from scripts.attune.options import MethodOption
from scripts.attune.session import Session, connected, dumped
from scripts.attune.tables import refresh_table
from scripts.attune.words import printable
from ui.records import Method, Refresh
from ui.transport import GatewayError


@connected
def refresh(
    session: Session,
    users: Annotated[
        list[str], typer.Argument(metavar="USER...", help="Whose adapters.", show_default=False)
    ],
    method: MethodOption = "perce",
    wait: Annotated[
        bool, typer.Option("--wait", help="Stay until every refresh has its verdict.")
    ] = False,
    poll: Annotated[
        float, typer.Option(min=0.01, help="Seconds between looks while waiting.")
    ] = 1.0,
) -> None:
    """Refresh the adapters of users from their history.

    A rejected candidate is a success: the incumbent was better, and stays. The exit status
    is 1 where a refresh could not start or failed.
    """
    started, refused = _start(session, users, method)
    if wait:
        started = _follow(session, started, poll)
    results = dumped(started)
    errors = [{"user": user, "message": message} for user, message in refused.items()]
    if session.as_json or started:
        session.show({"refreshes": results, "errors": errors}, lambda: refresh_table(started))
    for message in refused.values():
        typer.echo(printable(message), err=True)
    if refused or any(refresh.status == "failed" for refresh in started):
        raise typer.Exit(1)


def _start(
    session: Session, users: Sequence[str], method: Method
) -> tuple[list[Refresh], dict[str, str]]:
    """Queue every refresh that can be; answers them, and why the others were refused."""
    started: list[Refresh] = []
    refused: dict[str, str] = {}
    for user in users:
        try:
            started.append(session.gateway.start_refresh(user, method))
        except GatewayError as error:
            if error.status is None:
                raise
            refused[user] = error.message
    return started, refused


def _follow(session: Session, started: Sequence[Refresh], poll: float) -> list[Refresh]:
    """Watch all refreshes to their ends, with a bar for each on standard error."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[stage]}"),
        TimeElapsedColumn(),
    )
    now = list(started)
    with Progress(*columns, console=session.notes, transient=True) as progress:
        bars = [progress.add_task(refresh.user, total=None, stage="queued") for refresh in now]
        while True:
            for bar, refresh in zip(bars, now, strict=True):
                _draw(progress, bar, refresh)
            if all(refresh.finished for refresh in now):
                return now
            time.sleep(poll)
            now = [
                refresh if refresh.finished else session.gateway.refresh(refresh.user, refresh.id)
                for refresh in now
            ]


def _draw(progress: Progress, bar: TaskID, refresh: Refresh) -> None:
    steps = refresh.progress
    progress.update(
        bar,
        total=1 if refresh.finished else steps.steps if steps else None,
        completed=1 if refresh.finished else steps.step if steps else 0,
        stage=refresh.stage or refresh.status,
    )
