"""Examples from real and crowd-written conversations, read from a data folder.

Sources (all may be used for weights that ship): Synthetic-Persona-Chat (CC BY 4.0),
ConvAI2 / PersonaChat (CC BY 4.0), Topical-Chat (CDLA-Sharing 1.0).
"""

import csv
import gzip
import json
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from perce.prompt import ContextItem, Message
from scripts.persona.english import sentence
from scripts.persona.examples import Example

HELD_OUT_CONVERSATIONS = 100
"""The last so many ConvAI2 conversations are never trained on."""

_GAPS = ((" ' ", "'"), (" n't", "n't"), (" i ", " I "), (" i'", " I'"))
_BEFORE_MARK = re.compile(r"\s+([.,!?;:])")
_REPEATED_MARK = re.compile(r"([.,!?])(\s*\1)+")
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


def convai2(folder: Path, held_out: bool = False) -> list[Conversation]:
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
    cut = len(found) - HELD_OUT_CONVERSATIONS
    return found[cut:] if held_out else found[:cut]


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


def topical_chat(folder: Path) -> list[Conversation]:
    """Read Topical-Chat; nobody has a persona there."""
    found: list[Conversation] = []
    with gzip.open(folder / "dialogue" / "topical_chat.jsonl.gz", "rt", encoding="utf-8") as lines:
        for line in lines:
            said = [(turn[0], turn[1].strip()) for turn in json.loads(line)["turns"]]
            found.append(Conversation((), _seen_by("agent_2", said)))
    return [c for c in found if len(c.messages) >= 2]


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
        return Example("dialogue", messages, tuple(ContextItem("fact", fact) for fact in facts))


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
