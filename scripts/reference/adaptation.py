"""What a fresh adapter gains: held-out loss of one writer before and after training.

The same dataset, training and measure as in a refresh: context of each text as of its own
time, the newest fifth held out, personal tokens chosen by the base model.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from adapt.dataset import ContextBudget, Recipe
from perce.datasets.writers import Writer, Written, read_users, split_by_order
from perce.evaluate import held_out_losses, mean_loss, mean_personal_loss, personal_mask
from perce.hyperparameters import Hyperparameters
from scripts.attune.bench.base import Base
from scripts.attune.bench.users.measure import adapted
from scripts.attune.bench.users.subject import prepare
from scripts.persona.examples import Generator
from scripts.persona.tables import load_tables

_TEXTS = 50
_BUDGET = ContextBudget(tokens=384, texts=3)


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
        texts = [Written(*generator.text(rng, voice, known)) for _ in range(_TEXTS)]
        writers.append(split_by_order(f"voice {number}", texts))
    return writers


def real_writers(file: Path, count: int) -> list[Writer]:
    """The users with most texts of a file in the users format, 50 texts each at most."""
    return read_users(file, _TEXTS)[:count]


def gain(base: Base, writer: Writer, hyper: Hyperparameters) -> Gain:
    """Train a fresh adapter on a writer's older texts and measure it on the newest fifth."""
    subject = prepare(writer, base, Recipe(_BUDGET, hyper.max_length))
    masks = personal_mask(base.model, subject.test)
    before = held_out_losses(base.model, subject.test)
    with adapted(base, subject.train, hyper) as trained:
        after = held_out_losses(trained.model, subject.test)
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
