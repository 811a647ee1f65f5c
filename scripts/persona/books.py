"""Passages of openly licensed books, as plain language to learn from.

Sources: a Project Gutenberg selection of children's and young readers' books (public domain
in the US) and the African Storybook's stories under CC BY; its CC BY-NC stories are left out.
"""

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

from perce.datasets.records import read_records
from scripts.persona.example import Example, chat

HELD_OUT_BOOKS = 20
"""The last so many Gutenberg books are never trained on."""

_SENTENCE_END = re.compile(r"(?<=[.!?])[\"”')]?\s+(?=[A-Z\"“'])")
_WRAPPED = re.compile(r"(?<![\n])\n(?!\n)")
_HEADS = (
    "Read to me from {t}.", "A page of {t}, please.", "How does {t} go on?",
    "Tell me a bit of {t}.", "Quote {t}.", "What does it say in {t}?",
    "Open {t} anywhere and read.",
)  # fmt: skip
_GO_ON = ("Go on from here: ", "Continue: ", "What comes next? ", "Tell the rest: ")


@dataclass(frozen=True, slots=True)
class Book:
    """A book's title and text."""

    title: str
    text: str


def gutenberg(folder: Path, held_out: bool = False) -> list[Book]:
    """Read the Gutenberg books, without the front and back matter at either end."""
    books = []
    path = folder / "text" / "gutenberg_children.jsonl.gz"
    for _, record in read_records(path):
        text = record["text"]
        edge = min(4000, len(text) // 10)
        books.append(Book(record["title"], text[edge:-edge]))
    cut = len(books) - HELD_OUT_BOOKS
    return books[cut:] if held_out else books[:cut]


def storybook(folder: Path) -> list[Book]:
    """Read the African Storybook's stories whose licence is CC BY."""
    path = folder / "text" / "african_storybook.jsonl.gz"
    return [
        Book(record["title"], record["text"])
        for _, record in read_records(path)
        if "License: [CC-BY]" in record["meta"]
    ]


class Passages:
    """Draws passages, each as the answer to somebody who asks for it."""

    def __init__(self, books: Sequence[Book]) -> None:
        self.books = books
        self._lengths = list(accumulate(len(book.text) for book in books))

    def example(self, rng: random.Random, characters: int) -> Example:
        """Ask for a passage of at most so many characters, or for how one goes on."""
        book = rng.choices(self.books, cum_weights=self._lengths)[0]
        sentences = _passage(rng, book.text, characters)
        if len(sentences) > 2 and rng.random() < 0.3:
            question, rest = rng.choice(_GO_ON) + sentences[0], sentences[1:]
        else:
            question, rest = rng.choice(_HEADS).format(t=book.title), sentences
        return Example("language", chat([(question, " ".join(rest))]))


def _passage(rng: random.Random, text: str, characters: int) -> list[str]:
    """Cut out whole sentences from somewhere in a text."""
    start = rng.randint(0, max(0, len(text) - characters))
    cut = _WRAPPED.sub(" ", text[start : start + characters]).strip()
    sentences = [s.strip() for s in _SENTENCE_END.split(cut)]
    inner = sentences[1:-1] if start else sentences[:-1]
    return [s for s in inner if s] or [cut]
