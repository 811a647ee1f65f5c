"""Exercises in reading: repeat words, or look one up. Only the prompt tells the answer."""

import random
import re
import string
from collections.abc import Callable, Sequence

from scripts.persona.books import Book
from scripts.persona.example import Example, chat
from scripts.persona.names import invented_name

_WORD = re.compile(r"[A-Za-z]{3,}")
_REPEAT = (
    "Say this again:", "Repeat after me:", "Please repeat:", "Write this down:", "Copy this:",
    "Once more:", "Read this back to me:", "Echo:",
)  # fmt: skip
_PAIRS = ("{a}: {b}", "{a} - {b}", "{a} is {b}", "{a} goes with {b}", "{a} means {b}", "{b} = {a}")
_WHAT = (
    "What goes with {a}?", "And {a}?", "Which one is {a}?", "What did I say about {a}?",
    "Look up {a}.", "{a}?", "Tell me the one for {a}.",
)  # fmt: skip
_NEXT = ("What comes after {a}?", "Which word follows {a}?", "Next after {a}?")


class Recall:
    """Writes exercises with words from books, invented names and numbers."""

    def __init__(self, books: Sequence[Book]) -> None:
        self.books = books

    def example(self, rng: random.Random) -> Example:
        """Write one exercise, in one or several turns."""
        exercise: Callable[[random.Random], list[tuple[str, str]]]
        exercise = rng.choices((self._repeat, self._look_up, self._follow), (35, 50, 15))[0]
        return Example("recall", chat(exercise(rng)))

    def _repeat(self, rng: random.Random) -> list[tuple[str, str]]:
        said = ", ".join(self._words(rng, rng.randint(3, 14)))
        return [(f"{rng.choice(_REPEAT)} {said}.", f"{said}.")]

    def _look_up(self, rng: random.Random) -> list[tuple[str, str]]:
        count = rng.randint(2, 9)
        words = self._words(rng, 2 * count)
        pairs = list(zip(words[:count], words[count:], strict=True))
        form = rng.choice(_PAIRS)
        table = ". ".join(form.format(a=a, b=b) for a, b in pairs) + "."
        asked = rng.sample(pairs, rng.randint(1, min(4, count)))
        turns = [(rng.choice(_WHAT).format(a=a), f"{b}.") for a, b in asked]
        turns[0] = (f"{table} {turns[0][0]}", turns[0][1])
        return turns

    def _follow(self, rng: random.Random) -> list[tuple[str, str]]:
        words = self._words(rng, rng.randint(4, 12))
        at = rng.randrange(len(words) - 1)
        question = rng.choice(_NEXT).format(a=words[at])
        return [(f"{', '.join(words)}. {question}", f"{words[at + 1]}.")]

    def _words(self, rng: random.Random, count: int) -> list[str]:
        """Draw different words: from one book, invented, or digits and letters."""
        text = rng.choice(self.books).text
        start = rng.randint(0, max(0, len(text) - 8000))
        found = _WORD.findall(text[start : start + 8000])
        drawn: dict[str, None] = {}
        while len(drawn) < count:
            kind = rng.random()
            if kind < 0.45 or not found:
                drawn[invented_name(rng)] = None
            elif kind < 0.85:
                drawn[rng.choice(found)] = None
            elif kind < 0.93:
                drawn[str(rng.randint(1, 2000))] = None
            else:
                drawn["".join(rng.choices(string.ascii_uppercase, k=rng.randint(2, 4)))] = None
        return list(drawn)
