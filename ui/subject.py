"""What one browser's page is about now, and answers that come too late for it.

A handler takes as long as the gateway does. Until it answers, somebody else may have been picked
or a new conversation begun: then its answer must change nothing on the page.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Concatenate, ParamSpec, TypeVar

import gradio as gr

from ui.conversation import Conversation

About = TypeVar("About", bound=str | Conversation | None)
Answer = TypeVar("Answer")
Others = ParamSpec("Others")
Update = dict[str, Any]


@dataclass(eq=False, slots=True)
class Subject:
    """Who is picked, and which conversation is shown; every session has its own.

    Attributes:
        name: The persona; None before the first pick.
        conversation: The id of the conversation; empty from a pick to the beginning of one.
        picks: How often somebody was picked.
    """

    name: str | None = None
    conversation: str = ""
    picks: int = 0

    def pick(self, name: str | None) -> int:
        """Be about another persona from now on, and no conversation yet; answers `picks`."""
        self.name, self.conversation = name, ""
        self.picks += 1
        return self.picks

    def begin(self) -> Conversation:
        """Be about a new conversation from now on."""
        conversation = Conversation()
        self.conversation = conversation.id
        return conversation

    def is_still(self, about: str | Conversation | None) -> bool:
        """Whether the page is about a persona, or a conversation, now."""
        if isinstance(about, Conversation):
            return about.id == self.conversation
        return about == self.name


def timely(
    handler: Callable[Concatenate[About, Others], Answer],
) -> Callable[Concatenate[Subject, About, Others], Answer | Update]:
    """Make a handler whose answer is dropped where it comes too late.

    Args:
        handler: Takes first what it is about; what is made takes the page's subject before that.
    """

    def answer(
        subject: Subject, about: About, /, *others: Others.args, **named: Others.kwargs
    ) -> Answer | Update:
        answered = handler(about, *others, **named)
        return answered if subject.is_still(about) else dict(gr.skip())

    return answer


def timely_parts(
    handler: Callable[Concatenate[About, Others], Iterator[Answer]],
) -> Callable[Concatenate[Subject, About, Others], Iterator[Answer]]:
    """Make a handler that answers in parts and ends with the first that comes too late.

    Args:
        handler: Takes first what it is about; what is made takes the page's subject before that.
    """

    def parts(
        subject: Subject, about: About, /, *others: Others.args, **named: Others.kwargs
    ) -> Iterator[Answer]:
        for part in handler(about, *others, **named):
            if not subject.is_still(about):
                return
            yield part

    return parts
