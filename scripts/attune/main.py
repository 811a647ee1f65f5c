"""The `attune` command: every use of an installation from a terminal, one group a module."""

import sys
from collections.abc import Sequence

import typer

from perce.errors import AttuneError
from scripts.attune import adapters, facts, history, schedule, users
from scripts.attune.bench.command import app as bench
from scripts.attune.chat import chat
from scripts.attune.pir import pir
from scripts.attune.refresh import refresh
from scripts.attune.up.command import up
from ui.transport import GatewayError

app = typer.Typer(
    name="attune",
    help="One language model that answers each user in that user's own way.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

app.command()(up)
app.command()(chat)
app.command()(pir)
app.command()(refresh)
app.add_typer(users.app, name="users")
app.add_typer(facts.app, name="facts")
app.add_typer(history.app, name="history")
app.add_typer(adapters.app, name="adapters")
app.add_typer(schedule.app, name="schedule")
app.add_typer(bench, name="bench")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; a foreseen error is one sentence on standard error, and exit 1.

    Args:
        arguments: The command line without the program's name; None takes the process's own.
    """
    try:
        app(arguments)
    except (AttuneError, GatewayError) as error:
        typer.echo(str(error), err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
