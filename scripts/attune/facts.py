"""`attune facts`: what Attune knows about a user in so many words."""

from typing import Annotated

import typer
from rich.text import Text

from scripts.attune.session import Session, connected, dumped
from scripts.attune.tables import fact_table

app = typer.Typer(help="Add, list and remove a user's facts.", no_args_is_help=True)

User = Annotated[str, typer.Argument(metavar="USER", help="Whose facts.", show_default=False)]


@app.command()
@connected
def add(
    session: Session,
    user: User,
    text: Annotated[
        str,
        typer.Argument(metavar="TEXT", help='A sentence: "I live in Porto."', show_default=False),
    ],
) -> None:
    """Add a fact."""
    fact = session.gateway.add_fact(user, text)
    session.show(fact, lambda: Text(f"Fact {fact.id} is kept."))


@app.command("list")
@connected
def list_facts(session: Session, user: User) -> None:
    """List a user's facts with their ids."""
    facts = session.gateway.facts(user)
    session.show(
        {"user": user, "facts": dumped(facts)},
        lambda: fact_table(facts),
    )


@app.command()
@connected
def remove(
    session: Session,
    user: User,
    fact: Annotated[
        str, typer.Argument(metavar="ID", help="Its id, as listed.", show_default=False)
    ],
) -> None:
    """Remove a fact."""
    session.gateway.remove_fact(user, fact)
    session.show({"user": user, "removed": fact}, lambda: Text(f"Fact {fact} is removed."))
