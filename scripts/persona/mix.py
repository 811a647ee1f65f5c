"""The mix: which examples a stage of training sees, in which shares."""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from scripts.persona.books import Passages, gutenberg, storybook
from scripts.persona.dialogue import Dialogues, PersonaChat, topical_chat
from scripts.persona.example import Example
from scripts.persona.examples import Generator
from scripts.persona.recall import Recall
from scripts.persona.tables import load_tables
from scripts.persona.topics import Topics, load_groups, load_topics
from scripts.persona.written import WrittenPeople, load_people

_STORIES_AGAIN = 6
"""The simple stories are few: they count so many times."""


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage of training.

    Attributes:
        until: The share of the run's tokens at which the stage ends.
        language, recall, questions, following, plain, introductions, topics, written, writing,
            persona_chat, topical: Shares of the examples.
        facts: Fewest and most facts of a person.
        turns: Most questions in one conversation.
        thorough: Share of the conversations about facts that ask for every fact, however many:
            one persona is read for several answers.
        passage: Longest passage of a book, in characters; they vary down to a tenth.
    """

    until: float
    language: float = 0.0
    recall: float = 0.0
    questions: float = 0.0
    following: float = 0.0
    plain: float = 0.0
    introductions: float = 0.0
    topics: float = 0.0
    written: float = 0.0
    writing: float = 0.0
    persona_chat: float = 0.0
    topical: float = 0.0
    facts: tuple[int, int] = (2, 6)
    turns: int = 4
    thorough: float = 0.0
    passage: int = 1000


STAGES = (
    Stage(until=0.15, language=0.40, recall=0.38, persona_chat=0.17, topical=0.05),
    Stage(
        until=0.70,
        language=0.01,
        recall=0.03,
        questions=0.28,
        plain=0.20,
        introductions=0.03,
        topics=0.19,
        written=0.10,
        writing=0.03,
        persona_chat=0.11,
        topical=0.02,
        facts=(1, 6),
        turns=6,
    ),
    Stage(
        until=1.0,
        language=0.006,
        recall=0.01,
        questions=0.28,
        plain=0.19,
        introductions=0.03,
        topics=0.20,
        written=0.11,
        writing=0.07,
        persona_chat=0.09,
        topical=0.014,
        facts=(1, 8),
        turns=8,
        passage=7000,
    ),
)
"""First English and how to find a word again, then persons, then everything, longer."""

_FURTHER = Stage(
    until=0.6,
    language=0.005,
    recall=0.01,
    questions=0.21,
    following=0.08,
    plain=0.37,
    introductions=0.02,
    topics=0.12,
    written=0.11,
    writing=0.05,
    persona_chat=0.02,
    topical=0.005,
    facts=(1, 7),
    turns=8,
    thorough=0.7,
)
FURTHER = (_FURTHER, replace(_FURTHER, until=1.0, facts=(1, 8), passage=7000))
"""For a trained model: more plain facts and conclusions from facts, and less PersonaChat, which is
soon known by heart."""


class Mix:
    """An endless, seeded stream of training examples.

    Args:
        data: The folder with `dialogue/` and `text/`.
        seed: Example `i` of a stage is the same in every run with the same seed.
    """

    def __init__(self, data: Path, seed: int) -> None:
        self.books = [*gutenberg(data), *storybook(data) * _STORIES_AGAIN]
        self.passages = Passages(self.books)
        self.recall = Recall(self.books)
        chat = PersonaChat.read(data)
        self.chat = Dialogues(chat.train)
        tables = load_tables()
        self.generator = Generator(tables)
        self.plain = Generator(tables, attributes=tables.plain)
        self.following = Generator(tables, attributes=[a for a in tables.attributes if a.rows])
        others = self.generator.people.statements
        self.topics = Topics(load_topics(), load_groups(), tables.introductions, others)
        people = [person for person in load_people() if not chat.holds_out(person.facts)]
        self.written = WrittenPeople(people, others)
        self.topical = Dialogues(topical_chat(data))
        self.seed = seed

    def examples(self, stage: Stage, start: int) -> Iterator[Example]:
        """Yield examples from number `start` on."""
        number = start
        while True:
            yield self.example(stage, number)
            number += 1

    def example(self, stage: Stage, number: int) -> Example:
        """Write example number `number` of a stage."""
        rng = random.Random(f"{self.seed}:{number}")
        facts = rng.randint(*stage.facts)
        passage = rng.randint(stage.passage // 10, stage.passage)
        turns = facts if rng.random() < stage.thorough else rng.randint(1, stage.turns)
        askers = (
            (stage.questions, self.generator),
            (stage.following, self.following),
            (stage.plain, self.plain),
        )
        kinds: list[tuple[float, Callable[[random.Random], Example]]] = [
            (stage.language, partial(self.passages.example, characters=passage)),
            (stage.recall, self.recall.example),
            *((share, partial(asks.questions, facts=facts, turns=turns)) for share, asks in askers),
            (stage.introductions, partial(self.generator.introduction, facts=facts)),
            (stage.topics, partial(self.topics.example, turns=rng.randint(1, stage.turns))),
            (stage.written, self.written.example),
            (stage.writing, self._writing),
            (stage.persona_chat, partial(self.chat.example, turns=rng.randint(2, 6))),
            (stage.topical, partial(self.topical.example, turns=3)),
        ]
        shares, writers = zip(*kinds, strict=True)
        write: Callable[[random.Random], Example] = rng.choices(writers, shares)[0]
        return write(rng)

    def _writing(self, rng: random.Random) -> Example:
        told = rng.choice((0, 0, 2, 4, 6))
        texts = rng.choices((1, 2, 3, 4, 12), (30, 30, 20, 10, 2))[0]
        return self.generator.writing(rng, texts, told)
