"""Guides: which tokens of the persona the tokens of an answer are found at.

The corpus knows the fact that every answer is of, and which words an answer takes from the
persona. What heads learn from it is in `scripts.reference.guidance`.
"""

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal, NamedTuple

from perce.prompt import INSTRUCTION

Kind = Literal["fact", "word"]
KINDS: tuple[Kind, ...] = ("fact", "word")

_WORD = re.compile(r"[^\W_]+")


class Guide(NamedTuple):
    """Where the token after a position is found.

    Attributes:
        kind: `fact`: in the tokens of the fact that the answer is of; `word`: in the same
            token of the same word.
        at: The position before the token, from which it is predicted.
        keys: Where it is found; all before `at`.
    """

    kind: Kind
    at: int
    keys: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Layout:
    """An example as it is rendered.

    Attributes:
        text: Its text.
        offsets: Where each token begins and ends in the text.
        ids: The token ids.
        counted: Whether each token belongs to an answer.
    """

    text: str
    offsets: Sequence[tuple[int, int]]
    ids: Sequence[int]
    counted: Sequence[bool]

    def tokens(self, start: int, end: int) -> range:
        """The tokens that overlap the characters from `start` to `end`."""
        first = bisect_right(self.offsets, start, key=lambda place: place[1])
        return range(first, bisect_left(self.offsets, end, key=lambda place: place[0]))

    def answers(self) -> Iterator[range]:
        """The tokens of each answer, its end mark included."""
        for counts, run in groupby(range(len(self.ids)), key=self.counted.__getitem__):
            if counts:
                positions = list(run)
                yield range(positions[0], positions[-1] + 1)


def guides(
    layout: Layout, personal: frozenset[str], about: Sequence[Sequence[str]]
) -> Iterator[Guide]:
    """Say where the answers of an example are found in its persona.

    Args:
        layout: The example.
        personal: Words that answers take from the persona, in small letters.
        about: For each answer, the facts that it is of; empty where nobody knows.
    """
    persona = layout.text[: max(0, layout.text.find(INSTRUCTION))].lower()
    for number, answer in enumerate(layout.answers()):
        facts = about[number] if about else ()
        told = [_place(persona, fact) for fact in facts if fact.lower() in persona]
        keys = tuple(key for place in told for key in layout.tokens(*place))
        if keys:
            yield from (Guide("fact", at - 1, keys) for at in answer)
        yield from _words(layout, answer, personal, persona, told)


def _words(
    layout: Layout,
    answer: range,
    personal: frozenset[str],
    persona: str,
    told: Sequence[tuple[int, int]],
) -> Iterator[Guide]:
    """Guides of an answer's personal words: to the facts it is of, or else wherever they stand."""
    start, end = layout.offsets[answer[0]][0], layout.offsets[answer[-1]][1]
    for match in _WORD.finditer(layout.text, start, end):
        word = match[0].lower()
        if word not in personal:
            continue
        places = [found.span() for found in re.finditer(rf"\b{re.escape(word)}\b", persona)]
        right = [place for place in places if any(s <= place[0] < e for s, e in told)]
        among = [key for place in right or places for key in layout.tokens(*place)]
        for at in layout.tokens(*match.span()):
            keys = tuple(key for key in among if layout.ids[key] == layout.ids[at])
            if keys:
                yield Guide("word", at - 1, keys)


def _place(persona: str, fact: str) -> tuple[int, int]:
    start = persona.index(fact.lower())
    return start, start + len(fact)
