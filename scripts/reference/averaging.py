"""Weights between those that a training started from and those that it ended with.

Both ends answer some questions that the other one misses; their average lies in a flatter
region of the loss and answers more than either (Wortsman et al. 2022, "Robust fine-tuning of
zero-shot models").
"""

import torch
from torch import nn


@torch.no_grad()
def go_back(trained: nn.Module, start: nn.Module, share: float) -> None:
    """Take a trained model back to a share of the way from where it started, in place.

    Args:
        trained: The model.
        start: The same architecture, with the weights that the training started from.
        share: 1 leaves the model as it is, 0 undoes the training.
    """
    if not 0 <= share <= 1:
        raise ValueError("share must lie in [0, 1].")
    before = dict(start.named_parameters())
    for name, weight in trained.named_parameters():
        weight.lerp_(before[name].to(weight.device, weight.dtype), 1 - share)
