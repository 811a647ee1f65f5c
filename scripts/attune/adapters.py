"""`attune adapters`: a user's adapter versions, the way back to an earlier one, and their check."""

from typing import Annotated

import typer

from perce.errors import AttuneError
from scripts.attune.session import Session, connected, dumped
from scripts.attune.tables import finding_table, version_details, version_table
from ui.records import Finding

app = typer.Typer(help="List, show, roll back and verify users' adapters.", no_args_is_help=True)

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
        typer.Option(
            help="Version such as v1; none for no own one, so that the population's answers or the "
            "base model; by default the one before."
        ),
    ] = None,
) -> None:
    """Make an earlier version active; the next reply uses it."""
    versions = session.gateway.rollback(user, to)
    session.show(versions, lambda: version_table(versions))


@app.command()
@connected
def verify(
    session: Session,
    user: Annotated[
        str | None, typer.Argument(metavar="[USER]", help="Whose adapters; everybody's by default.")
    ] = None,
    repair: Annotated[
        bool,
        typer.Option(
            "--repair", help="Remove folders without a version, and what interrupted writes left."
        ),
    ] = False,
) -> None:
    """Check all files against their checksums, and the disk against the registry.

    The exit status is 1 where something is wrong, and each finding says what to do.
    """
    users, versions, findings = 0, 0, list[Finding]()
    after: int | None = 0
    while after is not None:
        page = session.gateway.verify_adapters(user, after=after, repair=repair)
        users, versions = users + page.users, versions + page.versions
        findings += page.findings
        after = page.next
    ok = all(finding.repaired for finding in findings)
    counts = {"ok": ok, "users": users, "versions": versions}
    session.show(
        {**counts, "findings": dumped(findings)},
        lambda: finding_table(findings, users, versions),
    )
    if not ok:
        raise typer.Exit(1)
