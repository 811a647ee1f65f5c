"""Training examples made from the tables: questions about a person, and writing as one.

Every example is a conversation and a persona context. `perce.prompt` turns them into the
prompt, here as in serving; an empty context is the counterfactual without persona.
"""

import random
from collections.abc import Sequence
from dataclasses import replace

from perce.prompt import ContextItem, Message, fact_items
from scripts.persona.english import lower_first, sentence
from scripts.persona.example import Example, chat
from scripts.persona.people import Fact, People, Turn
from scripts.persona.small_talk import SmallTalk
from scripts.persona.tables import Attribute, Category, Split, Tables, divide
from scripts.persona.voices import Voice

_QUALIFIERS = (
    "new", "old", "little", "big", "blue", "red", "green", "local", "cheap", "famous", "plain",
    "Danish", "Italian", "German", "Japanese", "spare", "white", "black", "yellow", "small",
    "special", "village", "summer", "winter", "holiday", "strange", "simple", "modern", "Irish",
    "Greek",
)  # fmt: skip


class Generator:
    """Writes examples from one split of the tables.

    Args:
        tables: The tables.
        split: Whether to draw from training or held-out values, phrasings and voices.
        attributes: What is told of people; by default what the tables' `attributes` tell.
    """

    def __init__(
        self,
        tables: Tables,
        split: Split = "train",
        attributes: Sequence[Attribute] | None = None,
    ) -> None:
        self.tables = tables
        self.split: Split = split
        self.people = People(tables, split, attributes)
        self.small_talk = SmallTalk(tables.small_talk)

    def voice(self, rng: random.Random) -> Voice:
        """Compose a voice."""
        return Voice.draw(rng, self.tables.voices, self.split)

    def questions(self, rng: random.Random, facts: int, turns: int) -> Example:
        """Ask a person several questions; a fifth of them have their persona dropped."""
        known = self.people.facts(rng, facts)
        asked = rng.sample(known, min(turns, len(known)))
        if rng.random() < 0.2:
            guessed = [self.people.guess(rng, fact) for fact in asked]
            said = [Turn(turn.question, turn.answer) for turn in guessed]
            return Example("question", _chat(self._conversation(rng, said)))
        said = [self.people.turn(rng, fact) for fact in asked]
        if rng.random() < 0.2:
            said.insert(rng.randint(0, len(said)), self.people.unanswerable(rng, known))
        said = self._conversation(rng, said)
        context = _fact_items(rng, known)
        if rng.random() < 0.15:
            voice = self.voice(rng)
            context += self.earlier_texts(rng, voice, rng.choice((1, 1, 2)))
            said = [replace(turn, answer=voice.spell(rng, [turn.answer])) for turn in said]
        key = tuple(words for turn in said for words in turn.key)
        return Example("question", _chat(said), tuple(context), key, _about(said))

    def probe(self, rng: random.Random, facts: int) -> Example:
        """Ask one question about a person, for evaluation: open, with a known answer."""
        known = self.people.facts(rng, facts)
        about = rng.choice(known)
        turn = self.people.turn(rng, about)
        kind = "following" if about.attribute.rows else "copied"
        items = list(fact_items(fact.text for fact in known))
        rng.shuffle(items)
        return Example(kind, _chat([turn]), tuple(items), turn.key, _about([turn]))

    def introduction(self, rng: random.Random, facts: int) -> Example:
        """Ask a person to introduce themself: the answer repeats the facts."""
        known = self.people.facts(rng, facts)
        question = rng.choice(self.tables.introductions)
        if rng.random() < 0.1:
            return Example("introduction", _chat([Turn(question, rng.choice(self.tables.unknown))]))
        items = list(fact_items(fact.text for fact in known))
        rng.shuffle(items)
        told = items if rng.random() < 0.7 else items[: rng.randint(1, len(items))]
        answer = " ".join(item.text for item in told)
        return Example("introduction", _chat([Turn(question, answer)]), tuple(items))

    def _conversation(self, rng: random.Random, turns: Sequence[Turn]) -> list[Turn]:
        said = [replace(turn, question=self._said(rng, turn.question)) for turn in turns]
        return self.small_talk.around(rng, said)

    def _said(self, rng: random.Random, question: str) -> str:
        """Put a lead before a question now and then; type it carelessly now and then."""
        if rng.random() < 0.3:
            lead = rng.choice(self.tables.leads)
            whole = lead[-1] in ".!?"
            question = f"{lead} {question if whole else lower_first(question)}"
        if rng.random() < 0.08:
            question = question.lower()
        if rng.random() < 0.06:
            question = question.rstrip("?")
        return question

    def writing(self, rng: random.Random, texts: int, facts: int) -> Example:
        """Write as a person whose earlier texts, and some of whose facts, are known."""
        voice = self.voice(rng)
        known = self.people.facts(rng, facts) if facts else []
        items = list(fact_items(fact.text for fact in known))
        items += self.earlier_texts(rng, voice, texts, known)
        if rng.random() < 0.2:
            query, text = self.text(rng, Voice(length=rng.choice((2, 3, 4))))
            return Example("writing", _chat([Turn(query, text)]))
        query, text = self.text(rng, voice, known)
        return Example("writing", _chat([Turn(query, text)]), tuple(items))

    def earlier_texts(
        self, rng: random.Random, voice: Voice, count: int, known: Sequence[Fact] = ()
    ) -> list[ContextItem]:
        """Write texts of one voice, each with its query."""
        texts = (self.text(rng, voice, known) for _ in range(count))
        return [ContextItem("text", text, query) for query, text in texts]

    def text(self, rng: random.Random, voice: Voice, known: Sequence[Fact] = ()) -> tuple[str, str]:
        """Write one text of a voice; returns its query and the text."""
        category = rng.choice(self.tables.categories)
        subject = _qualified(rng, rng.choice(divide(category.subjects, self.split)))
        happy = rng.random() < voice.cheer
        lines = self._lines(rng, voice, category, subject, happy)
        asides = [fact for fact in known if fact.attribute.writing]
        rng.shuffle(asides)
        wanted = rng.choice((1, 2, 3)) if category.name == "life" else rng.choice((0, 1, 1))
        for fact in asides[:wanted]:
            lines.insert(max(1, len(lines) - 1), fact.fill(rng.choice(fact.attribute.writing)))
        asked = subject
        if subject.startswith("the ") and rng.random() < 0.4:
            asked = sentence(f"a {subject[4:]}")
            asked = asked[:1].lower() + asked[1:]
        query = rng.choice(category.queries).format(s=asked)
        return query, voice.compose(rng, lines, happy)

    def _lines(
        self, rng: random.Random, voice: Voice, category: Category, subject: str, happy: bool
    ) -> list[str]:
        body = category.praise if happy else category.complaints
        other = category.complaints if happy else category.praise
        lines = [rng.choice(category.openings)] if voice.length > 1 else []
        lines += rng.sample(body, max(1, voice.length - 2))
        if voice.length > 3 and rng.random() < 0.3:
            lines.append(f"Still, {lower_first(rng.choice(other))}")
        if voice.length > 2:
            lines.append(rng.choice(category.happy_ends if happy else category.unhappy_ends))
        filled = [voice.fill(rng, line, subject) for line in lines]
        if voice.priority:
            filled.insert(min(1, len(filled)), voice.priority)
        return filled


def _qualified(rng: random.Random, subject: str) -> str:
    """Put a word before the noun now and then, so that subjects must be read, not recalled."""
    if subject.count(" ") != 1 or not subject.startswith("the ") or rng.random() < 0.5:
        return subject
    return f"the {rng.choice(_QUALIFIERS)} {subject[4:]}"


def _fact_items(rng: random.Random, facts: Sequence[Fact]) -> list[ContextItem]:
    texts = [fact.text for fact in facts]
    rng.shuffle(texts)
    if len(texts) > 2 and rng.random() < 0.12:
        texts[:2] = [f"{texts[0]} {texts[1]}"]
    if rng.random() < 0.12:
        texts = [lower_first(text) for text in texts]
    return list(fact_items(texts))


def _about(turns: Sequence[Turn]) -> tuple[tuple[str, ...], ...]:
    return tuple((turn.about,) if turn.about else () for turn in turns)


def _chat(turns: Sequence[Turn]) -> tuple[Message, ...]:
    return chat((turn.question, turn.answer) for turn in turns)
