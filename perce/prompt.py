"""The pair of prompts, with and without persona, that defines the counterfactual.

Serving, PIR and training all build their prompts here, so "without persona" means
one thing: the same messages, with the persona block dropped from the system message
and nothing else changed. Here texts are taken as they are: what outsiders wrote goes through
`perce.tokens.ChatTokenizer.prompts`, which also renders to token ids.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Message = Mapping[str, Any]
"""One chat message in OpenAI's shape: at least `role` and `content`."""

FACTS_HEADER = "About the user:"
TEXTS_HEADER = "Texts the user wrote before:"
INSTRUCTION = (
    "Answer in the user's own way, consistent with the user's facts, "
    "preferred style, language and tone."
)


@dataclass(frozen=True, slots=True)
class ContextItem:
    """One piece of persona context: a profile fact, or a text the user wrote.

    Attributes:
        kind: `fact` or `text`.
        text: The fact, or the text the user wrote.
        query: What the text answered; empty for facts.
    """

    kind: Literal["fact", "text"]
    text: str
    query: str = ""


def fact_items(facts: Iterable[str]) -> tuple[ContextItem, ...]:
    """Profile facts as persona context, in the given order."""
    return tuple(ContextItem("fact", fact) for fact in facts)


@dataclass(frozen=True, slots=True)
class PromptPair:
    """The same conversation with and without the persona block."""

    with_persona: tuple[Message, ...]
    without_persona: tuple[Message, ...]


def persona_block(context: Sequence[ContextItem]) -> str:
    """Write the persona context as text; empty for an empty context.

    Facts come first, then earlier texts in the given order, then the instruction
    (after the prompts in the PerContrast paper, section 4.1: earlier texts, then
    "consistent with the user's preferred style and language/tone").
    """
    if not context:
        return ""
    facts = [item.text for item in context if item.kind == "fact"]
    texts = [item for item in context if item.kind == "text"]
    parts = []
    if facts:
        parts.append("\n".join([FACTS_HEADER, *(f"- {fact}" for fact in facts)]))
    if texts:
        parts.append("\n\n".join([TEXTS_HEADER, *(_earlier_text(item) for item in texts)]))
    parts.append(INSTRUCTION)
    return "\n\n".join(parts)


def prompt_pair(messages: Sequence[Message], context: Sequence[ContextItem]) -> PromptPair:
    """Build the prompts with and without persona for one conversation.

    The persona block is appended to the conversation's own system message, or becomes
    the system message where there is none. With an empty context both prompts are equal.

    Args:
        messages: The conversation, oldest first.
        context: The persona context, in the order in which it is to be read.
    """
    without = tuple(messages)
    block = persona_block(context)
    if not block:
        return PromptPair(without, without)
    if without and without[0]["role"] == "system":
        own = _plain_text(without[0]["content"])
        first = {**without[0], "content": f"{own}\n\n{block}"}
        return PromptPair((first, *without[1:]), without)
    return PromptPair(({"role": "system", "content": block}, *without), without)


def _earlier_text(item: ContextItem) -> str:
    return f"[{item.query}]\n{item.text}" if item.query else item.text


def _plain_text(content: str | Sequence[Mapping[str, Any]]) -> str:
    """OpenAI allows a system message as a list of text parts; join those as vLLM does."""
    if isinstance(content, str):
        return content
    return "\n".join(part["text"] for part in content if part.get("type") == "text")
