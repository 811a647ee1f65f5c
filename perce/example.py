"""One training or held-out example: the pair of prompts and one reply, as token ids.

Building the prompts is `perce.prompt`, rendering them `perce.tokens`; which texts a user's
history offers as context is decided by whoever calls `encode`.
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

from perce.cutting import kept_items
from perce.errors import AttuneError
from perce.prompt import ContextItem, Message
from perce.tokens import ChatTokenizer


class ExampleTooLong(AttuneError):
    """The query and the reply do not fit even without the user's earlier texts."""


@dataclass(frozen=True, slots=True)
class Example:
    """A reply and the prompts, with and without persona, that it answers.

    Attributes:
        prompt_ids: The rendered prompt with the persona block.
        prompt_ids_without: The same conversation without it; equal for an empty context.
        reply_ids: The reply, and the token that ends it.
        dropped_texts: How many earlier texts were left out of the context to fit.
    """

    prompt_ids: tuple[int, ...]
    prompt_ids_without: tuple[int, ...]
    reply_ids: tuple[int, ...]
    dropped_texts: int = 0

    @property
    def has_persona(self) -> bool:
        """Whether the two prompts differ; where not, every PIR is zero."""
        return self.prompt_ids != self.prompt_ids_without

    @property
    def length(self) -> int:
        """Tokens of the prompt with persona and the reply together."""
        return len(self.prompt_ids) + len(self.reply_ids)


def encode(
    tokenizer: ChatTokenizer,
    query_messages: Sequence[Message],
    context: Sequence[ContextItem],
    reply: str,
    max_length: int,
) -> Example:
    """Turn a conversation, its persona context and the reply into an example.

    Where prompt and reply exceed `max_length`, earlier texts are dropped from the context,
    oldest first; facts, the conversation and the reply are never cut.

    Args:
        tokenizer: The model's tokenizer.
        query_messages: The conversation that the reply answers, oldest first.
        context: The persona context; its texts oldest first.
        reply: What the user wrote or endorsed; its end token is added here.
        max_length: Most tokens of prompt and reply together.

    Raises:
        ExampleTooLong: It does not fit with all earlier texts dropped.
    """
    reply_ids = (*tokenizer.reply_ids(reply), tokenizer.end_id)
    room = max_length - len(reply_ids)
    texts = sum(item.kind == "text" for item in context)

    def prompt_ids(dropped: int) -> list[int]:
        kept = [context[index] for index in kept_items(context, dropped)]
        return tokenizer.prompt_ids(tokenizer.prompts(query_messages, kept).with_persona)

    dropped = bisect_left(range(texts), True, key=lambda n: len(prompt_ids(n)) <= room)
    with_persona = prompt_ids(dropped)
    if len(with_persona) > room:
        raise ExampleTooLong(
            f"The prompt ({len(with_persona)} tokens without earlier texts) and the reply "
            f"({len(reply_ids)}) exceed max_length {max_length}. "
            "Raise max_length or leave this text out."
        )
    without = tokenizer.prompt_ids(tokenizer.prompts(query_messages, ()).without_persona)
    return Example(tuple(with_persona), tuple(without), reply_ids, dropped)
