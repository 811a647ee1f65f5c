"""Examples from real and crowd-written conversations, read from a data folder.

Sources (all may be used for weights that ship): Synthetic-Persona-Chat (CC BY 4.0),
ConvAI2 / PersonaChat (CC BY 4.0), Topical-Chat (CDLA-Sharing 1.0).
"""

import csv
import gzip
import random
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Self

import networkx as nx

from perce.datasets.records import read_records
from perce.prompt import Message, fact_items
from scripts.persona.english import sentence
from scripts.persona.example import Example

HELD_OUT_TOPICAL = 100
"""The last so many Topical-Chat conversations are never trained on."""

_GAPS = ((" ' ", "'"), (" n't", "n't"), (" i ", " I "), (" i'", " I'"))
_BEFORE_MARK = re.compile(r"\s+([.,!?;:])")
_REPEATED_MARK = re.compile(r"([.,!?])(\s*\1)+")
_NOT_LETTERS = re.compile(r"[^a-z]")
_HELD_OUT_ONE_IN = 9
_HUMANS_AGAIN = 2
_SENTENCE_START = re.compile(r"([.!?]\s+)([a-z])")


@dataclass(frozen=True, slots=True)
class Conversation:
    """A conversation seen from one side: the speaker's facts, and who said what."""

    facts: tuple[str, ...]
    messages: tuple[Message, ...]


def truecase(text: str) -> str:
    """Undo the lower-casing and tokenising of PersonaChat, as far as rules go."""
    text = f" {text.strip()} "
    for old, new in _GAPS:
        text = text.replace(old, new)
    text = _BEFORE_MARK.sub(r"\1", text.strip())
    text = _REPEATED_MARK.sub(r"\1", text)
    text = _SENTENCE_START.sub(lambda m: m.group(1) + m.group(2).upper(), text)
    return sentence(text)


@dataclass(frozen=True)
class PersonaChat:
    """All conversations with personas, divided so that no persona is on both sides.

    PersonaChat dialogues share their personas, wholly or in single facts, with each other and
    with Synthetic-Persona-Chat. So what is held out is whole families of personas that
    share facts: about a ninth of them.

    Attributes:
        train: Conversations to learn from, from both sources.
        held_out: ConvAI2 conversations of people of whom no fact occurs in `train`.
    """

    train: tuple[Conversation, ...]
    held_out: tuple[Conversation, ...]

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read and divide both sources."""
        human, synthetic = convai2(folder), synthetic_persona_chat(folder)
        held = divide_personas([*human, *synthetic])
        of_humans, of_synthetic = held[: len(human)], held[len(human) :]
        seen = [c for c, out in zip(human, of_humans, strict=True) if not out]
        return cls(
            train=(
                *(c for c, out in zip(synthetic, of_synthetic, strict=True) if not out),
                *seen * _HUMANS_AGAIN,
            ),
            held_out=tuple(c for c, out in zip(human, of_humans, strict=True) if out),
        )

    def holds_out(self, facts: Sequence[str]) -> bool:
        """Whether any of these facts is also that of a held-out person."""
        return any(_plain(fact) in self._held_out_facts for fact in facts)

    @cached_property
    def _held_out_facts(self) -> frozenset[str]:
        return frozenset(_plain(fact) for one in self.held_out for fact in one.facts)


def divide_personas(conversations: Sequence[Conversation]) -> list[bool]:
    """Which conversations are held out: those of about one family of personas in nine."""
    family = _families(conversations)
    names = (family[_plain(conversation.facts[0])] for conversation in conversations)
    return [zlib.crc32(name.encode()) % _HELD_OUT_ONE_IN == 0 for name in names]


def convai2(folder: Path) -> list[Conversation]:
    """Read PersonaChat dialogues; the speaker is the one whose persona is given."""
    found: list[Conversation] = []
    facts: list[str] = []
    messages: list[Message] = []
    with gzip.open(folder / "dialogue" / "convai2_valid.txt.gz", "rt", encoding="utf-8") as lines:
        for line in lines:
            number, _, rest = line.strip().partition(" ")
            if number == "1" and messages:
                found.append(Conversation(tuple(facts), tuple(messages)))
                facts, messages = [], []
            if rest.startswith("your persona: "):
                facts.append(truecase(rest.removeprefix("your persona: ")))
            elif "\t" in rest:
                partner, speaker = rest.split("\t")[:2]
                messages.append({"role": "user", "content": truecase(partner)})
                messages.append({"role": "assistant", "content": truecase(speaker)})
    found.append(Conversation(tuple(facts), tuple(messages)))
    return found


def synthetic_persona_chat(folder: Path) -> list[Conversation]:
    """Read Synthetic-Persona-Chat, each conversation once from either side."""
    found: list[Conversation] = []
    path = folder / "dialogue" / "synthetic_persona_chat_valid.csv"
    with path.open(encoding="utf-8", newline="") as lines:
        for row in csv.DictReader(lines):
            said = []
            for line in row["Best Generated Conversation"].splitlines():
                who, mark, text = line.partition(": ")
                if mark and text.strip():
                    said.append((who.strip(), text.strip()))
            for speaker in ("User 1", "User 2"):
                facts = row[f"{speaker.lower()} personas"].splitlines()
                found.append(
                    Conversation(
                        tuple(truecase(fact) for fact in facts if fact.strip()),
                        _seen_by(speaker, said),
                    )
                )
    return [c for c in found if len(c.messages) >= 2]


def topical_chat(folder: Path, held_out: bool = False) -> list[Conversation]:
    """Read Topical-Chat; nobody has a persona there."""
    found: list[Conversation] = []
    for _, record in read_records(folder / "dialogue" / "topical_chat.jsonl.gz"):
        said = [(turn[0], turn[1].strip()) for turn in record["turns"]]
        found.append(Conversation((), _seen_by("agent_2", said)))
    divided = found[-HELD_OUT_TOPICAL:] if held_out else found[:-HELD_OUT_TOPICAL]
    return [c for c in divided if len(c.messages) >= 2]


class Dialogues:
    """Draws windows of conversations as examples."""

    def __init__(self, conversations: Sequence[Conversation]) -> None:
        self.conversations = conversations

    def example(self, rng: random.Random, turns: int) -> Example:
        """Take up to `turns` exchanges; a quarter of the personas are dropped."""
        chosen = rng.choice(self.conversations)
        exchanges = len(chosen.messages) // 2
        start = 2 * rng.randint(0, max(0, exchanges - turns))
        messages = chosen.messages[start : start + 2 * turns]
        facts = list(chosen.facts)
        rng.shuffle(facts)
        if rng.random() < 0.25:
            facts = []
        return Example("dialogue", messages, fact_items(facts))


def _families(conversations: Sequence[Conversation]) -> dict[str, str]:
    """Name, for every fact, the family of personas that share facts: its first fact by letter."""
    graph = nx.Graph()
    for conversation in conversations:
        facts = [_plain(fact) for fact in conversation.facts]
        graph.add_edges_from((facts[0], fact) for fact in facts)
    return {fact: min(family) for family in nx.connected_components(graph) for fact in family}


def _plain(fact: str) -> str:
    """A fact's letters; the sources write the same fact with and without contractions."""
    full = fact.lower().replace("'ve", " have").replace("'m", " am")
    return _NOT_LETTERS.sub("", full)


def _seen_by(speaker: str, said: Sequence[tuple[str, str]]) -> tuple[Message, ...]:
    """Make the speaker the assistant; join what one side says in a row; begin with the other."""
    messages: list[Message] = []
    for who, text in said:
        role = "assistant" if who == speaker else "user"
        if messages and messages[-1]["role"] == role:
            messages[-1] = {"role": role, "content": f"{messages[-1]['content']} {text}"}
        elif messages or role == "user":
            messages.append({"role": role, "content": text})
    return tuple(messages[: len(messages) // 2 * 2])
