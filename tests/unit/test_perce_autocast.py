"""Training under bfloat16 autocast: near float32, and the same with checkpointing."""

from pathlib import Path

import pytest
import torch
from noisy_adapter import noisy_adapter
from torch import Tensor

from perce.example import Example
from perce.hyperparameters import Hyperparameters
from perce.model import load_model
from perce.train import train_adapter

PERSONA = tuple(range(3, 60))
EXAMPLES = [
    Example((*PERSONA, n, n + 1), (n, n + 1), tuple(range(100 + n, 120 + 2 * n))) for n in range(8)
]


def change(folder: Path, **options: bool | int) -> Tensor:
    """What training changed in an adapter, end to end."""
    hyper = Hyperparameters(rank=4, epochs=1, batch_size=4, **options)  # type: ignore[arg-type]  # by name
    model = noisy_adapter(load_model(str(folder), "cpu"), hyper, 0.05)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    before = torch.cat([parameter.detach().flatten() for parameter in parameters])
    train_adapter(model, EXAMPLES, hyper)
    assert {parameter.dtype for parameter in parameters} == {torch.float32}
    return torch.cat([parameter.detach().flatten() for parameter in parameters]) - before


@pytest.mark.parametrize("group_size", [1, 4])
def test_an_adapter_comes_out_near_that_of_float32(tiny_model_dir: Path, group_size: int) -> None:
    exact = change(tiny_model_dir, group_size=group_size)
    near = change(tiny_model_dir, group_size=group_size, autocast=True)
    cosine = torch.nn.functional.cosine_similarity(near, exact, dim=0).item()
    assert 0.9 < cosine < 0.99999


@pytest.mark.parametrize("group_size", [1, 4])
def test_checkpointing_changes_nothing_under_autocast(
    tiny_model_dir: Path, group_size: int
) -> None:
    kept = change(tiny_model_dir, group_size=group_size, autocast=True)
    again = change(
        tiny_model_dir, group_size=group_size, autocast=True, gradient_checkpointing=True
    )
    assert (again - kept).norm() <= 1e-5 * kept.norm()
