"""Words that a prompt reads as control tokens, and texts from outside without them.

What spells `<|im_start|>` in a prompt is one: it opens a message. No text of a user, stored or
sent, may do that. Here such words are found and pulled apart, and it is decided in which parts of
a prompt: once, for training, serving and PIR (`perce.tokens.ChatTokenizer.prompts`). Markers that
a template writes as plain text, without a token of their own, are not known here.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Self

from transformers import PreTrainedTokenizerBase

from perce.prompt import ContextItem, Message

# Who writes freely: nothing in these messages is meant for the template.
_FREE_ROLES = frozenset({"user", "tool"})


class ControlWords:
    """The control words of one model.

    Args:
        turns: Special tokens, which open and close messages.
        parts: What the template writes inside messages, such as `<think>` and `<tool_call>`.
    """

    def __init__(self, turns: Iterable[str], parts: Iterable[str] = ()) -> None:
        turns = set(turns)
        self._turns = _pattern(turns)
        self._all = _pattern(turns | set(parts))

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase) -> Self:
        """Find them: special tokens, and added ones that the chat template writes."""
        template = str(tokenizer.chat_template)
        added = tokenizer.added_tokens_decoder.values()
        special = {token.content for token in added if token.special}
        written = {token.content for token in added if token.content in template}
        return cls(special | set(tokenizer.all_special_tokens), written)

    def pulled_apart(self, text: str) -> str:
        """The text with a space in each control word: `<|im_start|>` becomes `< |im_start|>`."""
        return _apart(self._all, text)

    def item(self, item: ContextItem) -> ContextItem:
        """A piece of persona context without control words."""
        return replace(item, text=self.pulled_apart(item.text), query=self.pulled_apart(item.query))

    def message(self, message: Message) -> Message:
        """A message without control words, in its content and in all its other fields.

        What a user or a tool says holds none at all. The model's own messages, and the
        application's instructions, may hold parts of messages, such as a `<think>` that the
        template looks for; but nothing that opens or closes a message.
        """
        free = message.get("role") in _FREE_ROLES
        safe: Message = _walked(message, self.pulled_apart if free else self._turns_apart)
        calls = message.get("tool_calls")
        if isinstance(calls, Sequence) and not isinstance(calls, str):
            safe = {**safe, "tool_calls": [self._call(call) for call in calls]}
        return safe

    def tools(self, tools: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Descriptions of tools in which nothing opens or closes a message."""
        return [self.options(tool) for tool in tools]

    def options(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """JSON that is given to the template, in which nothing opens or closes a message."""
        safe: dict[str, Any] = _walked(options, self._turns_apart)
        return safe

    def _call(self, call: object) -> object:
        """A tool call; its arguments are JSON in a string, whose escapes may hide a word."""
        safe = _walked(call, self._turns_apart)
        function = call.get("function") if isinstance(call, Mapping) else None
        arguments = function.get("arguments") if isinstance(function, Mapping) else None
        if not isinstance(arguments, str):
            return safe
        try:
            said = json.loads(arguments)
        except json.JSONDecodeError:
            return safe
        meant = _walked(said, self._turns_apart)
        kept = arguments if meant == said else json.dumps(meant, ensure_ascii=False)
        return {**safe, "function": {**safe["function"], "arguments": kept}}

    def _turns_apart(self, text: str) -> str:
        return _apart(self._turns, text)


def _pattern(words: Iterable[str]) -> re.Pattern[str]:
    # The longest first, and none that is a lone character or a space, which is only text.
    bare = {word.strip() for word in words}
    ordered = sorted((word for word in bare if len(word) > 1), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, ordered)) or r"(?!)")


def _apart(words: re.Pattern[str], text: str) -> str:
    return words.sub(lambda found: f"{found[0][0]} {found[0][1:]}", text)


def _walked(value: Any, change: Callable[[str], str]) -> Any:  # noqa: ANN401 - JSON of any shape
    """JSON with every string in it changed, keys of objects too."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {change(str(key)): _walked(inner, change) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_walked(inner, change) for inner in value]
    return value
