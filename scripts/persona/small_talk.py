"""Small talk: what is said before, between and after questions, whoever answers."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from scripts.persona.people import Turn
from scripts.persona.tables import TABLES, TableError, read_lines

_GREETED, _INTERRUPTED, _ENDED = 0.15, 0.08, 0.08


@dataclass(slots=True)
class Exchange:
    """Things said, and answers each of which fits all of them."""

    said: list[str] = field(default_factory=list)
    answers: list[str] = field(default_factory=list)

    def turn(self, rng: random.Random) -> Turn:
        """Draw one of each."""
        return Turn(rng.choice(self.said), rng.choice(self.answers))


class SmallTalk:
    """Puts small talk around the turns of a conversation, now and then.

    Args:
        exchanges: By kind: `greeting`, `hello`, `thanks`, `praise` and `goodbye`.
    """

    def __init__(self, exchanges: Mapping[str, Exchange]) -> None:
        self.exchanges = exchanges

    def around(self, rng: random.Random, turns: Sequence[Turn]) -> list[Turn]:
        """Begin with a greeting, interrupt with thanks or praise, end with a goodbye; or not."""
        talk = list(turns)
        if rng.random() < _INTERRUPTED:
            talk.insert(rng.randint(1, len(talk)), self._turn(rng, "thanks", "praise"))
        if rng.random() < _GREETED:
            talk.insert(0, self._turn(rng, "greeting", "greeting", "hello"))
        if rng.random() < _ENDED:
            talk.append(self._turn(rng, "goodbye"))
        return talk

    def _turn(self, rng: random.Random, *kinds: str) -> Turn:
        return self.exchanges[rng.choice(kinds)].turn(rng)


def load_small_talk(folder: Path = TABLES) -> SmallTalk:
    """Read what is said, and what fits as an answer.

    Raises:
        TableError: A line cannot be read.
    """
    exchanges: dict[str, Exchange] = {}
    now = Exchange()
    for line in read_lines(folder / "small_talk.txt"):
        mark, _, rest = line.partition(" ")
        match mark:
            case "=":
                now = exchanges[rest] = Exchange()
            case "Q":
                now.said.append(rest)
            case "A":
                now.answers.append(rest)
            case _:
                raise TableError(f"small_talk.txt: cannot read {line!r}; begin it with =QA.")
    return SmallTalk(exchanges)
