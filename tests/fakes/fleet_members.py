"""Three users to train as a fleet, and what each of them gets from training alone."""

import math
from dataclasses import replace
from pathlib import Path

from noisy_adapter import noisy_adapter
from random_ids import random_ids
from safetensors.torch import load_file
from torch import Tensor
from transformers import PreTrainedModel

from perce.adapter import load_adapter, new_adapter, remove_adapter, save_adapter
from perce.adapter_files import WEIGHTS_FILE
from perce.example import Example
from perce.fleet import Member, Outcome
from perce.hyperparameters import Hyperparameters
from perce.run import TrainResult
from perce.train import train_adapter

ids = random_ids()
HYPER = Hyperparameters(rank=4, alpha=8, epochs=2, learning_rate=1e-2, batch_size=3)


def history(texts: int, persona: int) -> list[Example]:
    """Texts of which two of three share a persona context, and one is without."""
    shared = ids(persona)
    asked = [ids(2 + 3 * (n % 4)) for n in range(texts)]
    return [
        Example((*(shared if n % 3 else ()), *query), tuple(query), tuple(ids(1 + 5 * (n % 3))))
        for n, query in enumerate(asked)
    ]


HISTORIES = {"ann": history(7, 60), "bob": history(2, 35), "eve": history(4, 90)}
"""Users of 3, 1 and 2 steps an epoch, of different lengths."""

Starts = dict[str, Path]


def bobs_start(model: PreTrainedModel, folder: Path) -> Starts:
    """Bob goes on from an adapter of another rank and scaling than the others'."""
    start = folder / "bob@v1"
    adapted = noisy_adapter(model, replace(HYPER, rank=8, alpha=12), 0.1)
    save_adapter(adapted, start)
    remove_adapter(adapted)
    return {"bob": start}


def hyper_of(user: str, hyper: Hyperparameters = HYPER) -> Hyperparameters:
    """Eve has settings of her own."""
    own = replace(hyper, seed=len(user) + ord(user[0]))
    return replace(own, epochs=3, learning_rate=3e-3, batch_size=2) if user == "eve" else own


def members(folder: Path, starts: Starts, hyper: Hyperparameters = HYPER) -> dict[str, Member]:
    return {
        user: Member(examples, hyper_of(user, hyper), folder / user, starts.get(user))
        for user, examples in HISTORIES.items()
    }


def alone(model: PreTrainedModel, member: Member, folder: Path) -> dict[str, Tensor]:
    """What `train_adapter` makes of the member."""
    adapted = (
        new_adapter(model, member.hyper)
        if member.start is None
        else load_adapter(model, member.start)
    )
    train_adapter(adapted, member.examples, member.hyper)
    save_adapter(adapted, folder)
    remove_adapter(adapted)
    return weights(folder)


def weights(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / WEIGHTS_FILE)


def difference(got: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """Relative to the norm of the whole adapter."""
    assert got.keys() == expected.keys()
    apart = math.hypot(*((got[key] - expected[key]).norm().item() for key in expected))
    return apart / math.hypot(*(matrix.norm().item() for matrix in expected.values()))


def finished(outcome: Outcome) -> TrainResult:
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


def assert_equal_alone(
    model: PreTrainedModel, fleet: dict[str, Member], tmp_path: Path, tolerance: float = 1e-4
) -> None:
    for user, member in fleet.items():
        expected = alone(model, member, tmp_path / "alone")
        assert difference(weights(member.folder), expected) <= tolerance, user
