"""`attune schedule`: when due users are refreshed."""

from typing import Annotated

import typer

from scripts.attune.session import Session, connected, dumped
from scripts.attune.tables import refresh_table, schedule_details
from ui.records import Schedule

app = typer.Typer(help="Show and change when due users are refreshed.", no_args_is_help=True)


@app.command()
@connected
def show(session: Session) -> None:
    """Show the schedule and its next run."""
    _show(session, session.gateway.schedule())


@app.command("set")
@connected
def set_schedule(
    session: Session,
    cron: Annotated[
        str,
        typer.Argument(
            metavar="CRON",
            help='Five fields in quotes: "0 3 * * *" is 3 a.m. every day.',
            show_default=False,
        ),
    ],
    timezone: Annotated[
        str | None, typer.Option(help="Time zone such as Europe/Berlin; unchanged by default.")
    ] = None,
    min_new_texts: Annotated[
        int | None,
        typer.Option(min=1, help="New texts that make a user due; unchanged by default."),
    ] = None,
) -> None:
    """Set when the schedule runs, and who is due."""
    changes: dict[str, str | int | bool] = {"cron": cron}
    if timezone is not None:
        changes["timezone"] = timezone
    if min_new_texts is not None:
        changes["min_new_texts"] = min_new_texts
    _show(session, session.gateway.set_schedule(**changes))


@app.command()
@connected
def pause(session: Session) -> None:
    """Run no scheduled refreshes until resumed."""
    _show(session, session.gateway.set_schedule(paused=True))


@app.command()
@connected
def resume(session: Session) -> None:
    """Run scheduled refreshes again."""
    _show(session, session.gateway.set_schedule(paused=False))


@app.command("run-now")
@connected
def run_now(session: Session) -> None:
    """Queue a refresh for every user who is due."""
    started = session.gateway.run_schedule()
    session.show(
        {"refreshes": dumped(started)},
        lambda: refresh_table(started),
    )


def _show(session: Session, schedule: Schedule) -> None:
    session.show(schedule, lambda: schedule_details(schedule))
