"""People written by hand, with questions and what just this person would answer."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from perce.prompt import fact_items
from scripts.persona.example import Example, chat
from scripts.persona.tables import TABLES, TableError, read_lines

_DROPPED = 0.25


@dataclass(slots=True)
class Person:
    """Facts about a person, and questions with this person's answers."""

    facts: list[str] = field(default_factory=list)
    turns: list[tuple[str, str]] = field(default_factory=list)


class WrittenPeople:
    """Draws conversations with them.

    Args:
        people: The people.
        others: Draws so many unrelated facts, so that a person is not met twice alike.
    """

    def __init__(
        self, people: Sequence[Person], others: Callable[[random.Random, int], Sequence[str]]
    ) -> None:
        self.people = people
        self.others = others

    def example(self, rng: random.Random) -> Example:
        """Ask one person some of their questions; a quarter of the personas are dropped."""
        person = rng.choice(self.people)
        facts = [*person.facts, *self.others(rng, rng.choice((0, 0, 1, 2, 4)))]
        rng.shuffle(facts)
        if rng.random() < _DROPPED:
            facts = []
        said = rng.sample(person.turns, rng.randint(1, len(person.turns)))
        return Example("person", chat(said), fact_items(facts))


def load_people(folder: Path = TABLES) -> list[Person]:
    """Read all people.

    Raises:
        TableError: A line cannot be read, or a question has no answer.
    """
    people: list[Person] = []
    for path in sorted((folder / "personas").glob("*.txt")):
        question = ""
        for line in read_lines(path):
            mark, _, rest = line.partition(" ")
            match mark:
                case "P":
                    if not people or people[-1].turns:
                        people.append(Person())
                    people[-1].facts.append(rest)
                case "Q" if not question:
                    question = rest
                case "A" if question:
                    people[-1].turns.append((question, rest))
                    question = ""
                case _:
                    raise TableError(f"{path.name}: {line!r} must be P, or Q with its A.")
    return people
