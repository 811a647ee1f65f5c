"""`attune chat`: one message as a user, answered as it is written."""

from typing import Annotated

import typer
from rich.live import Live
from rich.text import Text

from scripts.attune.options import AdapterOption
from scripts.attune.session import Session, connected
from scripts.attune.words import printable, scored_reply
from ui.gateway import ChatRequest
from ui.records import Contrast, Delta


@connected
def chat(
    session: Session,
    user: Annotated[
        str, typer.Argument(metavar="USER", help="Who is chatting.", show_default=False)
    ],
    message: Annotated[
        str, typer.Argument(metavar="MESSAGE", help="What they say.", show_default=False)
    ],
    pir: Annotated[
        bool, typer.Option("--pir", help="Colour the words that depend on the user.")
    ] = False,
    contrast: Annotated[
        Contrast | None,
        typer.Option(
            help="What --pir takes away to see which words depend on it; persona by default."
        ),
    ] = None,
    adapter: AdapterOption = "active",
    persona: Annotated[bool, typer.Option(help="Whether the persona is put in the prompt.")] = True,
    store: Annotated[
        bool, typer.Option(help="Whether the chat is kept in the user's history.")
    ] = True,
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest reply in tokens.")] = 512,
    temperature: Annotated[float, typer.Option(min=0.0, help="Sampling temperature.")] = 0.4,
) -> None:
    """Chat as a user: one message, one reply."""
    if contrast is not None and not pir:
        raise typer.BadParameter("It is what --pir takes away: add --pir.", param_hint="--contrast")
    request = ChatRequest(
        user=user,
        messages=({"role": "user", "content": message},),
        pir=pir,
        contrast=contrast or "persona",
        adapter=adapter,
        persona=persona,
        store=store,
        max_tokens=max_tokens,
        temperature=temperature,
    )
    if session.as_json:
        session.print_json(session.gateway.chat(request))
    elif pir:
        _stream_then_colour(session, request)
    else:
        _stream(session, request)


def _stream(session: Session, request: ChatRequest) -> None:
    for part in session.gateway.stream_chat(request):
        if isinstance(part, Delta):
            typer.echo(printable(part.text), nl=False)
    typer.echo()


def _stream_then_colour(session: Session, request: ChatRequest) -> None:
    """Write the reply plainly, and put the coloured one in its place when it is scored."""
    written = ""
    with Live(console=session.console, auto_refresh=False, vertical_overflow="visible") as live:
        for part in session.gateway.stream_chat(request):
            if isinstance(part, Delta):
                written += part.text
                live.update(Text(printable(written)), refresh=session.console.is_terminal)
            else:
                live.update(scored_reply(part.text, part.personalization), refresh=True)
