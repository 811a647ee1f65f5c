"""`attune history`: bring in what a user wrote before."""

from pathlib import Path
from typing import Annotated

import typer

from scripts.attune.session import Session, connected
from scripts.attune.tables import import_summary
from ui.records import Import

app = typer.Typer(help="Import what a user wrote before.", no_args_is_help=True)


@app.callback()
def history() -> None:
    """Import what a user wrote before."""


@app.command("import")
@connected
def import_file(
    session: Session,
    user: Annotated[str, typer.Argument(metavar="USER", help="Who wrote it.", show_default=False)],
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="JSONL, plain or .gz; a text per line.",
            exists=True,
            dir_okay=False,
            readable=True,
            show_default=False,
        ),
    ],
) -> None:
    """Import a file of texts; good lines are kept, bad ones are listed with their reason.

    A line is {"query", "text", "time" or "order"}, or a chat as OpenAI writes it:
    {"messages": [...], "feedback": "up", "down" or null, "edited": null or text}.
    A second import of the same file adds nothing.
    """
    result = session.gateway.import_history(user, file.read_bytes())
    session.show(result, lambda: import_summary(result))
    if nothing_usable(result):
        raise typer.Exit(1)


def nothing_usable(result: Import) -> bool:
    """Whether there were lines and every one of them was bad."""
    return bool(result.errors) and not (result.imported or result.duplicates)
