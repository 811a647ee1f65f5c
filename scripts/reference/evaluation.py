"""How well a model reads a persona: right answers with and without it, and mean PIR.

The people, values and phrasings are held out: none occurs in training.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean

import torch
from transformers import Qwen3ForCausalLM

from perce.prompt import prompt_pair
from scripts.persona.example import Example
from scripts.persona.examples import Generator
from scripts.persona.tables import load_tables
from scripts.reference.batches import collate
from scripts.reference.encoding import Encoded, Encoder
from scripts.reference.generation import answers


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
    """Draw unseen people, 3 to 8 facts each, and one open question about each.

    One half tells of itself in roundabout phrasings, the other one plainly.
    """
    tables = load_tables()
    rng = random.Random(seed)
    roundabout = Generator(tables, "held_out")
    drawn = [roundabout.probe(rng, rng.randint(3, 8)) for _ in range(count - count // 2)]
    plain = Generator(tables, "held_out", tables.plain)
    asked = (plain.probe(rng, rng.randint(3, 8)) for _ in range(count // 2))
    return drawn + [replace(example, kind="plain") for example in asked]


def is_right(example: Example, answer: str) -> bool:
    """Whether an answer contains every word that it must."""
    return all(word.lower() in answer.lower() for word in example.key)


@dataclass(frozen=True, slots=True)
class Probed:
    """How one unseen person's question was answered.

    Attributes:
        kind: The probe's.
        right: Whether the greedy answer states the fact.
        right_without: The same with the persona taken away.
        pir: PIR of the reference answer's tokens, in nats.
    """

    kind: str
    right: bool
    right_without: bool
    pir: torch.Tensor


@torch.no_grad()
def ask(model: Qwen3ForCausalLM, encoder: Encoder, examples: Sequence[Example]) -> list[Probed]:
    """Ask a model about unseen people, with and without their persona."""
    model.eval()
    pairs = [prompt_pair(e.messages[:-1], e.context) for e in examples]
    with_persona = answers(model, encoder, [p.with_persona for p in pairs])
    without = answers(model, encoder, [p.without_persona for p in pairs])
    probed = []
    for example, said, unaided in zip(examples, with_persona, without, strict=True):
        full = prompt_pair(example.messages, example.context)
        likely, otherwise = (
            score(model, encoder.messages(messages), encoder.pad)
            for messages in (full.with_persona, full.without_persona)
        )
        right, right_without = is_right(example, said.text), is_right(example, unaided.text)
        probed.append(Probed(example.kind, right, right_without, likely - otherwise))
    model.train()
    return probed


def read(probed: Sequence[Probed]) -> Reading:
    """Sum up what unseen people's questions were answered with."""
    return Reading(
        people=len(probed),
        right=fmean(one.right for one in probed),
        right_without=fmean(one.right_without for one in probed),
        pir=float(torch.cat([one.pir for one in probed]).mean()),
    )


@torch.no_grad()
def score(model: Qwen3ForCausalLM, encoded: Encoded, pad: int) -> torch.Tensor:
    """Logprobs of the answers' tokens, as a vector."""
    batch = collate([[encoded]], pad, len(encoded.ids))
    hidden_BTC = model.model(input_ids=batch.ids_BT.to(model.device)).last_hidden_state
    logits_NV: torch.Tensor = model.lm_head(hidden_BTC.flatten(0, 1)[batch.at_N.to(model.device)])
    labels_N = batch.labels_N.to(model.device)
    return logits_NV.float().log_softmax(-1).gather(1, labels_N[:, None]).squeeze(1).cpu()
