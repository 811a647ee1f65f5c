"""Answers of the reference model to conversations."""

from collections.abc import Sequence
from dataclasses import dataclass

from transformers import Qwen3ForCausalLM

from perce.generation import generate_replies
from perce.prompt import Message
from scripts.reference.encoding import Encoder

_BATCH = 20


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model said, and whether it ended by itself, before its tokens ran out."""

    text: str
    ended: bool


def answers(
    model: Qwen3ForCausalLM,
    encoder: Encoder,
    prompts: Sequence[Sequence[Message]],
    tokens: int = 40,
    temperature: float = 0.0,
) -> list[Answer]:
    """Answer conversations that end with a user message; temperature 0 is greedy."""
    replies = generate_replies(
        model, [encoder.prompt(p) for p in prompts], encoder.end, tokens, temperature, _BATCH
    )
    decode = encoder.tokenizer.decode
    return [Answer(decode(r.ids, skip_special_tokens=True), r.ended) for r in replies]
