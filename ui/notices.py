"""How the gateway's errors reach the person: as a notice with its sentence, never as a trace."""

from collections.abc import Iterator
from contextlib import contextmanager
from html import escape

import gradio as gr

from ui.transport import GatewayError

NOT_READY = frozenset({None, 502, 503, 504})


@contextmanager
def notices() -> Iterator[None]:
    """Show a gateway error that happens inside as a notice, and go on after the block."""
    try:
        yield
    except GatewayError as error:
        warn(error)


def warn(error: GatewayError) -> None:
    """Show a gateway error as a notice; its text is escaped, since it may quote the user."""
    title = "Not ready" if error.status in NOT_READY else "Not done"
    gr.Warning(escape(error.message), title=title)
