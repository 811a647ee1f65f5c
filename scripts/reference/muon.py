"""Muon: gradient descent whose steps are orthogonal matrices (Jordan et al. 2024).

torch.optim.Muon iterates in bfloat16, which takes a CPU without such instructions twenty times
as long as float32. Here it is float32 throughout, and matrices of one shape are iterated together.

Shapes: S matrices of one shape, R rows, C columns.
"""

from collections import defaultdict
from collections.abc import Iterable
from math import sqrt

import torch
from torch import Tensor, nn

_A, _B, _C = 3.4445, -4.775, 2.0315
_ROUNDS = 5
_EPSILON = 1e-7
_RMS = 0.2
"""That of AdamW's steps; scaled to it, its learning rates fit (Liu et al. 2025, equation 4)."""


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, made orthogonal, with decoupled weight decay.

    Args:
        params: Matrices, none of them an embedding.
        lr: As for AdamW.
        momentum: Share of the last steps' gradients that is kept.
        weight_decay: Share of a weight that is taken away, times `lr`.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
    ) -> None:
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay}
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Change all matrices that have a gradient."""
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[nn.Parameter]] = defaultdict(list)
            for matrix in group["params"]:
                if matrix.grad is not None:
                    by_shape[matrix.shape].append(matrix)
            for matrices in by_shape.values():
                directions_SRC = orthogonal(
                    torch.stack([self._direction(m, group["momentum"]) for m in matrices])
                )
                rate = group["lr"] * _RMS * sqrt(max(matrices[0].shape))
                for matrix, direction_RC in zip(matrices, directions_SRC, strict=True):
                    matrix.mul_(1 - group["lr"] * group["weight_decay"])
                    matrix.sub_(direction_RC, alpha=rate)

    def _direction(self, matrix: nn.Parameter, momentum: float) -> Tensor:
        assert matrix.grad is not None
        state = self.state[matrix]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(matrix)
        average: Tensor = state["momentum_buffer"]
        average.lerp_(matrix.grad, 1 - momentum)
        return matrix.grad.lerp(average, momentum)


def orthogonal(matrices_SRC: Tensor) -> Tensor:
    """Bring all singular values near one (0.7 to 1.2) by a quintic Newton-Schulz iteration."""
    tall = matrices_SRC.shape[1] > matrices_SRC.shape[2]
    x_SRC: Tensor = matrices_SRC.mT if tall else matrices_SRC
    x_SRC = x_SRC / x_SRC.norm(dim=(1, 2), keepdim=True).clamp(min=_EPSILON)
    for _ in range(_ROUNDS):
        gram_SRR = x_SRC @ x_SRC.mT
        x_SRC = _A * x_SRC + (_B * gram_SRR + _C * gram_SRR @ gram_SRR) @ x_SRC
    return x_SRC.mT if tall else x_SRC
