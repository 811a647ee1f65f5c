"""Topics: things that shape what a person says even where nobody names them.

A topic is known from any of its facts, and shows in answers to general questions ("How was your
day?"): the answer's words follow from the fact without repeating it.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from perce.prompt import fact_items
from scripts.persona.example import Example, chat
from scripts.persona.tables import TABLES, TableError, read_lines

_DROPPED = 0.25
_DIRECT = 0.4
_INTRODUCED = 0.06


@dataclass(slots=True)
class Topic:
    """One topic.

    Attributes:
        name: Its name in the table.
        direct: The group of general questions that any of its facts answers.
        facts: Ways to say it of oneself.
        answers: Group of a question, and what a person with this topic answers.
    """

    name: str
    direct: str
    facts: list[str] = field(default_factory=list)
    answers: list[tuple[str, str]] = field(default_factory=list)


class Topics:
    """Writes conversations in which general questions are answered from topics.

    Args:
        topics: The topics.
        questions: General questions by group.
        introductions: Ways to ask who someone is.
        others: Draws so many unrelated facts about a person.
    """

    def __init__(
        self,
        topics: Sequence[Topic],
        questions: Mapping[str, Sequence[str]],
        introductions: Sequence[str],
        others: Callable[[random.Random, int], Sequence[str]],
    ) -> None:
        self.topics = topics
        self.questions = questions
        self.introductions = introductions
        self.others = others

    def example(self, rng: random.Random, turns: int) -> Example:
        """Write a conversation of some turns with somebody who has one to four topics."""
        chosen = rng.sample(self.topics, rng.choice((1, 2, 2, 3, 4)))
        told = {t.name: rng.sample(t.facts, rng.choice((1, 1, 1, 2))) for t in chosen}
        facts = [fact for known in told.values() for fact in known]
        facts += self.others(rng, rng.choice((0, 1, 2, 3)))
        rng.shuffle(facts)
        if rng.random() < _INTRODUCED:
            said = [(rng.choice(self.introductions), _retold(rng, chosen, told))]
            about: list[tuple[str, ...]] = []
        else:
            asked = rng.choices(chosen, k=turns)
            said = [self._turn(rng, topic, told) for topic in asked]
            about = [tuple(told[topic.name]) for topic in asked]
        if rng.random() < _DROPPED:
            facts = []
        return Example("topic", chat(said), fact_items(facts), about=tuple(about))

    def _turn(
        self, rng: random.Random, topic: Topic, told: Mapping[str, Sequence[str]]
    ) -> tuple[str, str]:
        if rng.random() < _DIRECT:
            other = [fact for fact in topic.facts if fact not in told[topic.name]]
            answer = rng.choice(other if rng.random() < 0.5 else told[topic.name])
            return rng.choice(self.questions[topic.direct]), answer
        group, answer = rng.choice(topic.answers)
        return rng.choice(self.questions[group]), answer


def load_topics(folder: Path = TABLES) -> list[Topic]:
    """Read all topics; a "D" line names the group of direct questions of those below it.

    Raises:
        TableError: A line cannot be read.
    """
    topics: list[Topic] = []
    for path in sorted((folder / "topics").glob("*.txt")):
        direct = "self"
        for line in read_lines(path):
            mark, _, rest = line.partition(" ")
            match mark:
                case "D":
                    direct = rest
                case "=":
                    topics.append(Topic(rest, direct))
                case "F":
                    topics[-1].facts.append(rest)
                case "M":
                    group, _, answer = rest.partition(" ")
                    topics[-1].answers.append((group, answer))
                case _:
                    raise TableError(f"{path.name}: cannot read {line!r}; begin it with D=FM.")
    return topics


def load_groups(folder: Path = TABLES) -> dict[str, list[str]]:
    """Read the general questions of each group."""
    groups: dict[str, list[str]] = {}
    name = ""
    for line in read_lines(folder / "groups.txt"):
        if line.startswith("= "):
            name = line[2:]
            groups[name] = []
        else:
            groups[name].append(line)
    return groups


def _retold(rng: random.Random, chosen: Sequence[Topic], told: Mapping[str, Sequence[str]]) -> str:
    """Say each topic once, in other words than the persona's."""
    lines = [rng.choice([f for f in t.facts if f not in told[t.name]]) for t in chosen]
    return " ".join(lines)
