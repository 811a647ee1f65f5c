"""A training example: a conversation, and the persona context it is to be answered from."""

from collections.abc import Iterable
from dataclasses import dataclass

from perce.prompt import ContextItem, Message


@dataclass(frozen=True, slots=True)
class Example:
    """A conversation with the persona context it is to be answered from.

    Attributes:
        kind: What it trains: `language`, `recall`, `question`, `introduction`, `topic`,
            `person`, `writing` or `dialogue`; for probes, whether the answer is `copied` from
            a roundabout fact or `following` from it, or both are `plain`.
        messages: User and assistant messages, oldest first; every assistant message
            counts in the loss.
        context: Facts and earlier texts; empty where the persona is dropped.
        key: Words that the answers must contain to be right; empty if they are open.
        about: For each answer, the facts of the context that it is of; empty where nobody knows.
    """

    kind: str
    messages: tuple[Message, ...]
    context: tuple[ContextItem, ...] = ()
    key: tuple[str, ...] = ()
    about: tuple[tuple[str, ...], ...] = ()


def chat(turns: Iterable[tuple[str, str]]) -> tuple[Message, ...]:
    """Questions with their answers as the messages of a conversation."""
    messages: list[Message] = []
    for question, answer in turns:
        messages.append({"role": "user", "content": question})
        messages.append({"role": "assistant", "content": answer})
    return tuple(messages)
