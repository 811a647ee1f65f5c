"""The mix: which examples a stage of training sees, in which shares."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from scripts.persona.dialogue import Dialogues, convai2, synthetic_persona_chat, topical_chat
from scripts.persona.examples import Example, Generator
from scripts.persona.tables import load_tables


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage of training.

    Attributes:
        until: The share of the run's time or tokens at which the stage ends.
        questions, introductions, echoes, writing, persona_chat, topical: Shares of the examples.
        facts: Fewest and most facts of a person.
        turns: Most questions in one conversation.
    """

    until: float
    questions: float
    introductions: float
    echoes: float
    writing: float
    persona_chat: float
    topical: float
    facts: tuple[int, int]
    turns: int


STAGES = (
    Stage(0.52, 0.40, 0.30, 0.30, 0.0, 0.0, 0.0, (2, 5), 4),
    Stage(0.60, 0.75, 0.04, 0.02, 0.10, 0.08, 0.01, (2, 7), 4),
    Stage(1.0, 0.47, 0.02, 0.01, 0.30, 0.18, 0.02, (3, 10), 4),
)
"""First read and repeat, then answer, then everything, with longer contexts."""


class Mix:
    """An endless, seeded stream of training examples.

    Args:
        data: The folder with `dialogue/`.
        seed: Example `i` of a stage is the same in every run with the same seed.
    """

    def __init__(self, data: Path, seed: int) -> None:
        self.generator = Generator(load_tables())
        self.chat = Dialogues([*synthetic_persona_chat(data), *convai2(data), *convai2(data)])
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
        shares = (
            stage.questions,
            stage.introductions,
            stage.echoes,
            stage.writing,
            stage.persona_chat,
            stage.topical,
        )
        facts = rng.randint(*stage.facts)
        match rng.choices(range(len(shares)), shares)[0]:
            case 0:
                return self.generator.questions(rng, facts, rng.randint(1, stage.turns))
            case 1:
                return self.generator.introduction(rng, facts)
            case 2:
                return self.generator.echo(rng, rng.randint(3, 14))
            case 3:
                told = rng.choice((0, 0, 2, 4, 6))
                return self.generator.writing(rng, rng.choices((1, 2, 3, 4), (3, 3, 2, 1))[0], told)
            case 4:
                return self.chat.example(rng, rng.randint(2, 6))
            case _:
                return self.topical.example(rng, 3)
