"""`attune pir`: which words of any reply depend on the user?"""

from typing import Annotated

import typer
from rich.console import Group, RenderableType
from rich.text import Text

from scripts.attune.options import AdapterOption
from scripts.attune.session import Session, connected
from scripts.attune.words import scored_reply, word_table
from ui.records import Contrast, Personalization


@connected
def pir(
    session: Session,
    user: Annotated[
        str, typer.Argument(metavar="USER", help="Whose reply it is.", show_default=False)
    ],
    query: Annotated[
        str, typer.Option("--query", metavar="TEXT", help="What was asked.", show_default=False)
    ],
    reply: Annotated[
        str, typer.Option("--reply", metavar="TEXT", help="What was answered.", show_default=False)
    ],
    contrast: Annotated[
        Contrast, typer.Option(help="What is taken away to see which words depend on it.")
    ] = "persona",
    adapter: AdapterOption = "active",
    persona: Annotated[
        bool, typer.Option(help="Whether the persona is in the prompt of the with side.")
    ] = True,
) -> None:
    """Score a reply: colour its words by their Personal Influence Ratio (PIR, in nats)."""
    scored = session.gateway.pir(
        user,
        ({"role": "user", "content": query},),
        reply,
        contrast=contrast,
        adapter=adapter,
        persona=persona,
    )
    session.show(scored, lambda: _view(reply, scored))


def _view(reply: str, scored: Personalization) -> RenderableType:
    shown = [scored_reply(reply, scored), Text(), word_table(scored)]
    if scored.cut is not None and scored.cut.items:
        shown.append(
            Text(
                f"Left out to fit the model, oldest first: {scored.cut.items} of the persona's "
                f"items, {scored.cut.tokens} tokens.",
                style="yellow",
            )
        )
    return Group(*shown)
