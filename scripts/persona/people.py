"""Synthetic people: facts about them, and questions that only the facts answer."""

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

from scripts.persona.english import lower_first, sentence, speaks_of_user, to_second_person
from scripts.persona.names import invented_name
from scripts.persona.tables import Attribute, Split, Tables

_NAME_LISTS = frozenset({"first_name", "pet_name", "surname", "city"})
_INVENTED = 0.3
_RESTATED = 0.6
"""Share of the answers that say the fact as it stands, where a person could say it so."""
_FIRST_PERSON = re.compile(r"\b(I|me|my|mine|we|us|our)\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Fact:
    """One known thing: how it is stated and with which values."""

    attribute: Attribute
    values: dict[str, str]
    text: str

    def fill(self, template: str, **more: str) -> str:
        """Put the values into a template."""
        return sentence(template.format(**self.values, **more))

    @property
    def key(self) -> tuple[str, ...]:
        """What a right answer contains."""
        return tuple(self.values[slot] for slot in self.attribute.key)

    @property
    def answers_itself(self) -> bool:
        """Whether it can be said as it stands in answer to a question about it."""
        told = self.text.lower()
        whole = all(value.lower() in told for value in self.key)
        return whole and _FIRST_PERSON.search(self.text) is not None


@dataclass(frozen=True, slots=True)
class Turn:
    """A question and its answer.

    Attributes:
        question: The question.
        answer: The answer.
        key: Words that the answer must contain to be right.
        about: The fact that it is of, as it is stated; empty where no fact tells.
    """

    question: str
    answer: str
    key: tuple[str, ...] = ()
    about: str = ""


class People:
    """Draws people and questions about them from one split of the tables.

    Args:
        tables: The tables.
        split: Whether to draw from training or held-out values and phrasings.
        attributes: What is told of them; by default what the tables' `attributes` tell.
    """

    def __init__(
        self, tables: Tables, split: Split, attributes: Sequence[Attribute] | None = None
    ) -> None:
        self.tables = tables
        self.split: Split = split
        self.attributes = tables.attributes if attributes is None else attributes

    def facts(self, rng: random.Random, count: int) -> list[Fact]:
        """Draw facts about one person; no question fits two of them."""
        facts: list[Fact] = []
        taken: set[str] = set()
        groups: set[str] = set()
        for attribute in rng.sample(self.attributes, min(6 * count, len(self.attributes))):
            if len(facts) == count:
                break
            group = attribute.group or attribute.name
            if group in groups:
                continue
            fact = self.fact(rng, attribute)
            asked = {fact.fill(q) for q in attribute.questions}
            if asked & taken:
                continue
            taken |= asked
            groups.add(group)
            facts.append(fact)
        return facts

    def statements(self, rng: random.Random, count: int) -> list[str]:
        """Draw facts about one person, as they are stated."""
        return [fact.text for fact in self.facts(rng, count)]

    def fact(self, rng: random.Random, attribute: Attribute) -> Fact:
        """Draw values for an attribute and a way to state them."""
        if attribute.rows:
            values = rng.choice(attribute.rows)
        else:
            values = {slot: self._value(rng, name) for slot, name in attribute.slots.items()}
        template = rng.choice(attribute.phrasings("facts", self.split))
        return Fact(attribute, values, sentence(template.format(**values)))

    def turn(self, rng: random.Random, fact: Fact) -> Turn:
        """Ask for a fact, mostly openly, sometimes by a yes-or-no question."""
        attribute = fact.attribute
        if attribute.checks and self.split == "train" and rng.random() < 0.12:
            return self._check(rng, fact)
        question = fact.fill(rng.choice(attribute.phrasings("questions", self.split)))
        answer = fact.fill(rng.choice(attribute.answers))
        if self.split == "train" and fact.answers_itself and rng.random() < _RESTATED:
            answer = fact.text
        flipped = speaks_of_user(question)
        if flipped and rng.random() < 0.2:
            return Turn(flipped, to_second_person(answer), fact.key, fact.text)
        return Turn(question, answer, fact.key, fact.text)

    def unanswerable(self, rng: random.Random, facts: list[Fact]) -> Turn:
        """Ask for something that none of the facts tells."""
        groups = {fact.attribute.group or fact.attribute.name for fact in facts}
        known = {f.fill(q) for f in facts for q in f.attribute.questions}
        while True:
            fact = self.fact(rng, rng.choice(self.attributes))
            if (fact.attribute.group or fact.attribute.name) in groups:
                continue
            question = fact.fill(rng.choice(fact.attribute.phrasings("questions", self.split)))
            if question not in known:
                return Turn(question, rng.choice(self.tables.unknown))

    def guess(self, rng: random.Random, fact: Fact) -> Turn:
        """Ask for a fact of which nothing is known: decline, or make something up."""
        turn = self.turn(rng, fact)
        if rng.random() < 0.6:
            return Turn(turn.question, rng.choice(self.tables.unknown))
        return turn

    def _check(self, rng: random.Random, fact: Fact) -> Turn:
        slot = fact.attribute.key[0]
        right = rng.random() < 0.4
        shown = fact.values[slot] if right else self._value(rng, fact.attribute.slots[slot])
        right = shown == fact.values[slot]
        question = fact.fill(rng.choice(fact.attribute.checks), x=shown)
        answer = fact.fill(fact.attribute.answers[0])
        said = f"{'Yes' if right else 'No'}, {lower_first(answer)}"
        return Turn(question, said, fact.key, fact.text)

    def _value(self, rng: random.Random, name: str) -> str:
        if name in _NAME_LISTS and rng.random() < _INVENTED:
            return invented_name(rng)
        return rng.choice(self.tables.values(name, self.split))
