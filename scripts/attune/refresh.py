"""`attune refresh`: train, gate and publish a user's next adapter version, or stop doing so."""

from collections.abc import Sequence
from typing import Annotated

import typer

from scripts.attune.refresh_report import refresh_report
from scripts.attune.refresh_wait import Patience, follow
from scripts.attune.session import Session, connected, dumped
from scripts.attune.words import printable
from ui.records import Method, Refresh
from ui.transport import GatewayError


@connected
def refresh(
    session: Session,
    users: Annotated[
        list[str], typer.Argument(metavar="USER...", help="Whose adapters.", show_default=False)
    ],
    method: Annotated[
        Method | None,
        typer.Option(help="Loss: PerCE, the default, or plain cross-entropy as its control."),
    ] = None,
    wait: Annotated[
        bool, typer.Option("--wait", help="Stay until every refresh has its verdict.")
    ] = False,
    cancel: Annotated[
        bool, typer.Option("--cancel", help="Stop the refreshes that wait or run instead.")
    ] = False,
    poll: Annotated[
        float, typer.Option(min=0.01, help="Seconds between looks while waiting.")
    ] = 1.0,
    patience: Annotated[
        float, typer.Option(min=0.0, help="Seconds to wait for a gateway that is restarting.")
    ] = 300.0,
) -> None:
    """Refresh the adapters of users from their history.

    A rejected candidate is a success: the incumbent was better, and stays. A cancelled refresh
    changes nothing; with --cancel, the exit status is 1 where there was none. Otherwise it is 1
    where a refresh could not start, failed or was cancelled.
    """
    if cancel and method is not None:
        raise typer.BadParameter(
            "A refresh to be cancelled has its method already: leave it out.", param_hint="--method"
        )
    shown, refused = _each(session, users, None if cancel else method or "perce")
    if wait:
        shown = follow(session.gateway, shown, session.notes, Patience(poll, patience))
    results = dumped(shown)
    errors = [{"user": user, "message": message} for user, message in refused.items()]
    if session.as_json or shown:
        session.show({"refreshes": results, "errors": errors}, lambda: refresh_report(shown))
    for message in refused.values():
        typer.echo(printable(message), err=True)
    unwanted = {"failed"} if cancel else {"failed", "cancelled"}
    if refused or any(one.status in unwanted for one in shown):
        raise typer.Exit(1)


def _each(
    session: Session, users: Sequence[str], method: Method | None
) -> tuple[list[Refresh], dict[str, str]]:
    """Queue or, without a method, cancel a refresh of each user; and say why not of whom."""
    done: list[Refresh] = []
    refused: dict[str, str] = {}
    for user in users:
        try:
            done.append(
                _cancel(session, user)
                if method is None
                else session.gateway.start_refresh(user, method)
            )
        except GatewayError as error:
            if error.status is None:
                raise
            refused[user] = error.message
    return done, refused


def _cancel(session: Session, user: str) -> Refresh:
    """Cancel the user's refresh that waits or runs."""
    for one in session.gateway.refreshes(user):
        if not one.finished:
            return session.gateway.cancel_refresh(user, one.id)
    raise GatewayError(f"No refresh of {user} waits or runs: there is nothing to cancel.", 409)
