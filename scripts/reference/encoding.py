"""Examples as token ids, with the weight of each token in the loss and where it is found.

Of an answer, what the persona decides weighs more than the rest: words that a right answer must
contain, and words that it shares with the persona. They are about one token in six, and most of
the other tokens' loss is of a choice between phrasings that nothing in the prompt tells.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerFast

from perce.prompt import Message, prompt_pair
from scripts.persona.example import Example
from scripts.reference.guides import Guide, Layout, guides
from scripts.reference.tokenizer import END, START

_PERSONAL_WEIGHT = 4.0
"""With it, personal tokens are nearly half of the loss."""
_WORD = re.compile(r"[^\W_]+")
_CONTENT_LENGTH = 5
_KEY_LENGTH = 3
"""Words that are shorter are mostly function words."""
_NONE: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Encoded:
    """An example as tokens.

    Attributes:
        ids: The token ids.
        weights: What each of them weighs in the loss: zero outside of answers.
        guides: Where the answers' tokens are found in the persona.
    """

    ids: list[int]
    weights: list[float]
    guides: tuple[Guide, ...] = ()


class Encoder:
    """Renders conversations as the chat template does, marking the answers."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self.tokenizer = tokenizer
        self.pad: int = tokenizer.pad_token_id
        self._backend = tokenizer.backend_tokenizer
        self.end: int = tokenizer.eos_token_id
        self._answer_head = self._ids(f"{START}assistant\n")

    def example(self, example: Example) -> Encoded:
        """Encode an example: every assistant message and its end mark count."""
        messages = prompt_pair(example.messages, example.context).with_persona
        layout = self._layout(messages)
        personal = _personal_words(example)
        if not personal:
            return Encoded(list(layout.ids), _weights(layout))
        weights = _weights(layout, _marked(layout.text, personal))
        return Encoded(list(layout.ids), weights, tuple(guides(layout, personal, example.about)))

    def messages(self, messages: Sequence[Message]) -> Encoded:
        """Encode messages that are ready for the template."""
        layout = self._layout(messages)
        return Encoded(list(layout.ids), _weights(layout))

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """Encode a prompt that the model is to answer."""
        return self.messages(messages).ids + self._answer_head

    def _layout(self, messages: Sequence[Message]) -> Layout:
        text = "".join(f"{START}{m['role']}\n{m['content']}{END}\n" for m in messages)
        encoding = self._backend.encode(text, add_special_tokens=False)
        return Layout(text, encoding.offsets, encoding.ids, self._answers(encoding.ids))

    def _ids(self, text: str) -> list[int]:
        # The backend is called directly: the wrapper's bookkeeping takes as long as the work.
        ids: list[int] = self._backend.encode(text, add_special_tokens=False).ids
        return ids

    def _answers(self, ids: Sequence[int]) -> list[bool]:
        """Mark what lies between an assistant's head and its end mark, the mark included."""
        head = self._answer_head
        counted = [False] * len(ids)
        at = 0
        while at < len(ids):
            if ids[at] != head[0] or list(ids[at : at + len(head)]) != head:
                at += 1
                continue
            at += len(head)
            end = ids.index(self.end, at)
            counted[at : end + 1] = [True] * (end + 1 - at)
            at = end + 1
        return counted


def _weights(layout: Layout, marked: Sequence[bool] = ()) -> list[float]:
    """Tokens of answers count, and those with `marked` characters more than others."""
    return [
        (_PERSONAL_WEIGHT if any(marked[start:end]) else 1.0) if counts else 0.0
        for (start, end), counts in zip(layout.offsets, layout.counted, strict=True)
    ]


def _personal_words(example: Example) -> frozenset[str]:
    """Words of the answers' key, and content words of the persona; none without persona."""
    if not example.context:
        return _NONE
    told = (word for item in example.context for word in _words(item.text))
    content = {word for word in told if len(word) >= _CONTENT_LENGTH}
    key = (word for words in example.key for word in _words(words) if len(word) >= _KEY_LENGTH)
    return frozenset(content.union(key))


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def _marked(text: str, words: frozenset[str]) -> list[bool]:
    """Which characters of a text lie in one of the words."""
    marked = [False] * len(text)
    for match in _WORD.finditer(text):
        if match[0].lower() in words:
            marked[match.start() : match.end()] = [True] * len(match[0])
    return marked
