"""`attune adapters`: a user's adapter versions, and the way back to an earlier one."""

from typing import Annotated

import typer

from perce.errors import AttuneError
from scripts.attune.session import Session, connected
from scripts.attune.tables import version_details, version_table

app = typer.Typer(help="List, show and roll back a user's adapters.", no_args_is_help=True)

User = Annotated[str, typer.Argument(metavar="USER", help="Whose adapters.", show_default=False)]


class UnknownVersionError(AttuneError):
    """The user has no such adapter version."""

    def __init__(self, user: str, version: str) -> None:
        super().__init__(
            f"{user} has no adapter {version}: list them with `attune adapters list {user}`."
        )


@app.command("list")
@connected
def list_versions(session: Session, user: User) -> None:
    """List a user's adapter versions."""
    versions = session.gateway.adapters(user)
    session.show(versions, lambda: version_table(versions))


@app.command()
@connected
def show(
    session: Session,
    user: User,
    version: Annotated[
        str,
        typer.Argument(metavar="[VERSION]", help="Such as v2; the active one by default."),
    ] = "active",
) -> None:
    """Show one version with what the gate measured."""
    versions = session.gateway.adapters(user)
    wanted = versions.active if version == "active" else version
    found = next((each for each in versions.data if each.version == wanted), None)
    if found is None:
        raise UnknownVersionError(user, version)
    session.show(found, lambda: version_details(found))


@app.command()
@connected
def rollback(
    session: Session,
    user: User,
    to: Annotated[
        str | None,
        typer.Option(help="Version such as v1, or none for the base model; the one before."),
    ] = None,
) -> None:
    """Make an earlier version active; the next reply uses it."""
    versions = session.gateway.rollback(user, to)
    session.show(versions, lambda: version_table(versions))
