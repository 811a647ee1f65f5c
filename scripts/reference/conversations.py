"""Conversations to read: sampled answers to unseen people's questions, and ten-turn chats.

Whether an answer is fluent, on topic and true to the persona is for a person to judge; here
is what a machine can see: does a reply end, does it repeat itself or an earlier one.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import Qwen3ForCausalLM

from perce.prompt import Message, fact_items, prompt_pair
from scripts.attune.up.demo import Persona
from scripts.persona.dialogue import Conversation
from scripts.persona.tables import read_lines
from scripts.reference.encoding import Encoder
from scripts.reference.generation import answers

_HERE = Path(__file__).parent
_TEMPERATURE = 0.4
_TOKENS = 120
_GRAM = 4


@dataclass(frozen=True, slots=True)
class Asked:
    """A question to a person, and the sampled answer."""

    facts: tuple[str, ...]
    question: str
    answer: str


@dataclass(frozen=True, slots=True)
class Chat:
    """A ten-turn chat as one person.

    Attributes:
        name: The person's.
        turns: What was said, in pairs.
        ended: Replies that ended by themselves.
        looped: Replies in which four words in a row occur three times or more.
        repeated: Replies that were said before, word for word.
    """

    name: str
    turns: tuple[tuple[str, str], ...]
    ended: int
    looped: int
    repeated: int


def ask_people(
    model: Qwen3ForCausalLM, encoder: Encoder, people: Sequence[Conversation], seed: int = 0
) -> list[Asked]:
    """Ask each of the fixed questions to a person who has the fact that it is about.

    Where several people have it, the questions take turns among them.
    """
    pairs = []
    for number, line in enumerate(read_lines(_HERE / "questions.txt")):
        fact, _, question = line.partition(" | ")
        able = [p.facts for p in people if fact in " ".join(p.facts).lower()]
        pairs.append((able[number % len(able)], question))
    prompts = [
        prompt_pair([{"role": "user", "content": q}], fact_items(facts)).with_persona
        for facts, q in pairs
    ]
    torch.manual_seed(seed)
    said = answers(model, encoder, prompts, _TOKENS, _TEMPERATURE)
    return [Asked(f, q, answer.text) for (f, q), answer in zip(pairs, said, strict=True)]


def ten_turns(
    model: Qwen3ForCausalLM, encoder: Encoder, people: Sequence[Persona], seed: int = 0
) -> list[Chat]:
    """Chat ten turns as each demo persona, with their facts in the prompt."""
    torch.manual_seed(seed)
    return [_chat(model, encoder, person) for person in people]


def _chat(model: Qwen3ForCausalLM, encoder: Encoder, person: Persona) -> Chat:
    context = fact_items(person.facts)
    messages: list[Message] = []
    said: list[str] = []
    ended = 0
    turns = read_lines(_HERE / "small_talk.txt")
    for question in turns:
        messages.append({"role": "user", "content": question})
        prompt = prompt_pair(messages, context).with_persona
        (answer,) = answers(model, encoder, [prompt], _TOKENS, _TEMPERATURE)
        messages.append({"role": "assistant", "content": answer.text})
        said.append(answer.text)
        ended += answer.ended
    return Chat(
        name=person.name,
        turns=tuple(zip(turns, said, strict=True)),
        ended=ended,
        looped=sum(map(repeats_itself, said)),
        repeated=len(said) - len(set(said)),
    )


def transcript(asked: Sequence[Asked], chats: Sequence[Chat]) -> str:
    """Everything that was said, as Markdown."""
    return "\n".join([*_asked_lines(asked), "", *_chat_lines(chats)]) + "\n"


def _asked_lines(asked: Sequence[Asked]) -> Iterator[str]:
    yield f"## {len(asked)} questions to unseen people"
    for number, one in enumerate(asked, 1):
        yield f"\n{number}. *{' '.join(one.facts)}*  "
        yield f"   **{one.question}**  "
        yield f"   {one.answer}"


def _chat_lines(chats: Sequence[Chat]) -> Iterator[str]:
    for chat in chats:
        yield f"## Ten turns as {chat.name}\n"
        for question, answer in chat.turns:
            yield f"- **{question}**  \n  {answer}"
        yield ""


def repeats_itself(text: str) -> bool:
    """Whether four words in a row occur three times or more."""
    words = text.lower().split()
    grams = [tuple(words[i : i + _GRAM]) for i in range(len(words) - _GRAM + 1)]
    return any(grams.count(gram) > 2 for gram in set(grams))
