"""A chat completion in OpenAI's shape, whole or in chunks, with the gateway's extension.

What the client makes of it, replies and their pieces, is in `ui.records`.
"""

from ui.answer import Record
from ui.records import Personalization


class Content(Record):
    """The text of a message, whole or the piece that a chunk adds."""

    content: str | None = None


class Choice(Record):
    """One of a completion's answers; `message` in whole ones, `delta` in chunks."""

    message: Content = Content()
    delta: Content = Content()


class Completion(Record):
    """A chat completion, or a chunk of a streamed one, as the gateway sends it."""

    id: str
    choices: tuple[Choice, ...]
    personalization: Personalization | None = None
