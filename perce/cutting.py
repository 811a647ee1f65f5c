"""Prompts that fit: a long one is cut by rule, oldest persona context first.

The user's earlier texts go before the facts, each oldest first. The conversation and the reply
are never cut: without them it would be another question, or another answer.
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

from perce.errors import AttuneError
from perce.prompt import ContextItem, Message
from perce.template_inputs import MESSAGES_ALONE, TemplateInputs
from perce.tokens import ChatTokenizer


class PromptTooLong(AttuneError):
    """The conversation and the reply do not fit even without persona; shorten them."""


@dataclass(frozen=True, slots=True)
class Cut:
    """What was left out of a prompt so that it fits.

    Attributes:
        items: Which items of the context, by their index there, ascending.
        tokens: How many tokens shorter the prompt is for it.
    """

    items: tuple[int, ...] = ()
    tokens: int = 0


def kept_items(context: Sequence[ContextItem], dropped: int) -> list[int]:
    """Indices of what stays when the oldest items go.

    Args:
        context: Facts and texts, each kind oldest first.
        dropped: How many items go: texts, and when none is left, facts.
    """
    texts = [index for index, item in enumerate(context) if item.kind == "text"]
    facts = [index for index, item in enumerate(context) if item.kind == "fact"]
    gone = set([*texts, *facts][:dropped])
    return [index for index in range(len(context)) if index not in gone]


def fitting_prompt(
    tokenizer: ChatTokenizer,
    messages: Sequence[Message],
    context: Sequence[ContextItem],
    room: int | None,
    inputs: TemplateInputs = MESSAGES_ALONE,
) -> tuple[list[int], Cut]:
    """Render a conversation with as much of its persona context as fits.

    Args:
        tokenizer: The model's.
        messages: The conversation, oldest first.
        context: The persona context; facts and texts, each kind oldest first.
        room: Most tokens of the prompt; None cuts nothing.
        inputs: What the template is given besides the conversation.

    Returns:
        The prompt's token ids, and what was cut.

    Raises:
        PromptTooLong: The conversation alone exceeds the room.
    """

    def rendered(dropped: int) -> list[int]:
        kept = [context[index] for index in kept_items(context, dropped)]
        return tokenizer.prompt_ids(tokenizer.prompts(messages, kept).with_persona, inputs)

    whole = rendered(0)
    if room is None or len(whole) <= room:
        return whole, Cut()
    dropped = bisect_left(range(len(context)), True, key=lambda n: len(rendered(n)) <= room)
    prompt = rendered(dropped)
    if len(prompt) > room:
        raise PromptTooLong(
            f"The conversation has {len(prompt):,} tokens without any persona, and beside the "
            f"reply there is room for {max(room, 0):,}. Shorten the conversation or the reply."
        )
    kept = set(kept_items(context, dropped))
    gone = tuple(index for index in range(len(context)) if index not in kept)
    return prompt, Cut(gone, len(whole) - len(prompt))
