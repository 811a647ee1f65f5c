"""Tokens' PIR merged to words, for showing a reply to a person.

A word is a maximal run of non-space characters, without the punctuation around it; each
run of punctuation so split off is a piece of its own, so every non-space character of the
reply is in exactly one piece.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from unicodedata import category

from perce.pir import TokenPIR


@dataclass(frozen=True, slots=True)
class WordPIR:
    """One word (or run of punctuation) of a reply.

    Attributes:
        text: The reply's characters from start to end.
        start: First character of the word in the reply.
        end: One past its last character.
        pir: Sum of the PIR of its tokens: the log-ratio of the word's probability.
        personal: Whether any of its tokens is personal.
    """

    text: str
    start: int
    end: int
    pir: float
    personal: bool


def word_pirs(reply: str, tokens: Sequence[TokenPIR]) -> list[WordPIR]:
    """Merge a reply's tokens to words.

    A token counts for every word with which it shares a character, so one that spans two
    words counts for both, and one of spaces alone counts for none.

    Args:
        reply: The reply's text.
        tokens: Its tokens in order, their spans being character offsets in `reply`.
    """
    words = []
    first = 0
    for start, end in _word_spans(reply):
        while first < len(tokens) and tokens[first].end <= start:
            first += 1
        own = list(_overlapping(tokens, first, start, end))
        words.append(
            WordPIR(
                text=reply[start:end],
                start=start,
                end=end,
                pir=sum(token.pir for token in own),
                personal=any(token.personal for token in own),
            )
        )
    return words


def _overlapping(
    tokens: Sequence[TokenPIR], first: int, start: int, end: int
) -> Iterator[TokenPIR]:
    for index in range(first, len(tokens)):
        token = tokens[index]
        if token.start >= end:
            return
        if max(token.start, start) < min(token.end, end):
            yield token


def _word_spans(reply: str) -> Iterator[tuple[int, int]]:
    for run in re.finditer(r"\S+", reply):
        start, end = run.span()
        inner_start, inner_end = start, end
        while inner_start < end and _is_punctuation(reply[inner_start]):
            inner_start += 1
        while inner_end > inner_start and _is_punctuation(reply[inner_end - 1]):
            inner_end -= 1
        for piece in ((start, inner_start), (inner_start, inner_end), (inner_end, end)):
            if piece[0] < piece[1]:
                yield piece


def _is_punctuation(character: str) -> bool:
    return category(character).startswith("P")
