"""How well a model reads a persona: right answers with and without it, and mean PIR.

The people, values and phrasings are held out: none occurs in training.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import Qwen3ForCausalLM

from perce.prompt import Message, prompt_pair
from scripts.persona.example import Example
from scripts.persona.examples import Generator
from scripts.persona.tables import load_tables
from scripts.reference.batches import Encoder, collate
from scripts.reference.generation import Answer, answers


@dataclass(frozen=True, slots=True)
class Reading:
    """Figures over unseen people.

    Attributes:
        people: How many.
        right: Share of greedy answers that state the fact.
        right_without: The same with the persona taken away.
        pir: Mean PIR of the reference answers' tokens, in nats.
    """

    people: int
    right: float
    right_without: float
    pir: float


def probes(count: int, seed: int = 1) -> list[Example]:
    """Draw unseen people, 3 to 8 facts each, and one open question about each."""
    generator = Generator(load_tables(), "held_out")
    rng = random.Random(seed)
    return [generator.probe(rng, rng.randint(3, 8)) for _ in range(count)]


def is_right(example: Example, answer: str) -> bool:
    """Whether an answer contains every word that it must."""
    return all(word.lower() in answer.lower() for word in example.key)


def _right(examples: Sequence[Example], said: Sequence[Answer]) -> int:
    return sum(is_right(e, answer.text) for e, answer in zip(examples, said, strict=True))


@torch.no_grad()
def read(model: Qwen3ForCausalLM, encoder: Encoder, examples: Sequence[Example]) -> Reading:
    """Ask a model about unseen people."""
    model.eval()
    pairs = [prompt_pair(e.messages[:-1], e.context) for e in examples]
    with_persona = answers(model, encoder, [list(p.with_persona) for p in pairs])
    without = answers(model, encoder, [list(p.without_persona) for p in pairs])
    full = [prompt_pair(e.messages, e.context) for e in examples]
    pir = [
        score(model, encoder, list(p.with_persona)) - score(model, encoder, list(p.without_persona))
        for p in full
    ]
    model.train()
    count = len(examples)
    return Reading(
        people=count,
        right=_right(examples, with_persona) / count,
        right_without=_right(examples, without) / count,
        pir=float(torch.cat(pir).mean()),
    )


@torch.no_grad()
def score(model: Qwen3ForCausalLM, encoder: Encoder, messages: Sequence[Message]) -> torch.Tensor:
    """Logprobs of the answers' tokens, as a vector."""
    batch = collate([encoder.messages(messages)], encoder.pad)
    hidden_BTC = model.model(input_ids=batch.ids_BT.to(model.device)).last_hidden_state
    logits_NV: torch.Tensor = model.lm_head(hidden_BTC.flatten(0, 1)[batch.at_N.to(model.device)])
    labels_N = batch.labels_N.to(model.device)
    return logits_NV.float().log_softmax(-1).gather(1, labels_N[:, None]).squeeze(1).cpu()
