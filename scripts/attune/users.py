"""`attune users`: the people that Attune serves, and what they allow."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from perce.errors import AttuneError
from scripts.attune.session import Session, connected, dumped
from scripts.attune.tables import user_details, user_table

app = typer.Typer(
    help="Add, list, show, export and erase users; what they allow.", no_args_is_help=True
)

Name = Annotated[str, typer.Argument(metavar="NAME", help="The user's name.", show_default=False)]


class NotWrittenError(AttuneError):
    """A file could not be written."""

    def __init__(self, file: Path, error: OSError) -> None:
        super().__init__(f"{file} cannot be written ({error.strerror}): name another file.")


class UnaskedError(AttuneError):
    """--json leaves no room for a question: add --yes to erase without being asked."""

    def __init__(self) -> None:
        super().__init__(self.__doc__)


@app.command()
@connected
def add(
    session: Session,
    name: Name,
    consent: Annotated[
        bool, typer.Option(help="Whether the user agrees to adapters trained on their texts.")
    ] = True,
    shares: Annotated[
        bool, typer.Option("--shares", help="The user's texts may go into the adapter of all.")
    ] = False,
) -> None:
    """Add a user, and show their key: once, now."""
    user = session.gateway.add_user(name, consent=consent, shares=shares)
    session.show(user, lambda: user_details(user))


@app.command("list")
@connected
def list_users(session: Session) -> None:
    """List all users with what is kept of each."""
    users = session.gateway.users()
    session.show({"users": dumped(users)}, lambda: user_table(users))


@app.command()
@connected
def show(session: Session, name: Name) -> None:
    """Show one user."""
    user = session.gateway.user(name)
    session.show(user, lambda: user_details(user))


@app.command()
@connected
def consent(
    session: Session,
    name: Name,
    withdraw: Annotated[
        bool, typer.Option("--withdraw", help="The user agrees no longer; ends sharing too.")
    ] = False,
) -> None:
    """Record that a user agrees to adapters trained on their texts.

    With --withdraw nothing is trained on them any more, and a refresh under way is cancelled. Their
    own versions stay, until the user is erased; what others learnt from them is withdrawn.
    """
    user = session.gateway.change_user(name, consent=not withdraw)
    session.show(user, lambda: user_details(user))


@app.command()
@connected
def share(
    session: Session,
    name: Name,
    stop: Annotated[
        bool, typer.Option("--stop", help="Share no more, and take back what was learnt.")
    ] = False,
) -> None:
    """Let the population's adapter learn from a user's texts, as the user has agreed.

    With --stop, every adapter that learnt from them through it is withdrawn, whoever's it is.
    """
    user = session.gateway.change_user(name, shares=not stop)
    session.show(user, lambda: user_details(user))


@app.command()
@connected
def export(
    session: Session,
    name: Name,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="File to write; standard output by default."),
    ] = None,
) -> None:
    """Export everything that is kept of a user, as JSON."""
    kept = session.gateway.export_user(name)
    text = json.dumps(kept, ensure_ascii=False, indent=2)
    if output is None:
        typer.echo(text)
        return
    try:
        output.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise NotWrittenError(output, error) from error
    session.show({"name": name, "file": str(output)}, lambda: Text(f"Written to {output}."))


@app.command()
@connected
def erase(
    session: Session,
    name: Name,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask first.")] = False,
) -> None:
    """Erase a user: history, facts, conversations, and every adapter trained on them."""
    if session.as_json and not yes:
        raise UnaskedError
    if not yes:
        typer.confirm(
            f"Erase {name} with all texts, facts, conversations and adapters? "
            "This cannot be undone.",
            abort=True,
            err=True,
        )
    erased = session.gateway.erase_user(name)
    counts = ", ".join(
        f"{erased[part]} {part}" for part in ("facts", "texts", "interactions", "adapters")
    )
    session.show(erased, lambda: Text(f"Erased {name}: {counts}."))
