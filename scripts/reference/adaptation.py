"""What a fresh adapter gains: held-out loss of one writer before and after training.

The same dataset, training and measure as in a refresh: context of each text as of its own
time, the newest fifth held out, personal tokens chosen by the base model.
"""

import gzip
import json
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from transformers import PreTrainedModel

from adapt.dataset import ContextBudget, PastText, build_dataset
from perce.adapter import new_adapter, remove_adapter
from perce.evaluate import held_out_losses, mean_loss, mean_personal_loss, personal_mask
from perce.hyperparameters import Hyperparameters
from perce.retrieval import Encoder
from perce.tokens import ChatTokenizer
from perce.train import train_adapter
from scripts.persona.examples import Generator
from scripts.persona.tables import load_tables

_TEXTS = 50
_BUDGET = ContextBudget(tokens=384, texts=3)


@dataclass(frozen=True, slots=True)
class Writer:
    """A person's texts with their queries, oldest first, and facts about the person."""

    name: str
    texts: tuple[tuple[str, str], ...]
    facts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Gain:
    """Held-out losses of one writer in nats per token, before and after."""

    writer: str
    before: float
    after: float
    personal_before: float
    personal_after: float

    @property
    def change(self) -> float:
        """Relative change of the loss on all tokens; below zero is better."""
        return self.after / self.before - 1

    @property
    def personal_change(self) -> float:
        """Relative change of the loss on personal tokens."""
        return self.personal_after / self.personal_before - 1


def invented_writers(count: int, seed: int = 2) -> list[Writer]:
    """Writers with voices, subjects and facts held out of training, 50 texts each."""
    generator = Generator(load_tables(), "held_out")
    writers = []
    for number in range(count):
        rng = random.Random(f"writer {seed}:{number}")
        voice = generator.voice(rng)
        known = generator.people.facts(rng, 6)
        texts = tuple(generator.text(rng, voice, known) for _ in range(_TEXTS))
        writers.append(Writer(f"voice {number}", texts, tuple(fact.text for fact in known)))
    return writers


def real_writers(file: Path, count: int, most_texts: int = _TEXTS) -> list[Writer]:
    """The users with most texts of a file with `user`, `order`, `query` and `text` a line."""
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        records = sorted((json.loads(line) for line in lines), key=lambda r: r["order"])
    texts: dict[str, list[tuple[str, str]]] = {}
    for record in records:
        texts.setdefault(record["user"], []).append((record["query"], record["text"]))
    chosen = sorted(texts, key=lambda user: (-len(texts[user]), user))[:count]
    return [Writer(user, tuple(texts[user][-most_texts:])) for user in chosen]


def gain(
    model: PreTrainedModel,
    tokenizer: ChatTokenizer,
    encoder: Encoder,
    writer: Writer,
    hyper: Hyperparameters,
) -> Gain:
    """Train a fresh adapter on a writer's older texts and measure it on the newest fifth."""
    whole = encoder.encode([f"{query}\n{text}" for query, text in writer.texts])
    queries = encoder.encode([query for query, _ in writer.texts])
    past = [
        PastText(number, query, text, float(number), whole[number], queries[number])
        for number, (query, text) in enumerate(writer.texts)
    ]
    dataset = build_dataset(past, writer.facts, tokenizer, _BUDGET, hyper.max_length)
    masks = personal_mask(model, dataset.held_out)
    before = held_out_losses(model, dataset.held_out)
    adapted = new_adapter(model, hyper)
    try:
        train_adapter(adapted, dataset.train, hyper)
        after = held_out_losses(adapted, dataset.held_out)
    finally:
        remove_adapter(adapted)
    return Gain(
        writer.name,
        mean_loss(before),
        mean_loss(after),
        mean_personal_loss(before, masks),
        mean_personal_loss(after, masks),
    )


def summary(gains: Sequence[Gain]) -> dict[str, float]:
    """Medians over writers."""
    return {
        "writers": len(gains),
        "change": median(g.change for g in gains),
        "personal_change": median(g.personal_change for g in gains),
        "loss_before": median(g.before for g in gains),
        "loss_after": median(g.after for g in gains),
        "personal_before": median(g.personal_before for g in gains),
        "personal_after": median(g.personal_after for g in gains),
    }


def gains(
    model: PreTrainedModel,
    tokenizer: ChatTokenizer,
    writers: Iterable[Writer],
    hyper: Hyperparameters,
) -> list[Gain]:
    """Measure several writers, one after the other, over one base model."""
    encoder = Encoder()
    return [gain(model, tokenizer, encoder, writer, hyper) for writer in writers]
