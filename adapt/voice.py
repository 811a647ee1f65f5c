"""Texts in the model's own voice: what the model said and the user did not make their own.

Learning from them would make the model more like itself and not more like the user.
"""

import re
from collections.abc import Iterable
from datetime import datetime

from adapt.language import words
from server.store.memory import LoggedReply

# A reply that the user was given to so many different queries is nobody's answer to any.
_STOCK_QUERIES = 3
# What assistants say of themselves, in whichever text; English, as most of them are.
_SELF = re.compile(
    r"\bas an? (?:ai|artificial intelligence|large language model|language model)\b"
    r"|\bi(?:'| a)?m (?:just |only )?an? (?:ai|large language|language) (?:model|assistant)\b",
    re.IGNORECASE,
)
# Refusals and greetings, as the whole of a short text.
_STOCK = re.compile(
    r"(?:i(?:'|\u2019| a)m )?(?:(?:very |so )?sorry|afraid),? (?:but )?i (?:can(?:'|\u2019|no)t|"
    r"am (?:un|not )able to|won(?:'|\u2019)t) (?:be able to )?"
    r"(?:help|assist|provide|fulfill|comply|answer|do|discuss)\b.*"
    r"|(?:(?:hello|hi|hey|greetings|sure|certainly|of course)\b.{0,40}?[!,.] )?"
    r"how (?:can|may) i (?:help|assist) you\b.*"
    r"|is there anything else (?:that )?i can (?:help|assist)\b.*",
    re.IGNORECASE | re.DOTALL,
)
_STOCK_WORDS = 40


class ModelVoice:
    """What the model has said to one user."""

    def __init__(self, replies: Iterable[LoggedReply]) -> None:
        """Take note of the model's logged replies to the user."""
        self._queries: dict[str, set[str]] = {}
        self._first_said: dict[str, datetime] = {}
        endorsed: set[str] = set()
        for reply in replies:
            key = _key(reply.text)
            self._queries.setdefault(key, set()).add(_key(reply.query))
            self._first_said[key] = min(reply.time, self._first_said.get(key, reply.time))
            if reply.endorsed:
                endorsed.add(key)
        self._unendorsed = self._queries.keys() - endorsed

    def spoke(self, text: str, source: str, since: datetime | None) -> bool:
        """Say whether a stored text is the model's rather than the user's.

        An edit never is. A liked reply is where it is a stock phrase, or the model's reply to
        different queries. Any other text is where it is a stock phrase or a reply that the
        user was given before and did not endorse; a model may also repeat its user.

        Args:
            text: The stored text.
            source: `import`, `liked` or `edited`.
            since: When the user had the text at the latest; None where that is not known.
        """
        if source == "edited":
            return False
        if is_stock_phrase(text):
            return True
        key = _key(text)
        if source == "liked":
            return len(self._queries.get(key, ())) >= _STOCK_QUERIES
        return key in self._unendorsed and (since is None or self._first_said[key] < since)


def is_stock_phrase(text: str) -> bool:
    """Whether assistants say this of themselves, or say this alone to refuse or to greet."""
    if _SELF.search(text):
        return True
    return len(text.split()) <= _STOCK_WORDS and _STOCK.fullmatch(text.strip()) is not None


def _key(text: str) -> str:
    """The text without case, spaces and punctuation; of a text without words, itself."""
    return " ".join(words(text)) or text.strip()
