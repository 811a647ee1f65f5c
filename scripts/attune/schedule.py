"""`attune schedule`: when due users are refreshed."""

from typing import Annotated

import typer

from scripts.attune.session import Session, connected, dumped
from scripts.attune.tables import plan_table, round_table, schedule_details
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
        str | None,
        typer.Argument(
            metavar="CRON",
            help='Five fields in quotes: "0 3 * * *" is 3 a.m. every day; unchanged by default.',
            show_default=False,
        ),
    ] = None,
    timezone: Annotated[
        str | None, typer.Option(help="Time zone such as Europe/Berlin; unchanged by default.")
    ] = None,
    min_new_texts: Annotated[
        int | None, typer.Option(min=1, help="New texts that make a user due.")
    ] = None,
    quiet_minutes: Annotated[
        float | None, typer.Option(min=0, help="Minutes since the user's last message.")
    ] = None,
    min_gap_hours: Annotated[
        float | None, typer.Option(min=0, help="Hours since the user's last refresh.")
    ] = None,
    window_hours: Annotated[
        float | None, typer.Option(min=0, help="Hours in which a round may begin; 0: no end.")
    ] = None,
    online: Annotated[
        bool | None, typer.Option(help="Refresh also when texts arrive that make a user due.")
    ] = None,
    online_per_hour: Annotated[
        int | None, typer.Option(min=1, help="Most refreshes an hour that arrivals may begin.")
    ] = None,
) -> None:
    """Set when the schedule runs, and who is due; what is not given stays."""
    given: dict[str, str | float | bool | None] = {
        "cron": cron,
        "timezone": timezone,
        "min_new_texts": min_new_texts,
        "quiet_minutes": quiet_minutes,
        "min_gap_hours": min_gap_hours,
        "window_hours": window_hours,
        "online": online,
        "online_per_hour": online_per_hour,
    }
    changes = {name: value for name, value in given.items() if value is not None}
    if not changes:
        raise typer.BadParameter("Give a cron expression or an option: see --help.")
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
    """Start a round now: plan it, and refresh everybody who is due."""
    started = session.gateway.run_schedule()
    session.show(
        {
            "run": started.run,
            "plan": dumped([started.plan])[0] if started.plan else None,
            "refreshes": dumped(started.data),
        },
        lambda: round_table(started),
    )


@app.command()
@connected
def plan(
    session: Session,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many entries to show.")] = 100,
) -> None:
    """Show the newest round's plan: who, in which order, how long, and whom later."""
    written = session.gateway.plan(limit)
    session.show(written, lambda: plan_table(written))


def _show(session: Session, schedule: Schedule) -> None:
    session.show(schedule, lambda: schedule_details(schedule))
